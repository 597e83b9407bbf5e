"""What CatVTON and TryOffAnyone share: the network without cross-attention, the loop, the loss, and what is trained."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from published_sd15 import UNET, empty_part
from small_inpainting import skip_cross_attention, write
from torch.nn.functional import interpolate, mse_loss

from fashiongen import tasks
from fashiongen.batches import to_float
from fashiongen.data import VITONHD
from fashiongen.data.encoding_cache import EncodedDataset, encode
from fashiongen.data.loading import Loader
from fashiongen.errors import UserError
from fashiongen.methods.catvton import CatVTON
from fashiongen.methods.tryoffanyone import TryOffAnyone
from fashiongen.nn import noise
from fashiongen.nn.concatenation import apply_dream, remove_cross_attention, train_only

METHODS = pytest.mark.parametrize("kind", [CatVTON, TryOffAnyone], ids=lambda kind: kind.name)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def samples(cache):
    """Six test people as the batch of each method's task, and the data they are from."""
    found = {}
    for kind, task in ((CatVTON, "vton"), (TryOffAnyone, "vtoff")):
        data = VITONHD(root="wardrobe", people=40, size=(64, 48), num_workers=0, validation=4, task=task, in_memory=True)
        data.prepare_data()
        data.setup("test")
        split = data.datasets["test"]
        found[kind] = (type(split[0]).collate([split[index] for index in range(6)]), data)
    return found


def build(kind, base, **settings):
    torch.manual_seed(0)
    return kind(pretrained=base, **{"steps": 3, **settings}).eval()


def inputs_of(method, monkeypatch):
    """Record what the UNet is given."""
    seen, forward = [], method.network.unet.forward
    monkeypatch.setattr(
        method.network.unet, "forward", lambda sample, *args, **kwargs: (seen.append(sample.clone()), forward(sample, *args, **kwargs))[1]
    )
    return seen


def photo_and_reference(kind, batch):
    """The image that a mask hides part of, and the one below it, both in [-1, 1]."""
    photo = batch.person  # the agnostic image is the photo outside of the mask
    return to_float(photo), to_float(batch.garment if kind is CatVTON else photo)


# ---- the network


@torch.no_grad()
def test_a_unet_without_cross_attention_is_the_authors_network(base):
    """Their processors return the input, so that a block adds norm2(x); without the addition the output is another."""
    whole = skip_cross_attention(UNet2DConditionModel.from_pretrained(base, subfolder="unet").eval())
    for block in (module for name, module in whole.named_modules() if name.endswith("transformer_blocks.0")):
        torch.nn.init.normal_(block.norm2.weight)
    state = {key: value for key, value in whole.state_dict().items() if ".attn2." not in key}
    ours = remove_cross_attention(UNet2DConditionModel.from_pretrained(base, subfolder="unet").eval())
    ours.load_state_dict(state)  # strict: nothing else is left
    latents, timestep = torch.randn(2, 9, 32, 12), torch.tensor([3, 900])
    expected = whole(latents, timestep, encoder_hidden_states=None).sample
    assert torch.equal(ours(latents, timestep, encoder_hidden_states=None).sample, expected)
    for block in (module for name, module in ours.named_modules() if name.endswith("transformer_blocks.0")):
        block.attn2 = None
    assert (ours(latents, timestep, encoder_hidden_states=None).sample - expected).abs().max() > 1e-2


def test_the_numbers_of_parameters_are_the_published_ones():
    """Stable Diffusion 1.5's UNet and the inpainting one, on the meta device; 815.45M, 267.24M and 49.57M in CatVTON's Section 3.2."""
    assert sum(p.numel() for p in empty_part("unet", UNET).parameters()) == 859_520_964
    unet = empty_part("unet", UNET | {"in_channels": 9})
    sizes = {name: p.numel() for name, p in unet.named_parameters()}
    assert sum(sizes.values()) == 859_520_964 + 320 * 5 * 9
    assert sum(count for name, count in sizes.items() if ".attentions." in name) == 267_239_360
    assert sum(count for name, count in sizes.items() if ".attn2." in name) == 43_962_560
    remove_cross_attention(unet)
    trained = {}
    for part in ("self_attention", "transformers", "all"):
        train_only(unet, part)
        trained[part] = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    assert trained == {
        "self_attention": 49_574_080,
        "transformers": 267_239_360 - 43_962_560,
        "all": sum(sizes.values()) - 43_962_560,
    }


# ---- sampling


