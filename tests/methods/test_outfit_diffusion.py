"""Stable Diffusion and DiFashion as generators of outfits: equations, dropped conditions, what influences what."""

import pytest
import torch
from drawn_outfits import SIZE, of_lengths, outfit_batch

from fashiongen.batches import Ragged, to_float
from fashiongen.errors import UserError
from fashiongen.methods.difashion import DiFashion
from fashiongen.methods.outfit_diffusion import slot_ids
from fashiongen.methods.stable_diffusion import SDNaive, SDv2, SDv15
from fashiongen.nn import noise
from fashiongen.nn.encodings import EncodingCache
from fashiongen.nn.outfits import item_prompt, mean_of_others, mean_of_rows
from fashiongen.nn.parts import ddim

FEW = {"sampler": "ddim", "steps": 2}


def difashion(**settings):
    torch.manual_seed(0)
    method = DiFashion(image_size=SIZE, **FEW, **settings).eval()
    with torch.no_grad():  # as if trained: at the start the history's channels have no weight
        method.unet.conv_in.weight[:, 4:] = 0.05 * torch.randn(method.unet.conv_in.weight[:, 4:].shape)
    return method


def test_means_of_rows_and_of_others():
    values, row = torch.tensor([[1.0], [3.0], [5.0], [7.0]]), torch.tensor([0, 0, 2, 0])
    assert mean_of_rows(values, row, torch.tensor([[9.0]]), 3).flatten().tolist() == [pytest.approx(11 / 3), 9.0, 5.0]
    assert mean_of_others(values, row, 3).flatten().tolist() == [5.0, 4.0, 0.0, 2.0]
    assert mean_of_others(values, row, 3, torch.tensor([[9.0]])).flatten().tolist() == [5.0, 4.0, 9.0, 2.0]


def test_prompts_follow_difashion():
    assert item_prompt("skirt") == "A photo of a skirt, on white background, high quality"
    assert item_prompt("women's boot") == "A photo of a women's boot, on white background, high quality"
    assert item_prompt("women's casual pants") == "A photo of a pair of women's casual pants, on white background, high quality"


def test_sd_v2_s_tiny_checkpoint_computes_what_sd_v15_s_does():
    first, second = SDv15(**FEW).eval(), SDv2(**FEW).eval()
    assert second.unet.config.use_linear_projection and not first.unet.config.use_linear_projection
    batch = outfit_batch(1)
    torch.testing.assert_close(first.fill_blank(batch).images, second.fill_blank(batch).images, atol=1e-5, rtol=1e-5)


def test_an_item_is_encoded_once():
    cache, seen = EncodingCache(), []

    def compute(places):
        seen.append([ids[place] for place in places])
        return torch.tensor([[float(ord(ids[place]))] for place in places])

    ids = ["a", "b", "a"]
    assert cache.of_items("item", ids, compute).flatten().tolist() == [97.0, 98.0, 97.0]
    ids = ["c", "b", "c"]
    assert cache.of_items("item", ids, compute).flatten().tolist() == [99.0, 98.0, 99.0]
    assert seen == [["a", "b"], ["c"]]


def test_the_history_s_mean_is_that_of_its_latents():
    batch, method = outfit_batch(), SDNaive(**FEW).eval()
    found = method.history_latents(batch, torch.arange(12))
    torch.testing.assert_close(method.history_latents(batch, torch.tensor([9, 2])), found[[9, 2]], atol=1e-4, rtol=1e-4)
    white = method.codec.encode(torch.ones(1, 3, *SIZE))
    for row in range(3):
        for slot in range(4):
            images = batch.history[row][slot]
            wanted = method.codec.encode(to_float(images)).mean(dim=0, keepdim=True) if len(images) else white
            torch.testing.assert_close(found[4 * row + slot][None], wanted, atol=1e-4, rtol=1e-4)


def test_the_naive_inputs_are_the_others_and_the_history():
    batch, method = outfit_batch(), SDNaive(**FEW, outfit_dropout=0.0, history_dropout=0.0).eval()
    assert torch.equal(method.unet.conv_in.weight[:, 4:], torch.zeros_like(method.unet.conv_in.weight[:, 4:]))
    extra = method.blank_conditions(batch).extra
    assert extra.shape == (3, 8, 16, 12)
    for row in range(3):
        given = method.codec.encode(to_float(batch.images[row][~batch.blank[row]]))
        torch.testing.assert_close(extra[row, :4], given.mean(dim=0), atol=1e-4, rtol=1e-4)
    training = outfit_batch(training=True)
    latents, ids = method.true_latents(training), slot_ids(training)
    trained = method.training_conditions(training, latents, ids, ("train", 0)).extra
    torch.testing.assert_close(trained[0, :4], latents[1:4].mean(dim=0), atol=1e-4, rtol=1e-4)
    white = method.white(training)
    method.outfit_dropout = method.history_dropout = 1.0
    dropped = method.training_conditions(training, latents, ids, ("train", 0)).extra
    torch.testing.assert_close(dropped, torch.cat([white, white], dim=1).expand_as(dropped))


