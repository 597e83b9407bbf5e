"""TWGTM in training and sampling: its inputs in both directions, its losses, its phases, and what it computes once."""

from dataclasses import replace

import pytest
import torch
from small_twgtm import batches, painting, small, with_spatial
from torch.nn.functional import interpolate
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.twgtm import TWGTM, masks
from fashiongen.methods.twgtm.network import Reference
from fashiongen.nn import noise

OFF, ON = batches()


@pytest.fixture(scope="module")
def twgtm():
    return small().eval()


@torch.no_grad()
def test_the_order_of_the_images_decides_the_direction(twgtm):
    """I_t = [Noise(E(h_i)), E(h_f), h_m]: try-on has [x_a, c] and [1 - M, 1], try-off [c_a, x] and [1 - M_c, 1]."""
    dressed = twgtm.condition(painting(twgtm, ON, "vton"))
    restored = twgtm.condition(painting(twgtm, ON, "vtoff"))
    person, garment = twgtm.codec.encode(to_float(ON.person)), twgtm.codec.encode(to_float(ON.garment))
    agnostic = twgtm.codec.encode(to_float(ON.person) * ~ON.mask)
    assert dressed.shape == restored.shape == (3, 5, 16, 24)
    torch.testing.assert_close(dressed[:, :4], torch.cat([agnostic, garment], dim=-1))
    torch.testing.assert_close(restored[:, :4, :, 12:], person)
    keep = ~ON.mask[..., ::4, ::4]
    assert torch.equal(dressed[:, 4:, :, :12].bool(), keep) and dressed[:, 4:, :, 12:].eq(1).all()
    assert restored[:, 4:, :, 12:].eq(1).all() and 0 < restored[:, 4:, :, :12].mean() < 1


@torch.no_grad()
def test_both_batch_types_give_the_same_training(twgtm):
    first, second = (twgtm.losses(batch, ("val",), 0.0) for batch in (OFF, ON))
    assert first.keys() == second.keys() == {"loss", "noise"}
    assert torch.equal(first["loss"], second["loss"])


@torch.no_grad()
def test_a_test_knows_no_truth_and_nothing_inside_the_mask(twgtm):
    expected = twgtm.try_on(ON.without_target())
    inside = torch.where(ON.mask, torch.randint_like(ON.agnostic, 256), ON.agnostic)
    other = replace(ON, agnostic=inside, person=None, garment_mask=None)
    assert torch.equal(twgtm.try_on(other), expected)
    assert expected.shape == ON.agnostic.shape and expected.abs().max() <= 1
    restored = twgtm.take_off(OFF.without_target())
    assert torch.equal(twgtm.take_off(replace(OFF, garment=255 - OFF.garment, garment_mask=~OFF.garment_mask)), restored)
    assert torch.equal(twgtm.take_off(replace(OFF, mask=~OFF.mask).without_target()), restored), "try-off is free of masks"


