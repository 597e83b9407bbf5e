"""TryOffDiff, all versions: against a plain computation in the authors' order, and what training and sampling must keep."""

from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from torch import nn
from torch.nn.functional import layer_norm
from torchvision.transforms.v2 import functional as vision

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.tryoffdiff import TryOffDiff
from fashiongen.methods.tryoffdiff.network import AdapterLayer, from_square, to_square
from fashiongen.methods.tryoffdiff.published import UnscaledEuler
from fashiongen.nn import noise
from fashiongen.nn.parts import LatentCodec
from fashiongen.nn.warmup import WarmupLinear

V1 = {"version": "v1", "sampler": "pndm"}
SINGLE = {"version": "v2-single", "sampler": "euler", "karras": True}
MULTI = {"version": "v2-multi", "sampler": "euler", "karras": True}
VERSIONS = pytest.mark.parametrize("settings", [V1, SINGLE, MULTI], ids=lambda settings: settings["version"])


def build(**settings) -> TryOffDiff:
    torch.manual_seed(0)
    return TryOffDiff(**{"image_size": 64, "steps": 3, **settings}).eval()


@pytest.fixture(scope="module")
def v1():
    return build(**V1)


@pytest.fixture
def few(people):
    return people.select([0, 4])


def padded(images, side):
    """The authors' transform, with torchvision's functions."""
    height, width = images.shape[-2:]
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    square = vision.pad(images, [left, top, longer - width - left, longer - height - top], padding_mode="edge")
    return vision.resize(square, [side, side], antialias=True)


def plain_context(method, tokens):
    """The adapter as described: transformer layer (v1), a linear map over the tokens, layer norm."""
    network = method.network
    if method.version == "v1":
        layer = nn.TransformerEncoderLayer(tokens.shape[-1], 8, batch_first=True).eval()
        layer.load_state_dict(network.transformer.state_dict())
        tokens = layer(tokens)
    mixed = torch.einsum("ln,bnd->bld", network.proj.weight, tokens) + network.proj.bias[:, None]
    normed = layer_norm(mixed, mixed.shape[-1:], network.norm.weight, network.norm.bias)
    return normed @ network.resize.weight.T  # at the published sizes there is no such map


@torch.no_grad()
def plain_images(method, batch):
    """Sample in the authors' order: all is encoded anew in each step, and guidance takes two passes."""
    unscaled = bool(method.network.unscaled)
    if method.version == "v1":
        scheduler = PNDMScheduler.from_config(method.schedule.config, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    else:
        scheduler = EulerDiscreteScheduler.from_config(method.schedule.config, timestep_spacing="linspace", use_karras_sigmas=True)
    scheduler.set_timesteps(method.sampling.steps)
    scheduler.is_scale_input_called = unscaled
    labels = torch.tensor([{"upper": 0, "lower": 1, "full": 2}[category] for category in batch.category])
    latents = noise.normal(noise.keys(batch.ids, 0, "sample", 0, 0), (4, 16, 16))
    latents = latents if unscaled else latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        tokens = method.siglip(padded(to_float(batch.person), 64)).last_hidden_state
        seen = latents if unscaled else scheduler.scale_model_input(latents, timestep)
        null, full = (
            method.network.unet(
                seen,
                timestep,
                encoder_hidden_states=plain_context(method, condition),
                class_labels=labels if method.version == "v2-multi" else None,
            ).sample
            for condition in (torch.zeros_like(tokens), tokens)
        )
        result = scheduler.step(null + 2.0 * (full - null), timestep, latents)
        latents = result.prev_sample
    decoded = method.codec.vae.decode((result.pred_original_sample if unscaled else latents) / method.codec.scaling).sample
    return decoded.clamp(-1, 1)[..., 8:56]


def with_published_flag(method):
    method.network.unscaled.fill_(True)
    return method


@VERSIONS
def test_sampling_is_the_plain_loop(settings, people):
    method = build(**settings)
    people = replace(people.select([0, 1, 2]), category=["lower", "full", "upper"])
    ours = method.take_off(people.without_target())
    assert ours.shape == people.person.shape and ours.min() >= -1 and ours.max() <= 1
    torch.testing.assert_close(ours, plain_images(method, people), atol=1e-4, rtol=0)


def test_sampling_of_the_authors_v2_weights_is_their_loop(few):
    """Unit variance, unscaled input, and the last estimate of the latents without noise, which is what the last step returns."""
    clean, published = build(**MULTI), with_published_flag(build(**MULTI))
    ours = published.take_off(few)
    torch.testing.assert_close(ours, plain_images(published, few), atol=1e-4, rtol=0)
    assert (ours - clean.take_off(few)).abs().mean() > 0.05


@VERSIONS
@torch.no_grad()
def test_the_adapter_is_the_described_layers(settings):
    method = build(**settings)
    tokens = torch.randn(3, 64, 96)
    context = method.network.context(tokens)
    assert context.shape == (3, 77, 64)
    torch.testing.assert_close(context, plain_context(method, tokens), atol=1e-5, rtol=1e-5)
    assert (method.network.transformer is None) == (settings["version"] != "v1")


def test_the_second_version_starts_with_a_xavier_projection():
    bound = (6 / (77 + 64)) ** 0.5
    weights = {name: build(**settings).network.proj.weight.abs().max().item() for name, settings in (("v1", V1), ("v2", SINGLE))}
    assert 0.95 * bound < weights["v2"] <= bound and weights["v1"] <= 64**-0.5 < 0.95 * bound


@torch.no_grad()
def test_dropout_in_the_adapter_belongs_to_the_sample():
    torch.manual_seed(0)
    layer, tokens, ids = AdapterLayer(16, 0.25), torch.randn(4, 8, 16), ["a", "b", "c", "d"]

    def run(rows):
        return layer(tokens[rows], [noise.keys([ids[row] for row in rows], place) for place in range(3)])

    whole = run([0, 1, 2, 3])
    torch.testing.assert_close(torch.cat([run([row]) for row in range(4)]), whole)
    assert not torch.allclose(whole, layer(tokens), atol=0.1)
    values = torch.ones(4, 50, 200)
    kept = layer._drop(values, noise.keys(ids, "x"))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75]) and (kept == 0).float().mean() == pytest.approx(0.25, abs=0.01)