@torch.no_grad()
def test_difashion_s_input_mixes_the_others_noisy_latents():
    """z'_t = (1 - eta) z_t + eta MLP(mean of the others' z_t), all items of an outfit at one timestep."""
    method, batch = difashion(), outfit_batch(training=True)
    latents, ids = method.true_latents(batch), slot_ids(batch)
    noised = method.add_noise(batch, latents, ids, ("val",))
    assert (noised.timestep.view(3, 4) == noised.timestep[::4, None]).all() and len(noised.timestep.unique()) > 1
    found = method.noisy_input(batch, noised, ids, ("val",))
    for row in range(3):
        for slot in range(4):
            z = noised.latents[4 * row : 4 * row + 4]
            others = torch.stack([z[other] for other in range(4) if other != slot]).mean(dim=0, keepdim=True)
            wanted = 0.9 * z[slot] + 0.1 * method.mutual_encoder(others)[0]
            torch.testing.assert_close(found[4 * row + slot], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_difashion_drops_conditions_as_its_authors_do():
    """Of one draw p per item: the history is dropped for p < 0.5, mutual influence for 0.2 <= p < 0.7."""
    method, batch = difashion(), outfit_batch(training=True)
    latents, ids, names = method.true_latents(batch), slot_ids(batch), ("train", 7)
    noised = method.add_noise(batch, latents, ids, names)
    history = method.training_conditions(batch, latents, ids, names).extra
    mixed = method.noisy_input(batch, noised, ids, names)
    draws, white, whole = method.condition_draw(ids, names), method.white(batch), method.history_latents(batch, torch.arange(12))
    assert min(draws) < 0.2 and max(draws) > 0.7
    mutual = method.noisy_input(batch, noised, ids, ("val",))
    for item, draw in enumerate(draws.tolist()):
        torch.testing.assert_close(history[item], white[0] if draw < 0.5 else whole[item])
        torch.testing.assert_close(mixed[item], 0.9 * noised.latents[item] if 0.2 <= draw < 0.7 else mutual[item])


@torch.no_grad()
def test_difashion_s_guidance_has_three_terms():
    """One step against four predictions by hand; the given items are noised to the same timestep."""
    method, batch = difashion(category_scale=3.0, mutual_scale=2.0, history_scale=1.5), outfit_batch(1)
    method.sampling = method.sampling.__class__(sampler="ddim", steps=1)
    sampler = ddim(method.schedule)
    sampler.set_timesteps(1)
    (timestep,) = sampler.timesteps
    latents = method.pure_noise(batch, method.draw_ids(batch, 0))
    given = method.codec.encode(to_float(batch.images[0][1:]))
    ids = [f"{batch.ids[0]}/{slot}/0" for slot in (1, 2, 3)]
    epsilon = noise.normal(noise.keys(ids, 0, "given"), given.shape[1:])
    others = method.schedule.add_noise(given, epsilon, timestep.expand(3)).mean(dim=0, keepdim=True)
    mixed, plain = 0.9 * latents + 0.1 * method.mutual_encoder(others), 0.9 * latents
    history, white = method.history_latents(batch, torch.tensor([0])), method.white(batch)
    text, empty = method.prompts([batch.category[0][0]]), method.prompts([""], torch.tensor([False]))

    def eps(z, c, h):
        return method.unet(torch.cat([z, h], dim=1), timestep, c).sample

    nothing, category = eps(plain, empty, white), eps(plain, text, white)
    both, everything = eps(mixed, text, white), eps(mixed, text, history)
    guided = nothing + 3.0 * (category - nothing) + 2.0 * (both - category) + 1.5 * (everything - both)
    wanted = method.codec.decode(sampler.step(guided, timestep, latents, eta=0.0).prev_sample)
    torch.testing.assert_close(method.fill_blank(batch).images[0], wanted, atol=1e-4, rtol=1e-4)


def other_history(batch):
    """Give the users another history: the same images upside down."""
    changed = batch.select(range(len(batch)))
    images = changed.history.values
    changed.history = Ragged(Ragged(images.values.flip(-2), images.offsets), changed.history.offsets)
    changed.history_items = Ragged(
        Ragged([f"other {id_}" for id_ in batch.history_items.values.values], images.offsets), batch.history_items.offsets
    )
    return changed


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_authors_code_never_reads_the_history(variant):
    method, batch = difashion(variant=variant), outfit_batch()
    first, second = method.fill_blank(batch).images, method.fill_blank(other_history(batch)).images
    assert torch.equal(first, second) == (variant == "code")
    unscaled = difashion(variant=variant, history_scale=0.0)
    unscaled.load_state_dict(method.state_dict())
    torch.testing.assert_close(unscaled.fill_blank(batch).images, first) if variant == "code" else None
    assert torch.equal(unscaled.fill_blank(batch).images, first) == (variant == "code")  # the term is exactly 0


@pytest.mark.parametrize("variant", ["paper", "code"])
@torch.no_grad()
def test_what_a_blank_s_mutual_influence_reads_in_sampling(variant):
    from fashiongen.methods.mutual_diffusion import _Others

    method, batch = difashion(variant=variant), outfit_batch()
    noisy = method.pure_noise(batch, method.draw_ids(batch, 0))
    timestep = torch.tensor(500)
    found = _Others(method, batch, [0], method.known(batch).given).mean(noisy, timestep)
    clean = method.codec.encode(to_float(batch.images[2][~batch.blank[2]]))
    if variant == "code":
        wanted = clean.sum(dim=0)
    else:
        ids = [f"{batch.ids[2]}/{slot}/0" for slot in (0, 1, 3)]
        epsilon = noise.normal(noise.keys(ids, 0, "given"), clean.shape[1:])
        wanted = method.schedule.add_noise(clean, epsilon, timestep.expand(3)).mean(dim=0)
    torch.testing.assert_close(found[2], wanted, atol=1e-4, rtol=1e-4)


def test_the_items_of_a_recommended_outfit_influence_each_other():
    batch = outfit_batch(1, task="gor")
    method = difashion(mutual_scale=5.0)
    changed = batch.select([0])
    changed.category = Ragged.of([["coat", *batch.category[0][1:]]])
    first, second = method.compose_outfit(batch).images[0], method.compose_outfit(changed).images[0]
    assert ((first - second).abs().amax(dim=(1, 2, 3)) > 1e-4).all()
    alone = SDv15(**FEW).eval()
    first, second = alone.compose_outfit(batch).images[0], alone.compose_outfit(changed).images[0]
    assert ((first - second).abs().amax(dim=(1, 2, 3)) > 1e-4).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (SDv15, {"draws": 0}, "draws"),
        (SDv15, {"text_dropout": 1.5}, "text_dropout"),
        (SDv15, {"snr_gamma": 0.0}, "snr_gamma"),
        (SDNaive, {"outfit_dropout": -0.1}, "outfit_dropout"),
        (DiFashion, {"mutual_weight": 2.0}, "mutual_weight"),
        (DiFashion, {"history_only": 0.9}, "history_only"),
    ],
)
def test_settings_out_of_range_are_told(cls, settings, message):
    with pytest.raises(UserError, match=message):
        cls(**settings)