@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(twgtm):
    torch.testing.assert_close(twgtm.try_on(ON.select([2]))[0], twgtm.try_on(ON)[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(twgtm.take_off(OFF.select([1]))[0], twgtm.take_off(OFF)[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_sampling_gives_what_the_plain_way_gives():
    """References read again in each step, guidance in two passes, DDIM by hand."""
    from fashiongen.nn.parts import ddim

    twgtm = with_spatial(small()).eval()
    garment = to_float(ON.garment)
    sampler = ddim(twgtm.schedule)
    sampler.set_timesteps(2)
    latents = noise.normal(noise.keys(ON.ids, twgtm.seed, "sample", 0, 0), (4, 16, 24))
    for timestep in sampler.timesteps:
        predictions = []
        for shown in (False, True):
            first = twgtm.codec.encode(to_float(ON.agnostic) * ~ON.mask)
            beside = torch.cat([first, twgtm.codec.encode(garment) * shown], dim=-1)
            keep = torch.cat([~ON.mask, torch.ones_like(ON.mask)], dim=-1)[..., ::4, ::4].float()
            reference, _ = reference_by_hand(twgtm, garment, ON.category, torch.full((3,), shown))
            condition = torch.cat([beside, keep], dim=1)
            predictions.append(twgtm.network(latents, condition, timestep, twgtm.network.memory(reference), reference.semantic))
        epsilon = predictions[0] + 2.5 * (predictions[1] - predictions[0])
        latents = sampler.step(epsilon, timestep, latents).prev_sample
    torch.testing.assert_close(twgtm.try_on(ON), twgtm.codec.decode(latents[..., :12]), atol=1e-4, rtol=1e-4)


def normalised(images, mean, std):
    return ((images + 1) / 2 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def reference_by_hand(model, image, categories, shown):
    """Eqs. 3, 4, 8 to 12 from the modules; zeros where a reference is dropped."""
    square = interpolate(image, size=(48, 48), mode="bicubic", antialias=True).clamp(-1, 1)
    out = model.image_encoder(normalised(square, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    words = {"upper": "upper garment", "lower": "lower garment", "full": "dress"}
    queries = model.network.semantic(out.last_hidden_state, model.prompt_encoder([words[category] for category in categories]))
    spatial = model.network.spatial
    features = spatial.swin(normalised(image, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)).feature_maps
    maps, logits = spatial.taskformer(list(features), queries)
    tokens = [] if model.phase == 1 else spatial.decoder(maps, (16, 12))
    dropped = shown[:, None, None]
    return Reference(torch.cat([out.image_embeds[:, None], queries], dim=1) * dropped, [part * dropped for part in tokens]), logits


def losses_by_hand(model, batch, direction, names, dropout):
    """Eqs. 14 to 16 of one direction, sample by sample and noise by noise."""
    person, garment = to_float(batch.person), to_float(batch.garment)
    target, other, hole = (person, garment, batch.mask) if direction == "vton" else (garment, person, batch.garment_mask)
    if direction == "vtoff" and model.phase == 2:
        hole = masks.grown_squares(hole, model.growth, batch.ids, model.seed, *names, "growth")
    ids = [f"{id_}/{direction}" for id_ in batch.ids]
    shown = noise.uniform(noise.keys(ids, model.seed, *names, "dropout")) >= dropout
    encode = model.codec.encode
    clean = torch.cat([encode(target), encode(other)], dim=-1)
    known = torch.cat([encode(target * ~hole), encode(other) * shown[:, None, None, None]], dim=-1)
    keep = torch.cat([~hole, torch.ones_like(hole)], dim=-1)[..., ::4, ::4].float()
    reference, logits = reference_by_hand(model, other, batch.category, shown)
    values = []
    for draw in range(model.noises_per_sample):
        drawn = [id_ if draw == 0 else f"{id_}/{draw}" for id_ in ids]
        epsilon = noise.normal(noise.keys(drawn, model.seed, *names, "noise"), clean.shape[1:])
        timestep = noise.integers(noise.keys(drawn, model.seed, *names, "timestep"), 0, 1000)
        alpha = model.schedule.alphas_cumprod[timestep][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * epsilon
        memory = model.network.memory(reference)
        predicted = model.network(noisy, torch.cat([known, keep], dim=1), timestep, memory, reference.semantic)
        ratio = (alpha / (1 - alpha)).flatten()
        weight = 1.0 if model.snr_gamma is None or names == ("val",) else ratio.clamp(max=model.snr_gamma) / ratio
        values.append(((predicted - epsilon).square().mean(dim=(1, 2, 3)) * weight).mean())
    found = {"noise": torch.stack(values).mean()}
    if model.phase == 1:
        found["mask"] = masks.mask_loss(logits, batch.garment_mask, model.dice_weight, model.bce_weight)
    return found


@torch.no_grad()
@pytest.mark.parametrize("names", [("train", 3), ("val",)], ids=["train", "val"])
@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("directions", [("vton",), ("vtoff",), ("vton", "vtoff")], ids="+".join)
def test_the_losses_are_the_papers(directions, phase, names):
    model = with_spatial(small(phase=phase, directions=directions, noises_per_sample=2, snr_gamma=1.0)).eval()
    found = model.losses(OFF, names, 0.5)
    each = [losses_by_hand(model, OFF, direction, names, 0.5) for direction in directions]
    expected = {name: torch.stack([losses[name] for losses in each]).mean() for name in each[0]}
    assert found.keys() == expected.keys() | {"loss"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["loss"], expected["noise"] + expected.get("mask", 0.0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_each_step_has_its_own_draws_and_validation_drops_nothing(monkeypatch):
    model, logged = small(condition_dropout=1.0).eval(), {}
    monkeypatch.setattr(model, "log_dict", lambda values, **kwargs: logged.update(values))
    found = []
    for step in (0, 7):
        monkeypatch.setattr(TWGTM, "global_step", property(lambda self, step=step: step))
        found.append(model.training_step(OFF, 0))
        assert torch.equal(found[-1], model.losses(OFF, ("train", step), 1.0)["loss"]) and torch.equal(logged["train/loss"], found[-1])
    assert found[0] != found[1]
    model.validation_step(OFF, 0)
    assert torch.equal(logged["val/loss"], model.losses(OFF, ("val",), 0.0)["loss"])
    assert logged["val/loss"] != model.losses(OFF, ("val",), 1.0)["loss"]


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_all_but_the_unet_runs_once(scale):
    model, calls = small(steps=4, guidance_scale=scale).eval(), {}
    network = model.network

    def count(name):
        return lambda module, args, out: calls.setdefault(name, []).append(len(args[0]))

    for name, part in (("unet", network.unet), ("swin", network.spatial.swin), ("clip", model.image_encoder)):
        part.register_forward_hook(count(name))
    for attn in (*network._self_attention.values(), *network._cross_attention.values()):
        if hasattr(attn.processor, "to_k_spatial"):
            attn.processor.to_k_spatial.register_forward_hook(count("spatial keys"))
    model.try_on(ON)
    assert calls["unet"] == [3 if scale == 1.0 else 6] * 4
    assert calls["swin"] == calls["clip"] == [3]
    assert len(calls["spatial keys"]) == len(network._self_attention) * (1 if scale == 1.0 else 2)


@torch.no_grad()
def test_a_rectangle_leaves_white_known_around_the_garment(monkeypatch):
    def seen(model):
        found = []
        monkeypatch.setattr(model, "paint", lambda painting, ids, reference: found.append(painting))
        model.take_off(OFF)
        return found[0]

    whole, rectangle = seen(small()), seen(small(rectangle=(0.25, 0.125, 0.75, 0.875)))
    assert rectangle.hole[:, :, 8:56, 12:36].all() and rectangle.hole.float().mean() == 0.375
    assert rectangle.kept[..., :8, :].eq(1).all() and rectangle.kept[..., 8:56, 12:36].eq(0).all()
    assert whole.hole.all() and whole.kept.eq(0).all()
    predicted = small(rectangle="predicted")
    logits = torch.full((3, 1, 16, 12), -9.0)
    logits[..., 4:8, 3:6] = 9.0
    monkeypatch.setattr(predicted, "reference", lambda painting, categories: (None, logits))
    box = seen(predicted).hole
    assert box[..., 16:32, 12:24].all() and box.float().mean() < 0.2
    codec = small().codec
    for painting_ in (whole, rectangle):
        torch.testing.assert_close(painting_.kept_latents, codec.encode(painting_.kept))


@torch.no_grad()
def test_variant_2_stretches_the_garment_into_the_hole(monkeypatch):
    model = small(layout="warped").eval()
    assert model.try_on(ON).shape == ON.agnostic.shape and model.take_off(OFF).shape == OFF.person.shape
    monkeypatch.setattr(model.codec, "encode", lambda images: images[:, [0, 1, 2, 0], ::4, ::4])
    flat = torch.zeros_like(ON.garment)
    flat[:, 0] = 255  # red, on whatever the garment's own background is
    shown = painting(model, replace(ON, garment=torch.where(ON.garment_mask, flat, ON.garment)), "vton")
    condition = model.condition(shown)
    assert condition.shape == (3, 5, 16, 12) and torch.equal(condition[:, 4:].bool(), ~ON.mask[..., ::4, ::4])
    inside = ON.mask[:, 0, ::4, ::4]
    assert condition[:, 0][inside].min() > 0.9 and condition[:, 1][inside].max() < -0.9
    outside = model.codec.encode(to_float(ON.person))
    assert torch.equal(condition[:, :4].masked_fill(inside[:, None], 0), outside.masked_fill(inside[:, None], 0))
    monkeypatch.setattr(model, "encoded", lambda kind, batch: torch.zeros(3, 8, 16, 12))
    reference = Reference(torch.ones(3, 9, 64), [])
    _, bare = model.drop(reference, condition, shown._replace(kept_latents=torch.zeros(3, 4, 16, 12)), torch.tensor([True, False, True]))
    assert torch.equal(bare[0], condition[0]) and not bare[1, :4].any() and torch.equal(bare[1, 4], condition[1, 4])


@torch.no_grad()
def test_low_precision_gives_nearly_the_same():
    exact, low = small(), small().bfloat16()
    for batch in (OFF, ON):
        expected, found = (model.losses(batch, ("val",), 0.0)["loss"] for model in (exact, low))
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    image = exact.try_on(ON)
    with torch.autocast("cpu", torch.bfloat16):
        assert (exact.try_on(ON) - image).abs().mean() < 0.05
        torch.testing.assert_close(exact.losses(OFF, ("val",), 0.0)["loss"], expected, rtol=0.05, atol=0.02)


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = with_spatial(small(gradient_checkpointing=checkpointing)).train()
        assert model.network.unet.is_gradient_checkpointing == checkpointing
        model.losses(OFF, ("val",), 0.0)["loss"].backward()
        gradients.append(model.network.unet.conv_in.weight.grad)
    torch.testing.assert_close(*gradients)


def test_phase_1_learns_the_flat_mask_and_leaves_the_extended_attention_alone():
    model = small(phase=1, mask_weight=0.5, dice_weight=2.0, bce_weight=3.0)
    losses = model.losses(OFF, ("train", 0), 0.0)
    torch.testing.assert_close(losses["loss"], losses["noise"] + 0.5 * losses["mask"])
    losses["loss"].backward()
    still = [parameter for part in model.network.spatial_parts() for parameter in part.parameters()]
    assert still and all(parameter.grad is None for parameter in still)
    assert model.network.spatial.taskformer.task.first.grad[0].abs().sum() > 0
    assert not model.network.spatial.taskformer.task.first.grad[1:].any()  # the other maps wait for phase 2
    hole = painting(model, OFF, "vtoff", ("train", 0)).hole
    assert torch.equal(hole, OFF.garment_mask), "phase 1 repaints the garment's own mask"


def test_the_mask_loss_is_dice_and_bce():
    target = torch.zeros(2, 1, 4, 4)
    target[..., :2] = 1
    logits = torch.randn(2, 1, 4, 4)
    found, p = masks.mask_loss(logits, target, 2.0, 3.0), logits.sigmoid()
    dice = torch.stack([1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, target, strict=True)]).mean()
    bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(found, 2 * dice + 3 * bce)
    assert masks.mask_loss(20 * (2 * target - 1), target, 1.0, 1.0) < 1e-3


def test_phase_2_starts_from_phase_1_and_trains_everything(tmp_path):
    first, second = small(phase=1), small()
    with torch.no_grad():
        first.network.unet.conv_in.bias.add_(1)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "one.ckpt")
    second.load_parents({"phase1": tmp_path / "one.ckpt"})
    assert torch.equal(second.network.unet.conv_in.bias, first.network.unet.conv_in.bias)
    second.losses(OFF, ("train", 0), 0.0)["loss"].backward()
    trained = {name for name, parameter in second.named_parameters() if parameter.requires_grad}
    assert not [name for name in trained if second.get_parameter(name).grad is None]
    with pytest.raises(UserError, match="phase1"):
        second.load_parents({"coarse": tmp_path / "one.ckpt"})


def test_a_dropped_reference_leaves_the_person_and_the_mask(twgtm):
    shown = painting(twgtm, ON, "vton")
    reference, _ = twgtm.reference(shown, ON.category)
    condition = twgtm.condition(shown)
    bare, dropped = twgtm.drop(reference, condition, shown, torch.tensor([True, False, True]))
    assert torch.equal(dropped[[0, 2]], condition[[0, 2]]) and torch.equal(bare.semantic[0], reference.semantic[0])
    assert torch.equal(dropped[1, ..., :12], condition[1, ..., :12]) and dropped[1, 4, :, 12:].eq(1).all()
    assert not dropped[1, :4, :, 12:].any() and not bare.semantic[1].any() and not any(tokens[1].any() for tokens in bare.spatial)


def test_steps_of_training_lower_the_loss():
    model = small(phase=1, condition_dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    values = []
    for _ in range(6):
        loss = model.losses(OFF, ("val",), 0.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.95 * values[0]


def test_squares_grow_and_shrink_with_the_draw():
    flat = torch.zeros(64, 1, 32, 24, dtype=torch.bool)
    flat[..., 8:24, 6:18] = True
    ids = [f"s{index}" for index in range(64)]
    boxes = masks.grown_squares(flat, (-0.25, 0.5), ids, 0, "growth")
    assert torch.equal(boxes[3:5], masks.grown_squares(flat[3:5], (-0.25, 0.5), ids[3:5], 0, "growth"))
    areas = boxes.sum(dim=(1, 2, 3))
    assert areas.min() < 16 * 12 < areas.max() and areas.max() <= 32 * 24 and areas.min() >= 1
    assert torch.equal(masks.grown_squares(flat, (0.0, 0.0), ids, 0, "growth"), flat)
    assert masks.grown_squares(flat, (-0.5, -0.5), ids, 0, "growth").flatten(1).any(dim=1).all()  # never empty
    assert masks.grown_squares(flat, (1.0, 1.0), ids, 0, "growth").all()


def test_a_flat_mask_is_what_is_not_white():
    garment = torch.ones(1, 3, 16, 16)
    garment[..., 4:12, 4:12] = 0.2
    garment[..., 7, 7] = 1.0  # a white dot inside
    found = masks.flat_mask(garment)
    assert found[..., 4:12, 4:12].all() and found.sum() == 64


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"phase": 3}, "phase: 3"),
        ({"directions": ()}, "directions"),
        ({"directions": ("vton", "retrieval")}, "directions: retrieval: unknown"),
        ({"fusion": "added"}, "fusion: added: unknown"),
        ({"layout": "stacked"}, "layout: stacked: unknown"),
        ({"rectangle": (0.5, 0.0, 0.5, 1.0)}, "rectangle"),
        ({"rectangle": "predicted", "spatial": False}, "rectangle: predicted"),
        ({"growth": (0.5, 0.1)}, "growth"),
        ({"growth": (0.1,)}, "growth"),
        ({"spatial_width": 100}, "spatial_width: 100"),
        ({"swin": {"depths": (1, 1)}}, "swin: depths"),
        ({"mask_weight": -1.0}, "mask_weight: -1.0"),
        ({"swin": {"size": 3}}, "swin: size: unknown"),
        ({"units": 0}, "units: 0: must be at least 1"),
        ({"prompts": {"hat": "a hat"}}, "prompts: hat: unknown"),
        ({"steps": 0}, "steps: 0"),
    ],
)
def test_a_wrong_setting_is_one_line(settings, told):
    with pytest.raises(UserError, match=told) as caught:
        small(**settings)
    assert "\n" not in str(caught.value)


def test_masks_that_the_data_lack_are_named():
    with pytest.raises(UserError, match="synthesised_masks"):
        small().losses(replace(OFF, garment_mask=None), ("val",), 0.0)
    assert small(synthesised_masks=True).losses(replace(OFF, garment_mask=None), ("val",), 0.0)["loss"].isfinite()