def published_loop(whole, codec, alphas, photo, mask, reference, ids, scale, steps):
    """The authors' sampling as published: both images encoded anew and two passes in each step; DDIM with eta 1 by its equation."""

    def encode(images):
        return codec.vae.encode(images).latent_dist.mode() * codec.vae.config.scaling_factor

    shape, between = (4, 32, 12), 1000 // steps
    latents = noise.normal(noise.keys(ids, 0, "sample", 0, 0), shape)
    for step, timestep in enumerate(range((steps - 1) * between + 1, 0, -between)):
        first, below = encode(photo * (mask < 0.5)), encode(reference)
        small = interpolate(mask.float(), size=first.shape[-2:], mode="nearest")
        small = torch.cat([small, torch.zeros_like(small)], dim=-2)
        predicted = []
        for condition in (torch.zeros_like(below), below):
            inputs = torch.cat([latents, small, torch.cat([first, condition], dim=-2)], dim=1)
            predicted.append(whole(inputs, timestep, encoder_hidden_states=None).sample)
        epsilon = predicted[0] + scale * (predicted[1] - predicted[0])
        now, then = alphas[timestep], alphas[max(timestep - between, 0)]
        sigma = ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        clean = (latents - (1 - now).sqrt() * epsilon) / now.sqrt()
        drawn = noise.normal(noise.keys(ids, 0, "sample", 0, 0, "step", step), shape)
        latents = then.sqrt() * clean + (1 - then - sigma**2).sqrt() * epsilon + sigma * drawn
    return codec.vae.decode(latents[:, :, :16] / codec.vae.config.scaling_factor).sample.clamp(-1, 1)


@METHODS
@torch.no_grad()
def test_a_sample_is_that_of_the_published_loop(kind, base, samples):
    batch, _ = samples[kind]
    method = build(kind, base)
    whole = skip_cross_attention(UNet2DConditionModel.from_pretrained(base, subfolder="unet").eval())
    photo, reference = photo_and_reference(kind, batch)
    alphas = method.schedule.alphas_cumprod
    expected = published_loop(whole, method.codec, alphas, photo, batch.mask, reference, batch.ids, scale=2.5, steps=3)
    found = tasks.run(method, batch)
    assert found.shape == (6, 3, 64, 48)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@METHODS
@torch.no_grad()
def test_the_channels_are_noise_mask_and_latents_with_the_reference_below(kind, base, samples, monkeypatch):
    batch, _ = samples[kind]
    method = build(kind, base, steps=2)
    encodings = []
    moments = method.codec.moments
    monkeypatch.setattr(method.codec, "moments", lambda images: (encodings.append(len(images)), moments(images))[1])
    seen = inputs_of(method, monkeypatch)
    tasks.run(method, batch)
    assert [tuple(entry.shape) for entry in seen] == [(12, 9, 32, 12)] * 2
    assert encodings == [6, 6], "each image is encoded once, whatever the number of steps"
    photo, reference = (method.codec.encode(images) for images in photo_and_reference(kind, batch))
    masked = method.codec.encode(torch.where(batch.mask, 0.0, photo_and_reference(kind, batch)[0]))
    mask = interpolate(batch.mask.float(), size=(16, 12), mode="nearest")
    assert 0 < mask.mean() < 1 and (masked - photo).abs().max() > 0.1
    first, second = seen
    assert torch.equal(first[:, 4:], second[:, 4:]), "what is known does not change"
    for half in (first[:6], first[6:]):
        assert torch.equal(half[:, :4], noise.normal(noise.keys(batch.ids, 0, "sample", 0, 0), (4, 32, 12)))
        assert torch.equal(half[:, 4:5, :16], mask) and not half[:, 4:5, 16:].any()
        torch.testing.assert_close(half[:, 5:, :16], masked, atol=1e-5, rtol=0)
    torch.testing.assert_close(first[6:, 5:, 16:], reference, atol=1e-5, rtol=0)
    assert not first[:6, 5:, 16:].any(), "the unconditional half has no reference"


@METHODS
@torch.no_grad()
def test_guidance_of_one_skips_the_unconditional_half(kind, base, samples, monkeypatch):
    batch, _ = samples[kind]
    images = []
    for scale, rows in ((1.0, 6), (1.0 + 1e-6, 12)):
        method = build(kind, base, guidance_scale=scale, steps=2)
        seen = inputs_of(method, monkeypatch)
        images.append(tasks.run(method, batch))
        assert [len(entry) for entry in seen] == [rows] * 2
    torch.testing.assert_close(*images, atol=1e-3, rtol=0)


@METHODS
def test_the_truth_never_leaks(kind, base, samples):
    """Neither the targets, nor the photo inside the mask."""
    batch, _ = samples[kind]
    method = build(kind, base, steps=2)
    found = tasks.run(method, batch)
    task = tasks.find("vton" if kind is CatVTON else "vtoff")
    spoiled = task.spoil_truth(batch)
    assert torch.equal(getattr(method, task.method)(spoiled), found)
    if kind is CatVTON:
        hidden = to_float(batch.agnostic).masked_fill(batch.mask, torch.nan)
        assert torch.equal(method.try_on(replace(spoiled, agnostic=hidden)), found)
    else:  # the person shows the garment, but not in the upper half of the conditions
        hidden = to_float(batch.person).masked_fill(batch.mask, torch.nan)
        assert method.conditions(replace(spoiled, person=hidden)).first.isfinite().all()
    assert found.isfinite().all() and not torch.equal(found[0], found[1])