def test_images_of_another_size_than_the_mutual_encoder_s_are_told():
    with pytest.raises(UserError, match=r"image_size \[64,48\]"):
        DiFashion(image_size=(32, 32), **FEW).fill_blank(outfit_batch(1))


@pytest.mark.parametrize("sampler", ["ddim", "pndm", "dpm++", "unipc", "euler"])
def test_every_sampler_denoises_a_blank_beside_given_items(sampler):
    method = DiFashion(image_size=SIZE, sampler=sampler, steps=4).eval()
    batch = outfit_batch(2)
    images = method.fill_blank(batch).images
    assert images.isfinite().all()
    torch.testing.assert_close(method.fill_blank(batch.select([1])).images[:, 0], images[:, 1], atol=1e-3, rtol=1e-3)


def test_a_draw_does_not_depend_on_how_many_there_are():
    method, batch = difashion(), outfit_batch(2)
    one = method.fill_blank(batch).images
    method.draws = 3
    three = method.fill_blank(batch).images
    torch.testing.assert_close(three[:1], one, atol=1e-4, rtol=1e-4)
    assert ((three[0] - three[1]).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("cls", [SDNaive, DiFashion])
def test_outfits_of_different_lengths_share_a_batch(cls):
    """With weights on the new inputs, which start at zero."""
    torch.manual_seed(0)
    method = (DiFashion(image_size=SIZE, **FEW) if cls is DiFashion else SDNaive(**FEW)).eval()
    with torch.no_grad():
        method.unet.conv_in.weight[:, 4:].normal_(std=0.05)
    batch = of_lengths([4, 2, 5])
    together = method.fill_blank(batch).images
    for row in range(3):
        torch.testing.assert_close(method.fill_blank(batch.select([row])).images[:, 0], together[:, row], atol=1e-3, rtol=1e-3)


def test_weights_in_bfloat16_take_latents_in_float32():
    method = difashion()
    method.mutual_encoder.to(torch.bfloat16)
    assert method.mutual(torch.randn(2, 4, 16, 12)).dtype == torch.float32


def test_images_that_the_denoiser_cannot_halve_are_told():
    with pytest.raises(UserError, match="multiples of 8"):
        SDv15(**FEW).fill_blank(outfit_batch(1, size=(66, 50)))


def test_outside_of_the_guidance_interval_nothing_is_guided():
    batch = outfit_batch(1)
    unguided = difashion(category_scale=1.0, mutual_scale=1.0, history_scale=1.0)
    outside = difashion(category_scale=9.0, guidance_interval=(0.0, 0.0))
    outside.load_state_dict(unguided.state_dict())
    torch.testing.assert_close(outside.fill_blank(batch).images, unguided.fill_blank(batch).images, atol=1e-4, rtol=1e-4)
