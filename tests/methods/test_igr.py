import math
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from fashiongen.batches import to_float, to_uint8
from fashiongen.checkpoints import tiny_weights
from fashiongen.data import VITONHD
from fashiongen.errors import UserError
from fashiongen.methods.igr import IGR
from fashiongen.methods.igr.network import build_garmnet, modules_after_last_self_attention_input
from fashiongen.nn import noise
from fashiongen.nn.attention import attention_layers
from fashiongen.nn.parts import autoencoder


@pytest.fixture
def igr():
    torch.manual_seed(0)
    return IGR(steps=3).eval()


def softmax_attention(query, key, value, heads):
    """Explicit attention on (B, N, heads * d)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


class PaperSelfAttention:
    """Eq. 4 as written: attention among all of F_con = Concat(F_hl, F_g), then the latter half."""

    def __init__(self, garment):
        self.garment = garment

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        joined = torch.cat([self.garment, hidden_states], dim=1)
        attended = softmax_attention(attn.to_q(joined), attn.to_k(joined), attn.to_v(joined), attn.heads)
        return attn.to_out[0](attended)[:, self.garment.shape[1] :]


class PaperCrossAttention:
    """Eq. 3 as written."""

    def __init__(self, text, image, to_k, to_v):
        self.text, self.image, self.to_k, self.to_v = text, image, to_k, to_v

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        query = attn.to_q(hidden_states)
        by_text = softmax_attention(query, attn.to_k(self.text), attn.to_v(self.text), attn.heads)
        by_image = softmax_attention(query, self.to_k(self.image), self.to_v(self.image), attn.heads)
        return attn.to_out[0](by_text + by_image)


def paper_noise(igr, batch, latents, timestep, null):
    """Predict the noise as in the paper, without any caching; the conditions are null or not."""
    unet, garmnet = igr.network.denoiser, igr.network.garmnet
    person = to_float(batch.person)
    text = igr.prompt_encoder([igr.prompts[category] for category in batch.category])
    image = igr.image_encoder(igr.garment_crop(person, batch.mask)).image_embeds
    garment = {}
    hooks = [
        attn.register_forward_pre_hook(lambda _, args, name=name: garment.update({name: args[0]}))
        for name, attn in attention_layers(garmnet, "attn1").items()
    ]
    encoded = igr.codec.encode(person)
    mask = interpolate(batch.mask.float(), size=encoded.shape[-2:])
    garmnet(torch.cat([encoded, mask], dim=1), 0, encoder_hidden_states=text)
    for hook in hooks:
        hook.remove()
    if null:
        text = igr.prompt_encoder([""]).expand_as(text)
        image = torch.zeros_like(image)
        garment = {name: torch.zeros_like(features) for name, features in garment.items()}
    ours = unet.attn_processors
    tokens = igr.network.image_projection(image)
    for name, attn in attention_layers(unet, "attn1").items():
        attn.set_processor(PaperSelfAttention(garment[name]))
    for name, attn in attention_layers(unet, "attn2").items():
        own = ours[f"{name}.processor"]
        attn.set_processor(PaperCrossAttention(text, tokens, own.to_k_ip, own.to_v_ip))
    predicted = unet(latents, timestep, encoder_hidden_states=text).sample
    unet.set_attn_processor(dict(ours))
    return predicted


@torch.no_grad()
def test_cached_references_give_the_images_of_the_papers_equations(igr, people):
    """Cached keys and values, half the queries, and both halves of guidance in one pass, compared with the plain computation."""
    key = noise.keys(people.ids, 0, "sample", 0, 0)
    latents = noise.normal(key, (4, 16, 12))
    sampler = DDIMScheduler.from_config(igr.schedule.config, clip_sample=False, set_alpha_to_one=False)
    sampler.set_timesteps(3)
    for timestep in sampler.timesteps:
        conditional = paper_noise(igr, people, latents, timestep, null=False)
        unconditional = paper_noise(igr, people, latents, timestep, null=True)
        latents = sampler.step(1.5 * conditional + (1 - 1.5) * unconditional, timestep, latents).prev_sample
    torch.testing.assert_close(igr.take_off(people.without_target()), igr.codec.decode(latents), atol=1e-4, rtol=0)


def test_a_sample_is_the_same_alone_and_in_a_batch(igr, people):
    together = igr.take_off(people.without_target())
    for index in (0, 4):
        alone = igr.take_off(people.select([index]).without_target())
        assert (together[index] - alone[0]).abs().max() < 1 / 127.5  # one grey level


def test_training_noise_belongs_to_the_sample(igr, people):
    whole = igr.denoising_loss(people, ("train", 7), 0.5)
    parts = [igr.denoising_loss(people.select([index]), ("train", 7), 0.5) for index in range(len(people))]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert igr.denoising_loss(people, ("train", 8), 0.5) != whole


@torch.no_grad()
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_several_draws_are_several_samples_that_share_one_pass_of_garmnet(igr, people, monkeypatch, dropout):
    rows = []
    garmnet = igr.network.garment_features
    monkeypatch.setattr(igr.network, "garment_features", lambda person, *rest: rows.append(len(person)) or garmnet(person, *rest))

    def loss(ids):
        return igr.denoising_loss(replace(people, ids=ids), ("train", 7), dropout).item()

    apart = [loss(people.ids), loss([f"{id_}/1" for id_ in people.ids])]
    assert abs(apart[0] - apart[1]) > 1e-4
    igr.noises_per_sample = 2
    assert loss(people.ids) == pytest.approx(sum(apart) / 2, abs=1e-5)
    assert rows == [6, 6, 6]


@torch.no_grad()
def test_min_snr_weighs_each_sample_by_its_noise(igr, people, monkeypatch):
    timesteps, add_noise = [], igr.schedule.add_noise
    monkeypatch.setattr(igr.schedule, "add_noise", lambda *args: (timesteps.append(args[2]), add_noise(*args))[1])
    apart = [igr.denoising_loss(people.select([index]), ("train", 7), 0.0).item() for index in range(len(people))]
    kept = igr.schedule.alphas_cumprod[torch.cat(timesteps)].double()
    ratios = (kept / (1 - kept)).tolist()
    gamma = sorted(ratios)[2]
    weights = [min(ratio, gamma) / ratio for ratio in ratios]
    assert min(weights) < 0.9 and max(weights) == 1.0
    igr.snr_gamma = gamma
    expected = sum(weight * loss for weight, loss in zip(weights, apart, strict=True)) / len(people)
    assert igr.denoising_loss(people, ("train", 7), 0.0).item() == pytest.approx(expected, rel=1e-4)
    igr.snr_gamma = None
    plain = igr.denoising_loss(people, ("val",), 0.0)
    igr.snr_gamma = gamma
    assert igr.denoising_loss(people, ("val",), 0.0) == plain, "validation is of eq. 1, whatever is trained by"


@torch.no_grad()
def test_every_sample_draws_its_own_noise_and_timestep(igr, people, monkeypatch):
    drawn, add_noise = [], igr.schedule.add_noise
    monkeypatch.setattr(igr.schedule, "add_noise", lambda *args: (drawn.append(args[1:]), add_noise(*args))[1])
    for batch in (people, people.select([4, 2])):
        igr.denoising_loss(batch, ("train", 7), 0.5)
    (epsilon, timestep), (epsilon_again, timestep_again) = drawn
    assert len(torch.unique(epsilon.flatten(1), dim=0)) == len(people) and len(torch.unique(timestep)) > 1
    assert torch.equal(epsilon_again, epsilon[[4, 2]]) and torch.equal(timestep_again, timestep[[4, 2]])


@torch.no_grad()
def test_guidance_of_one_skips_the_unconditional_half(igr, people, monkeypatch):
    sizes = []
    forward = igr.network.denoiser.forward
    monkeypatch.setattr(
        igr.network.denoiser, "forward", lambda sample, *args, **kwargs: (sizes.append(len(sample)), forward(sample, *args, **kwargs))[1]
    )
    igr.sampling = replace(igr.sampling, scale=1.0)
    plain = igr.take_off(people)
    igr.sampling = replace(igr.sampling, scale=1.0 + 1e-6)
    guided = igr.take_off(people)
    assert sizes == [6] * 3 + [12] * 3
    torch.testing.assert_close(plain, guided, atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dropped", [("text",), ("image",), ("garment",), ("text", "image", "garment")])
def test_the_unconditional_half_keeps_what_is_not_dropped(people, dropped):
    """The null memory must be that of the training samples whose conditions were dropped."""
    torch.manual_seed(0)
    igr = IGR(drop_conditions=dropped)
    conditions = igr.conditions(people)
    null = igr.null_memory(conditions)
    whole = igr.network.memory(conditions)
    cross = next(iter(attention_layers(igr.network.denoiser, "attn2")))
    own = next(iter(attention_layers(igr.network.denoiser, "attn1")))
    same = {
        "text": torch.equal(null[cross].first.key.expand_as(whole[cross].first.key), whole[cross].first.key),
        "image": torch.equal(null[cross].second.key.expand_as(whole[cross].second.key), whole[cross].second.key),
        "garment": torch.equal(null[own].first.key.expand_as(whole[own].first.key), whole[own].first.key),
    }
    assert {name for name, kept in same.items() if not kept} == set(dropped)


def test_a_dropped_reference_is_zero_keys_not_no_keys(igr, people):
    conditions = igr.conditions(people)
    memory = igr.null_memory(conditions)
    name = next(iter(attention_layers(igr.network.denoiser, "attn1")))
    assert memory[name].first.key.shape[2] == conditions.garment[name].shape[1]
    assert not memory[name].first.key.any() and not memory[name].first.value.any()


@torch.no_grad()
def test_garmnet_starts_as_the_denoiser_with_a_silent_mask_channel(igr, people):
    fresh = build_garmnet(IGR(garmnet=False).network.denoiser.__class__.from_config(igr.network.denoiser.config))
    assert fresh.conv_in.in_channels == 5
    assert not fresh.conv_in.weight[:, 4].any()
    latents, text = torch.randn(6, 4, 16, 12), igr.prompt_encoder([igr.prompts["upper"]] * 6)
    with_mask = igr.network.garment_features(latents, torch.ones(6, 1, 16, 12), text)
    without = igr.network.garment_features(latents, torch.zeros(6, 1, 16, 12), text)
    for name, features in with_mask.items():
        assert torch.equal(features, without[name])


@torch.no_grad()
def test_garmnet_leaves_out_attention_behind_its_last_feature(igr, people):
    expected = igr.conditions(people).garment
    layers = attention_layers(igr.network.garmnet, "attn1") | attention_layers(igr.network.garmnet, "attn2")
    left_out = [attn for attn in layers.values() if not attn.processor.attend]
    assert len(left_out) == 2
    for attn in left_out:
        attn.processor.attend = True
    whole = igr.conditions(people).garment
    assert whole.keys() == expected.keys() == attention_layers(igr.network.denoiser, "attn1").keys()
    for name, features in whole.items():
        assert torch.equal(features, expected[name]), name


def test_exactly_the_trained_parameters_get_gradients(igr, people):
    igr.train()
    igr.network.garmnet.conv_in.weight.data[:, 4] = 0.1
    igr.denoising_loss(people, ("train", 0), 0.0).backward()
    for name, parameter in igr.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert not parameter.requires_grad or name.startswith("network."), name
    frozen = sum(p.numel() for p in igr.network.parameters() if not p.requires_grad)
    tail = modules_after_last_self_attention_input(igr.network.garmnet)
    assert frozen == sum(p.numel() for module in tail for p in module.parameters()) > 0


def test_checkpoints_leave_out_the_frozen_parts(igr):
    state = igr.state_dict()
    assert all(key.startswith("network.") for key in state)
    assert set(state) == {f"network.{key}" for key in igr.network.state_dict()}
    other = IGR(steps=3)
    other.load_state_dict(state)
    assert torch.equal(other.network.denoiser.conv_in.weight, igr.network.denoiser.conv_in.weight)
    del state["network.denoiser.conv_in.weight"]
    with pytest.raises(UserError, match=r"missing: network\.denoiser\.conv_in\.weight"):
        other.load_state_dict(state)


def test_without_garmnet_nothing_is_joined(people):
    igr = IGR(garmnet=False, steps=2)
    assert igr.network.garmnet is None
    conditions = igr.conditions(people)
    assert conditions.garment == {}
    assert set(igr.network.memory(conditions)) == set(attention_layers(igr.network.denoiser, "attn2"))
    assert igr.take_off(people.without_target()).shape == (6, 3, 64, 48)


def test_the_image_prompt_sees_the_masked_garment_alone(igr, people):
    crop = igr.garment_crop(to_float(people.person), people.mask)
    changed = torch.where(people.mask, people.person, 255 - people.person)
    assert crop.shape == (6, 3, 48, 48)
    assert torch.equal(crop, igr.garment_crop(to_float(changed), people.mask))


def test_wrong_settings_are_named():
    for wrong, named in (
        ({"drop_conditions": ("colour",)}, "drop_conditions: colour"),
        ({"prompts": {"uper": "x"}}, "prompts: uper"),
        ({"condition_dropout": 1.5}, "condition_dropout: 1.5"),
        ({"image_tokens": 0}, "image_tokens: 0"),
        ({"garmnet_timestep": 1000}, "garmnet_timestep: 1000: must lie in 0 to 999"),
        ({"steps": 0}, "steps: 0: must lie in 1 to 1000"),
    ):
        with pytest.raises(UserError, match=named):
            IGR(**wrong)
    with pytest.raises(UserError, match="no such folder"):
        IGR(pretrained="/absent/folder")
    with pytest.raises(UserError, match="supports only the parent `coarse`"):
        IGR().load_parents({"fine": "x"})


def test_gradient_checkpointing_changes_no_gradient(people):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        igr = IGR(gradient_checkpointing=checkpointing).train()
        igr.denoising_loss(people, ("train", 0), 0.1).backward()
        gradients.append({name: p.grad for name, p in igr.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_low_precision_keeps_noise_and_images_in_float32(people):
    """bfloat16 would leave 192 of the 1000 noise levels, and none at the first two."""
    torch.manual_seed(0)
    igr = IGR(steps=2).eval()
    exact = igr.denoising_loss(people, ("val",), 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert igr.codec.encode(to_float(people.person)).dtype == torch.float32
        mixed = igr.denoising_loss(people, ("val",), 0.0)
        assert igr.take_off(people).dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0)
    igr.bfloat16()  # as DeepSpeed does it
    torch.testing.assert_close(igr.denoising_loss(people, ("val",), 0.0), exact, rtol=0.05, atol=0)
    assert igr.take_off(people).isfinite().all()


def test_weights_that_lack_a_key_are_refused(tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(tiny_weights() / "clip", folder)
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights of a CLIPVisionModelWithProjection: visual_projection\.weight"):
        IGR(image_encoder=str(folder))


def test_large_images_go_through_the_autoencoder_a_few_at_a_time(igr, people, monkeypatch):
    whole = igr.codec.encode(to_float(people.person))
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 64 * 48 * 4)
    parts = igr.codec.encode(to_float(people.person))
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(igr.codec.decode(parts), igr.codec.decode(whole), atol=1e-4, rtol=0)


def test_an_ip_adapter_is_placed_whole_or_refused(igr, tmp_path):
    state = load_file(tiny_weights() / "ip_adapter" / "ip_adapter.safetensors")
    assert {"image_proj.proj.weight", "image_proj.norm.bias", "ip_adapter.1.to_k_ip.weight"} <= set(state)
    cross = attention_layers(igr.network.denoiser, "attn2")
    assert sum("to_k_ip" in key for key in state) == len(cross)
    places = [name.removesuffix(".processor") for name in igr.network.denoiser.attn_processors]
    assert {int(key.split(".")[1]) for key in state if "to_k_ip" in key} == {places.index(name) for name in cross}
    first = cross["down_blocks.0.attentions.0.transformer_blocks.0.attn2"].processor
    torch.testing.assert_close(first.to_k_ip.weight, state["ip_adapter.1.to_k_ip.weight"].float())
    torch.testing.assert_close(igr.network.image_projection.image_embeds.bias, state["image_proj.proj.bias"].float())
    del state["ip_adapter.3.to_v_ip.weight"]
    state["ip_adapter.99.to_v_ip.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(UserError, match=r"missing: ip_adapter\.3\.to_v_ip\.weight; left over: ip_adapter\.99"):
        IGR(ip_adapter=str(tmp_path / "short.safetensors"))
    with pytest.raises(UserError, match="no such weights file"):
        IGR(ip_adapter="./absent.bin")


def test_workers_and_batch_size_change_no_image(igr, world):
    """The same people, read by two worker processes in batches of three or in the main process one by one."""
    restored = []
    for workers, batch_size in ((0, 1), (2, 3)):
        data = VITONHD(root="wardrobe", people=40, size=(64, 48), num_workers=workers, eval_batch_size=batch_size, validation=4)
        data.setup("test")
        batches = [batch for batch, _ in zip(data.test_dataloader(), range(6 // batch_size), strict=False)]
        restored.append(({id_ for batch in batches for id_ in batch.ids}, torch.cat([igr.take_off(batch) for batch in batches])))
    (ids, one_by_one), (same_ids, by_workers) = restored
    assert ids == same_ids and len(ids) == 6
    assert (to_uint8(one_by_one).int() - to_uint8(by_workers).int()).abs().max() <= 1


def test_cached_encodings_change_only_the_speed(people, monkeypatch):
    losses, calls = [], []
    for keep in (False, True):
        torch.manual_seed(0)
        igr = IGR(cache_encodings=keep).train()
        moments = igr.codec.moments
        monkeypatch.setattr(igr.codec, "moments", lambda images, moments=moments: (calls.append(len(images)), moments(images))[1])
        shuffled = people.select([3, 1, 5, 0, 2, 4])
        losses.append([igr.denoising_loss(batch, ("train", step), 0.1) for step, batch in enumerate((people, shuffled))])
    torch.testing.assert_close(losses[0], losses[1])
    assert calls == [6] * 6
    igr.eval()
    igr.take_off(people.without_target())
    assert len(calls) == 7, "what is judged is never taken from memory"
