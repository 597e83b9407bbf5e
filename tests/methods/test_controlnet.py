"""ControlNet on outfits: its control image, what it starts as, and what it trains."""

import pytest
import torch
from drawn_outfits import SIZE, of_lengths, outfit_batch
from torch.nn.functional import interpolate

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.methods.controlnet import ControlNet
from fashiongen.methods.controlnet.module import collages
from fashiongen.methods.stable_diffusion import SDv15

FEW = {"sampler": "ddim", "steps": 2}


def test_the_control_image_shows_the_other_items():
    batch = outfit_batch(2)
    images, row = to_float(batch.true_images.values), batch.blank.row_of
    found = collages(images, row, torch.ones(8, dtype=torch.bool), 2)
    small = interpolate(images, size=(32, 24), mode="bilinear", antialias=True).clamp(-1, 1)
    for item in range(8):
        outfit, place = divmod(item, 4)
        wanted = torch.ones(3, *SIZE)
        for other in range(4):
            if other != place:
                top, left = 32 * (other // 2), 24 * (other % 2)
                wanted[:, top : top + 32, left : left + 24] = small[4 * outfit + other]
        torch.testing.assert_close(found[item], wanted)
    assert (collages(images, row, torch.zeros(8, dtype=torch.bool), 2) == 1).all()


def test_it_starts_as_stable_diffusion():
    """The control network's outputs start at zero; they are not zero once it is trained."""
    batch, plain, method = outfit_batch(1), SDv15(**FEW).eval(), ControlNet(**FEW).eval()
    torch.testing.assert_close(method.fill_blank(batch).images, plain.fill_blank(batch).images, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for block in method.controlnet.controlnet_down_blocks:
            block.weight.add_(0.1)
        method.controlnet.controlnet_cond_embedding.conv_out.weight.add_(0.1)
    changed = batch.select([0])
    changed.images.values[1] = 255 - changed.images.values[1]
    first, second = method.fill_blank(batch).images, method.fill_blank(changed).images
    assert not torch.allclose(first, plain.fill_blank(batch).images, atol=1e-2) and not torch.allclose(first, second, atol=1e-4)


def test_it_trains_the_control_network_alone():
    method, batch = ControlNet(**FEW), outfit_batch(2, training=True)
    method.denoising_loss(batch, ("train", 0)).backward()
    assert not any(parameter.requires_grad for parameter in method.unet.parameters())
    assert all(block.weight.grad.abs().sum() > 0 for block in method.controlnet.controlnet_down_blocks)
    saved = method.state_dict()
    assert saved and all(key.startswith("controlnet.") for key in saved)
    assert any(key.startswith("unet.") for key in ControlNet(train_unet=True, **FEW).state_dict())


def test_a_dropped_outfit_is_a_white_control_image():
    method, batch = ControlNet(outfit_dropout=1.0, **FEW), outfit_batch(1, training=True)
    conditions = method.training_conditions(batch, method.true_latents(batch), ["a", "b", "c", "d"], ("train", 0))
    assert (conditions.extra == 1).all()
    assert not (method.training_conditions(batch, method.true_latents(batch), ["a", "b", "c", "d"], ("val",)).extra == 1).all()
    with pytest.raises(UserError, match="outfit_dropout"):
        ControlNet(outfit_dropout=2.0)


def test_outfits_of_different_lengths_share_a_batch():
    method = ControlNet(**FEW).eval()
    with torch.no_grad():
        for block in method.controlnet.controlnet_down_blocks:
            block.weight.add_(0.1)
        method.controlnet.controlnet_cond_embedding.conv_out.weight.add_(0.1)
    batch = of_lengths([4, 2, 5])
    together = method.fill_blank(batch).images
    for row in range(3):
        torch.testing.assert_close(method.fill_blank(batch.select([row])).images[:, 0], together[:, row], atol=1e-3, rtol=1e-3)