@torch.no_grad()
def test_a_dropped_condition_is_zero_tokens(v1, people):
    tokens = v1.encoded("tokens", people)
    seen = []
    handle = v1.network.transformer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for probability in (0.0, 0.5, 1.0):
        v1.condition_dropout = probability
        v1.denoising_loss(people, ("train", 1), training=True)
    v1.denoising_loss(people, ("val",), training=False)
    handle.remove()
    v1.condition_dropout = 0.0
    assert torch.equal(seen[0], tokens) and not seen[2].any() and torch.equal(seen[3], tokens)
    dropped = (seen[1] == 0).flatten(1).all(dim=1)
    assert 0 < dropped.sum() < len(people) and torch.equal(seen[1][~dropped], tokens[~dropped])


@VERSIONS
@torch.no_grad()
def test_guidance_of_one_computes_one_half(settings, few, monkeypatch):
    method = build(**settings)
    rows, forward = [], method.network.unet.forward
    monkeypatch.setattr(method.network.unet, "forward", lambda *args, **kwargs: (rows.append(len(args[0])), forward(*args, **kwargs))[1])
    images = []
    for scale in (1.0, 1.0 + 1e-6):
        method.sampling = replace(method.sampling, scale=scale)
        images.append(method.take_off(few))
    predictions = 4 if settings["version"] == "v1" else 3  # pndm predicts one step twice
    assert rows == [2] * predictions + [4] * predictions
    torch.testing.assert_close(*images, atol=1e-3, rtol=0)


@torch.no_grad()
def test_the_person_is_encoded_once(v1, few, monkeypatch):
    rows, forward = [], v1.siglip.forward
    monkeypatch.setattr(v1.siglip, "forward", lambda pixels, **kwargs: (rows.append(tuple(pixels.shape)), forward(pixels, **kwargs))[1])
    contexts, context = [], v1.network.context
    monkeypatch.setattr(v1.network, "context", lambda tokens, *rest: (contexts.append(len(tokens)), context(tokens, *rest))[1])
    v1.take_off(few)
    assert rows == [(2, 3, 64, 64)] and contexts == [2, 1], "the unconditional context is one for all samples"


def test_the_truth_and_the_batch_do_not_matter(v1, people):
    people = people.select([0, 2, 4])
    whole = v1.take_off(people.without_target())
    spoilt = replace(people, garment=255 - people.garment, garment_mask=~people.garment_mask)
    assert torch.equal(v1.take_off(spoilt), whole)
    for index in (0, 2):
        torch.testing.assert_close(v1.take_off(people.select([index]))[0], whole[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (64, 47), (47, 64), (33, 33)])
def test_cropping_back_undoes_padding(size):
    images = torch.rand(2, 3, *size)
    square = to_square(images, max(size))
    assert square.shape == (2, 3, max(size), max(size)) and torch.equal(square, padded(images, max(size)))
    assert torch.equal(from_square(square, size), images)


def test_squares_are_the_authors_at_other_sizes_too():
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    for side in (32, 96):
        torch.testing.assert_close(to_square(images, side), padded(images, side), atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 32, 32), 0.5)
    torch.testing.assert_close(from_square(flat, (64, 48)), torch.full((1, 3, 64, 48), 0.5))


@torch.no_grad()
def test_the_class_matters_to_the_multi_model_alone(few):
    for settings, matters in ((SINGLE, False), (MULTI, True)):
        method = build(**settings)
        uppers, lowers = (method.take_off(replace(few, category=[category] * 2)) for category in ("upper", "lower"))
        assert torch.equal(uppers, lowers) != matters


@VERSIONS
def test_training_draws_belong_to_the_sample(settings, people):
    method = build(condition_dropout=0.5, **settings)
    with torch.no_grad():
        whole = method.denoising_loss(people, ("train", 7), training=True)
        parts = [method.denoising_loss(people.select([index]), ("train", 7), training=True) for index in range(len(people))]
        torch.testing.assert_close(torch.stack(parts).mean(), whole)
        assert method.denoising_loss(people, ("train", 8), training=True) != whole


