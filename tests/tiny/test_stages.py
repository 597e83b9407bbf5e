"""Pieces of the tiny checkpoints' training."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from fashiongen.checkpoints import tiny_weights
from fashiongen.methods.igr.module import PROMPTS
from fashiongen.nn.classifier import AttributeClassifier
from fashiongen.tiny.captions import BLANK, SHORT_CAPTIONS, UNKNOWN, CaptionForms, caption_forms
from fashiongen.tiny.classifiers import worn_garments
from fashiongen.tiny.clip import build_siglip, squares
from fashiongen.tiny.denoiser import build_unet, noise_loss, random_masks, widened
from fashiongen.tiny.images import RenderedImages, heads
from fashiongen.tiny.training import Draws
from fashiongen.tiny.vae import perceptual_distance
from fashiongen.wardrobe import ATTRIBUTES, CATEGORIES, GARMENT_TYPE

CPU = torch.device("cpu")


def test_the_denoiser_has_seen_the_prompts_it_gets():
    assert PROMPTS.items() <= SHORT_CAPTIONS.items()


def test_each_choice_is_taken_with_its_probability_and_the_first_draws_take_the_first():
    count = 20_000
    first, second, otherwise = torch.full((1, 3), 1), torch.full((count, 3), 2), torch.zeros(count, 3, dtype=torch.long)
    mixed = Draws(0, 0, CPU).mix((first, 0.3), (second, 0.4), otherwise=otherwise)
    drawn = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 3)
    assert torch.equal(mixed, torch.where(drawn < 0.3, 1, torch.where(drawn < 0.7, 2, 0))), "one draw a sample, in the order of the choices"
    shares = torch.bincount(mixed[:, 0]) / count
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.3, 0.4]), rtol=0, atol=4 * (0.25 / count) ** 0.5)


def test_a_sample_keeps_its_own_of_each_choice():
    own = torch.arange(50).view(50, 1, 1).expand(-1, 2, 3)
    mixed = Draws(0, 0, CPU).mix((own + 100, 0.5), otherwise=own)
    assert torch.equal(mixed % 100, own)
    assert 0 < (mixed[:, 0, 0] >= 100).sum() < 50


def rendered(count=6, height=64, width=48):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(count, 1, height, width, dtype=torch.bool)
    masks[:, :, 20:40, 12:30] = True
    labels = {name: torch.arange(count) % len(values) for name, values in heads().items()}
    images = torch.randint(256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    return RenderedImages(images, masks, labels, [f"caption {index}" for index in range(count)])


def test_every_image_has_its_own_caption_in_every_form():
    images = rendered(30)
    texts: list[str] = []

    def encode(captions):
        texts.extend(captions)
        return torch.arange(len(texts) - len(captions), len(texts))

    forms = caption_forms(images, encode)
    assert len(texts) == len(set(texts)), "a text was encoded twice"
    read = {name: [texts[row] for row in getattr(forms, name)] for name in ("full", "structured", "prompt", "short", "empty", "blank")}
    assert read["full"] == images.captions
    assert (read["empty"], read["blank"]) == ([""], [BLANK])
    known = 0
    for index, caption in enumerate(read["structured"]):
        values = json.loads(caption)
        assert list(values) == list(ATTRIBUTES)
        for name, value in values.items():
            assert value in (UNKNOWN, ATTRIBUTES[name][images.labels[name][index]])
            known += value != UNKNOWN
        category = CATEGORIES[images.labels["category"][index]]
        assert f" {category}, on white background" in read["prompt"][index]
        assert read["short"][index] == SHORT_CAPTIONS[GARMENT_TYPE[category]]
    assert 0 < known < 4 * len(images)


def test_captions_are_drawn_by_their_probabilities():
    count = 6
    forms = CaptionForms(
        torch.arange(100.0), *(torch.arange(count) + 10 * form for form in range(4)), torch.tensor([40]), torch.tensor([50])
    )
    chosen = torch.arange(12_000) % count
    drawn = forms.drawn(Draws(0, 0, CPU), chosen, structured=0.3, prompt=0.1, short=0.05, empty=0.2)
    assert torch.equal(drawn[drawn < 40] % 10, chosen[drawn < 40].float()), "a caption of another image"
    shares = torch.bincount((drawn // 10).long(), minlength=5) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.35, 0.3, 0.1, 0.05, 0.2]), rtol=0, atol=0.02)


def test_a_worn_garment_fills_the_crop_and_nothing_else_is_seen():
    people = rendered(2)
    crops = worn_garments(people)
    assert crops.images.shape == people.images.shape
    changed = torch.where(people.masks, people.images, 255 - people.images)
    assert torch.equal(worn_garments(replace(people, images=changed)).images, crops.images), "it depends on what is outside of the region"
    inside = people.images[:, :, 20:40, 12:30].float()
    assert (crops.images.float().mean((2, 3)) - inside.mean((2, 3))).abs().max() < 2


def test_masks_to_repaint_have_their_stated_kinds():
    people = rendered(2000)
    masks = random_masks(people, Draws(0, 0, CPU))
    assert masks.shape == people.masks.shape
    assert masks.dtype == torch.bool
    everything = masks.all(dim=(1, 2, 3)).float().mean()
    exact = (masks == people.masks).all(dim=(1, 2, 3)).float().mean()
    corners = masks[:, 0, 0, 0] & masks[:, 0, -1, -1]
    assert abs(everything - 0.1) < 0.03
    assert abs(exact - 0.25) < 0.04
    assert abs(corners.float().mean() - 0.2) < 0.05  # everything, and everything but a box
    assert masks.any(dim=(1, 2, 3)).all()


def test_min_snr_weights_are_those_of_the_paper():
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    timestep = torch.tensor([0, 400, 999])
    error = torch.full((3, 4, 2, 2), 2.0)
    alphas = schedule.alphas_cumprod[timestep]
    weights = [min(5.0 * (1 - alpha) / alpha, 1.0) for alpha in alphas.tolist()]
    expected = 4.0 * sum(weights) / 3
    assert noise_loss(schedule, error, torch.zeros_like(error), timestep).item() == pytest.approx(expected, rel=1e-5)


def test_an_inpainting_denoiser_starts_as_the_denoiser():
    torch.manual_seed(0)
    unet = build_unet(8).eval()
    wide = widened(unet).eval()
    latents, text = torch.randn(2, 4, 16, 12), torch.randn(2, 5, 8)
    condition = torch.randn(2, 5, 16, 12)
    with torch.no_grad():
        expected = unet(latents, 10, text).sample
        torch.testing.assert_close(wide(torch.cat([latents, condition], dim=1), 10, text).sample, expected)


def test_siglips_loss_starts_with_the_papers_scale_and_bias():
    """From transformers' 1 and 0 every pair counts as a match at first, and the embeddings collapse before that is unlearnt."""
    network = build_siglip(CLIPTokenizer.from_pretrained(tiny_weights() / "clip"))
    assert network.logit_scale.exp().item() == pytest.approx(10) and network.logit_bias.item() == -10


def test_whole_images_are_padded_by_their_edges():
    image = rendered(1)
    square = squares(image, torch.tensor([0]))
    assert square.shape == (1, 3, 64, 64)
    torch.testing.assert_close(square[..., 8:-8], image.images.float() / 127.5 - 1)
    assert torch.equal(square[..., :8], square[..., 8:9].expand(-1, -1, -1, 8))


def test_the_autoencoders_perceptual_distance_is_zero_only_for_equal_images():
    torch.manual_seed(0)
    eyes = AttributeClassifier(heads()).eval()
    images = torch.rand(2, 3, 64, 48) * 2 - 1
    assert perceptual_distance(eyes, images, images).item() == pytest.approx(0, abs=1e-6)
    assert perceptual_distance(eyes, images.flip(3), images).item() > 1e-3
