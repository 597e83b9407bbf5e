"""TWGTM in training and sampling: its inputs in both directions, its losses, its phases, and what it computes once."""

from dataclasses import replace

import pytest
import torch
from small_twgtm import batches, small

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.twgtm import masks

OFF, ON = batches()


@pytest.fixture(scope="module")
def twgtm():
    return small().eval()


@torch.no_grad()
def test_the_order_of_the_images_decides_the_direction(twgtm):
    """I_t = [Noise(E(h_i)), E(h_f), h_m]: try-on has [x_a, c] and [1 - M, 1], try-off [c_a, x] and [1 - M_c, 1]."""
    dressed = twgtm.condition(twgtm.painting(ON, "vton", ("val",)))
    restored = twgtm.condition(twgtm.painting(ON, "vtoff", ("val",)))
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
def test_sampling_is_the_plain_way_s(twgtm):
    """References read again in each step, guidance in two passes, DDIM by hand."""
    from fashiongen.nn import noise
    from fashiongen.nn.parts import ddim

    garment = to_float(ON.garment)
    sampler = ddim(twgtm.schedule)
    sampler.set_timesteps(2)
    latents = noise.normal(noise.keys(ON.ids, twgtm.seed, "sample", 0, 0), (4, 16, 24))
    for timestep in sampler.timesteps:
        predictions = []
        for kept in (False, True):
            first = twgtm.codec.encode(to_float(ON.agnostic) * ~ON.mask)
            beside = torch.cat([first, twgtm.codec.encode(garment) * kept], dim=-1)
            keep = torch.cat([~ON.mask, torch.ones_like(ON.mask)], dim=-1)[..., ::4, ::4].float()
            painting = twgtm.painting(ON, "vton", ("val",))
            reference, _ = twgtm.reference(painting, ON.category)
            reference = type(reference)(reference.semantic * kept, [tokens * kept for tokens in reference.spatial])
            condition = torch.cat([beside, keep], dim=1)
            predictions.append(twgtm.network(latents, condition, timestep, twgtm.network.memory(reference), reference.semantic))
        epsilon = predictions[0] + 2.5 * (predictions[1] - predictions[0])
        latents = sampler.step(epsilon, timestep, latents).prev_sample
    torch.testing.assert_close(twgtm.try_on(ON), twgtm.codec.decode(latents[..., :12]), atol=1e-4, rtol=1e-4)


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
def test_a_rectangle_leaves_white_known_around_the_garment():
    whole, rectangle = small(), small(rectangle=(0.25, 0.125, 0.75, 0.875))
    seen = []
    rectangle.paint = lambda painting, ids, categories: seen.append(painting)
    rectangle.take_off(OFF)
    assert seen[0].hole[:, :, 8:56, 12:36].all() and seen[0].hole.float().mean() == 0.375
    assert seen[0].known[..., :8, :].eq(1).all() and seen[0].known[..., 8:56, 12:36].eq(0).all()
    whole.paint = lambda painting, ids, categories: seen.append(painting)
    whole.take_off(OFF)
    assert seen[1].hole.all() and seen[1].known.eq(0).all()
    predicted = small(rectangle="predicted")
    predicted.paint = lambda painting, ids, categories: seen.append(painting)
    predicted.take_off(OFF)
    assert seen[2].hole.flatten(1).any(dim=1).all()


def test_phase_1_learns_the_flat_mask_and_leaves_the_extended_attention_alone():
    model = small(phase=1, mask_weight=0.5, dice_weight=2.0, bce_weight=3.0)
    losses = model.losses(OFF, ("train", 0), 0.0)
    torch.testing.assert_close(losses["loss"], losses["noise"] + 0.5 * losses["mask"])
    losses["loss"].backward()
    still = [parameter for part in model.network.spatial_parts() for parameter in part.parameters()]
    assert still and all(parameter.grad is None for parameter in still)
    assert model.network.spatial.taskformer.task.first.grad[0].abs().sum() > 0
    assert not model.network.spatial.taskformer.task.first.grad[1:].any()  # the other maps wait for phase 2
    hole = model.painting(OFF, "vtoff", ("train", 0)).hole
    assert torch.equal(hole, OFF.garment_mask), "phase 1 repaints the garment's own mask"


def test_the_mask_loss_is_dice_and_bce():
    model = small(phase=1, dice_weight=2.0, bce_weight=3.0)
    target = torch.zeros(2, 1, 4, 4)
    target[..., :2] = 1
    logits = torch.randn(2, 1, 4, 4)
    found, p = model.mask_loss(logits, target), logits.sigmoid()
    dice = torch.stack([1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, target, strict=True)]).mean()
    bce = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(found, 2 * dice + 3 * bce)
    assert model.mask_loss(20 * (2 * target - 1), target) < 1e-3


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
    painting = twgtm.painting(ON, "vton", ("val",))
    reference, _ = twgtm.reference(painting, ON.category)
    condition = twgtm.condition(painting)
    kept = torch.tensor([True, False, True])
    bare, dropped = twgtm.drop(reference, condition, kept)
    assert torch.equal(dropped[[0, 2]], condition[[0, 2]]) and torch.equal(bare.semantic[0], reference.semantic[0])
    assert torch.equal(dropped[1, ..., :12], condition[1, ..., :12]) and dropped[1, 4, :, 12:].eq(1).all()
    assert not dropped[1, :4, :, 12:].any() and not bare.semantic[1].any() and not any(tokens[1].any() for tokens in bare.spatial)


def test_steps_of_training_lower_the_loss():
    model = small(phase=1, condition_dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    values = []
    for _ in range(10):
        loss = model.losses(OFF, ("val",), 0.0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.9 * values[0]


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