@VERSIONS
def test_a_few_steps_lower_the_loss_and_train_what_they_should(settings, few):
    method = build(**settings).train()
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    optimizer = torch.optim.Adam(method.network.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        loss = method.denoising_loss(few, ("train", 0), training=False)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0], losses
    moved = {name for name, parameter in method.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert moved == {f"network.{name}" for name, _ in method.network.named_parameters()}
    assert all(key.startswith("network.") for key in method.state_dict())


def test_a_step_from_cached_encodings_runs_no_frozen_encoder(people, monkeypatch):
    method = build(cache_encodings=True, **V1).train()
    first = method.denoising_loss(people, ("train", 0), training=True)
    monkeypatch.setattr(LatentCodec, "moments", None)
    monkeypatch.setattr(type(method.siglip), "forward", None)
    assert torch.equal(method.denoising_loss(people, ("train", 0), training=True), first)


def test_gradient_checkpointing_changes_no_gradient(few):
    gradients = []
    for checkpointing in (False, True):
        method = build(gradient_checkpointing=checkpointing, **V1).train()
        method.denoising_loss(few, ("train", 0), training=True).backward()
        gradients.append({name: p.grad for name, p in method.network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_low_precision_keeps_noise_and_images_in_float32(few):
    method = build(**V1)
    exact = method.denoising_loss(few, ("val",), training=False)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method.denoising_loss(few, ("val",), training=False)
        assert method.take_off(few).dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0)
    method.bfloat16()  # as DeepSpeed does it
    torch.testing.assert_close(method.denoising_loss(few, ("val",), training=True), exact, rtol=0.1, atol=0)


# ---- the optimizer


def groups_of(method):
    names = {id(parameter): name for name, parameter in method.network.named_parameters()}
    configured = method.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    return {names[id(parameter)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]}


def test_the_second_version_has_its_own_rates_and_decays():
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=1e-4)  # noqa: E731
    found = groups_of(build(**MULTI, adapter_lr_scale=10.0, optimizer=optimizer))
    assert set(found) == {name for name, _ in build(**MULTI).network.named_parameters()}
    for name, (rate, decay) in found.items():
        assert rate == pytest.approx(1e-4 if name.startswith("unet.") else 1e-3), name
        assert decay == (0.0 if "bias" in name or "norm" in name else 0.01), name
    assert found["proj.weight"][1] == 0.01 and found["norm.weight"][1] == 0.0 and found["unet.class_embedding.weight"][1] == 0.01
    assert set(groups_of(build(**V1, optimizer=optimizer)).values()) == {(1e-4, 0.01)}


def test_a_scheduler_that_forgets_the_rates_is_refused():
    kept = build(**SINGLE, adapter_lr_scale=10.0, lr_scheduler=lambda optimizer: WarmupLinear(optimizer, 2, 10))
    assert {group["initial_lr"] for group in kept.configure_optimizers()["optimizer"].param_groups} == {1e-3, 1e-2}
    one_cycle = lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=10)  # noqa: E731
    with pytest.raises(UserError, match=r"OneCycleLR gives all parameters one rate, but adapter_lr_scale is 10\.0"):
        build(**SINGLE, adapter_lr_scale=10.0, lr_scheduler=one_cycle).configure_optimizers()
    assert build(**V1, lr_scheduler=one_cycle).configure_optimizers()["lr_scheduler"]["interval"] == "step"


# ---- mistakes


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"version": "v3"}, "version: v3: unknown; choose among v1, v2-single, v2-multi"),
        ({"condition_dropout": 1.5}, "condition_dropout: 1.5"),
        ({"adapter_dropout": 1.0}, "adapter_dropout: 1.0"),
        ({"context_tokens": 0}, "context_tokens: 0"),
        ({"adapter_lr_scale": 0.0}, "adapter_lr_scale: 0.0"),
        ({"image_size": 60}, "image_size: 60: must be a multiple of 8"),
        ({"steps": 0}, "TryOffDiff: steps: 0"),
        ({"sampler": "pndm", "karras": True}, "karras: must be false for pndm"),
        ({"siglip": "/absent/folder"}, "no such folder"),
        ({"vae": "/absent/folder"}, "no such folder"),
        ({"published": "/absent/file.pth"}, "no such weights file"),
        ({"published": "tiny"}, "tiny: no such weights file; give a file or a file on the hub"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_wrong_settings_are_named(wrong, says):
    with pytest.raises(UserError, match=says):
        build(**wrong)


def test_weights_that_started_from_the_authors_v2_are_sampled_by_euler_alone(people):
    method = with_published_flag(build(version="v2-single", sampler="ddim"))
    with pytest.raises(UserError, match=r"sampler: ddim: .*: set --model\.init_args\.sampler euler"):
        method.take_off(people)
    assert UnscaledEuler.from_config(method.schedule.config).init_noise_sigma == 1.0