@METHODS
@torch.no_grad()
def test_a_sample_is_the_same_alone_and_in_a_batch(kind, base, samples):
    batch, _ = samples[kind]
    method = build(kind, base)
    together = tasks.run(method, batch)
    for index in (0, 4):
        assert (together[index] - tasks.run(method, batch.select([index]))[0]).abs().max() < 1 / 127.5  # one grey level


@torch.no_grad()
def test_another_sampler_and_interval_of_guidance_are_used(base, samples, monkeypatch):
    batch, _ = samples[CatVTON]
    method = build(CatVTON, base, sampler="dpm++", eta=0.0, guidance_interval=(0.2, 0.6), steps=6)
    seen = inputs_of(method, monkeypatch)
    assert tasks.run(method, batch).isfinite().all()
    assert {len(entry) for entry in seen} == {6, 12} and len(seen) == 6
    conditional = next(entry for entry in seen if len(entry) == 6)
    assert conditional[:, 5:, 16:].any(), "outside of the interval the reference stays"


# ---- training


@METHODS
def test_the_loss_is_over_both_halves_and_drops_the_condition_alone(kind, base, samples, monkeypatch):
    batch, _ = samples[kind]
    method = build(kind, base)
    seen = inputs_of(method, monkeypatch)
    losses = [method.denoising_loss(batch, ("train", 7), dropout) for dropout in (0.0, 1.0)]
    kept, dropped = (entry.detach() for entry in seen)
    assert torch.equal(kept[:, :5], dropped[:, :5]) and torch.equal(kept[:, 5:, :16], dropped[:, 5:, :16])
    assert not dropped[:, 5:, 16:].any() and kept[:, 5:, 16:].any() and losses[0] != losses[1]

    photo, reference = photo_and_reference(kind, batch)
    generated = photo if kind is CatVTON else to_float(batch.garment)
    latents = torch.cat([method.codec.encode(generated), method.codec.encode(reference)], dim=-2)
    epsilon = noise.normal(noise.keys(batch.ids, 0, "train", 7, "noise"), (4, 32, 12))
    timestep = noise.integers(noise.keys(batch.ids, 0, "train", 7, "timestep"), 0, 1000)
    torch.testing.assert_close(kept[:, :4], method.schedule.add_noise(latents, epsilon, timestep), atol=1e-5, rtol=0)
    assert len(torch.unique(timestep)) > 1
    predicted = method.network(kept[:, :4], timestep, kept[:, 4:])
    torch.testing.assert_close(losses[0], mse_loss(predicted, epsilon))


def test_some_samples_lose_their_reference_by_their_own_draws(base, samples, monkeypatch):
    batch, _ = samples[CatVTON]
    method = build(CatVTON, base)
    whole = method.denoising_loss(batch, ("train", 3), 0.5)
    parts = [method.denoising_loss(batch.select([index]), ("train", 3), 0.5) for index in range(6)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    seen = inputs_of(method, monkeypatch)
    method.denoising_loss(batch, ("train", 3), 0.5)
    assert 0 < int(seen[0][:, 5:, 16:].flatten(1).any(dim=1).sum()) < 6


@pytest.mark.parametrize(("kind", "trained"), [(CatVTON, "self_attention"), (TryOffAnyone, "transformers"), (CatVTON, "all")])
def test_exactly_the_trained_part_gets_gradients_and_is_saved(kind, trained, base, samples):
    batch, _ = samples[kind]
    method = build(kind, base, trained=trained).train()
    method.denoising_loss(batch, ("train", 0), 0.0).backward()
    for name, parameter in method.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        wanted = {"self_attention": ".attn1.", "transformers": ".attentions.", "all": "network."}[trained]
        assert parameter.requires_grad == (wanted in name and name.startswith("network.")), name
    state = method.state_dict()
    assert set(state) == {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    other = build(kind, base, trained=trained)
    with torch.no_grad():
        for parameter in other.network.parameters():
            if parameter.requires_grad:
                parameter.zero_()
    other.load_state_dict(state)
    assert torch.equal(tasks.run(other, batch), tasks.run(method.eval(), batch))
    del state[next(iter(state))]
    with pytest.raises(UserError, match="missing: network"):
        other.load_state_dict(state)


@METHODS
def test_a_few_steps_on_one_batch_lower_its_loss(kind, base, samples):
    batch, _ = samples[kind]
    method = build(kind, base, trained="all").train()
    optimizer = torch.optim.AdamW(method.configure_optimizers().param_groups[0]["params"], lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = method.denoising_loss(batch, ("train", 0), 0.0)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses


def test_dream_moves_the_sample_by_the_networks_own_error():
    """arXiv 2312.00210 with the exponent p: nothing changes where the network is right, and little at small timesteps."""
    noisy, epsilon, predicted = (torch.randn(3, 4, 8, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    kept = torch.tensor([0.99, 0.5, 0.01])
    for unchanged, before in zip(apply_dream(noisy, epsilon, epsilon, kept, 10.0), (noisy, epsilon), strict=True):
        assert torch.equal(unchanged, before)
    moved, target = apply_dream(noisy, epsilon, predicted, kept, 10.0)
    for index, alpha in enumerate(kept.tolist()):
        weight = (1 - alpha) ** 5.0
        error = epsilon[index] - predicted[index]
        torch.testing.assert_close(target[index], epsilon[index] + weight * error)
        torch.testing.assert_close(moved[index], noisy[index] + (1 - alpha) ** 0.5 * weight * error)
    # The clean latents that noisy latents and noise imply do not change.
    clean, implied = ((z - (1 - kept).sqrt().view(3, 1, 1, 1) * e) for z, e in ((noisy, epsilon), (moved, target)))
    torch.testing.assert_close(clean, implied)


def test_dream_costs_a_second_prediction_in_training_alone(base, samples, monkeypatch):
    batch, _ = samples[CatVTON]
    plain, method = build(CatVTON, base), build(CatVTON, base, dream=10.0)
    expected = [plain.denoising_loss(batch, names, 0.0) for names in (("train", 1), ("val",))]
    seen = inputs_of(method, monkeypatch)
    losses = [method.denoising_loss(batch, names, 0.0) for names in (("train", 1), ("val",))]
    assert len(seen) == 3 and torch.equal(seen[0][:, 4:], seen[1][:, 4:]) and not torch.equal(seen[0][:, :4], seen[1][:, :4])
    assert losses[0] != expected[0] and losses[1] == expected[1]
    losses[0].backward()
    assert all(p.grad is not None for p in method.network.parameters() if p.requires_grad)


@torch.no_grad()
def test_min_snr_weighs_each_sample_by_its_noise(base, samples):
    batch, _ = samples[CatVTON]
    method = build(CatVTON, base)
    apart = [method.denoising_loss(batch.select([index]), ("train", 7), 0.0).item() for index in range(6)]
    kept = method.schedule.alphas_cumprod[noise.integers(noise.keys(batch.ids, 0, "train", 7, "timestep"), 0, 1000)].double()
    ratios = (kept / (1 - kept)).tolist()
    method.snr_gamma = sorted(ratios)[2]
    expected = sum(min(ratio, method.snr_gamma) / ratio * loss for ratio, loss in zip(ratios, apart, strict=True)) / 6
    assert method.denoising_loss(batch, ("train", 7), 0.0).item() == pytest.approx(expected, rel=1e-4)


@METHODS
def test_a_step_on_cached_encodings_has_the_same_loss_and_runs_no_encoder(kind, base, samples, tmp_path, monkeypatch):
    _, data = samples[kind]
    method = build(kind, base).train()
    rows = torch.utils.data.Subset(data.datasets["test"], range(4))
    rows.rows = data.datasets["test"].rows[:4]
    encode(Loader(rows, batch_size=4), method.encodings(), tmp_path)
    read = EncodedDataset(rows, tmp_path, method.encodings())
    plain, kept = (method_batch(source) for source in (rows, read))
    expected = method.denoising_loss(plain, ("train", 3), 0.5)
    monkeypatch.setattr(method.codec, "moments", None)  # to call it is an error
    torch.testing.assert_close(method.denoising_loss(kept, ("train", 3), 0.5), expected, rtol=1e-5, atol=0)


def method_batch(source):
    return type(source[0]).collate([source[index] for index in range(4)])


def test_gradient_checkpointing_changes_no_gradient(base, samples):
    batch, _ = samples[CatVTON]
    gradients = []
    for checkpointing in (False, True):
        method = build(CatVTON, base, gradient_checkpointing=checkpointing).train()
        method.denoising_loss(batch, ("train", 0), 0.1).backward()
        gradients.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_low_precision_keeps_noise_and_images_in_float32(base, samples):
    batch, _ = samples[TryOffAnyone]
    method = build(TryOffAnyone, base, steps=2)
    exact = method.denoising_loss(batch, ("val",), 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method.denoising_loss(batch, ("val",), 0.0), exact, rtol=0.05, atol=0)
        assert method.take_off(batch).dtype == torch.float32
    method.bfloat16()  # as DeepSpeed does it
    torch.testing.assert_close(method.denoising_loss(batch, ("val",), 0.0), exact, rtol=0.05, atol=0)
    assert method.take_off(batch).isfinite().all()
