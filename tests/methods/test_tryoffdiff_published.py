"""TryOffDiff at Stable Diffusion 1.4's size, and the authors' weights by their key tables."""

import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from published_sd15 import SMALL, UNET, empty_part

from fashiongen.checkpoints import read_state, tiny_weights
from fashiongen.errors import UserError
from fashiongen.methods.tryoffdiff import TryOffDiff
from fashiongen.methods.tryoffdiff.network import TryOffDiffNetwork
from fashiongen.methods.tryoffdiff.published import load_published

VERSIONS = ("v1", "v2-single", "v2-multi")
WIDTH, TOKENS = 96, 64  # of the tiny SigLIP
SMALL_UNET = SMALL["unet"] | {"cross_attention_dim": WIDTH}


def key_table(version, unet=SMALL_UNET, width=WIDTH, tokens=TOKENS):
    """The authors' keys with their shapes, as their code names them, without what torch.compile adds."""
    table = {f"unet.{key}": tuple(value.shape) for key, value in empty_part("unet", unet).state_dict().items()}
    table |= {"proj.weight": (77, tokens), "proj.bias": (77,), "norm.weight": (width,), "norm.bias": (width,)}
    if version == "v2-multi":
        table["unet.class_embedding.weight"] = (3, 4 * unet["block_out_channels"][0])
    if version == "v1":
        layer = {"self_attn.in_proj_weight": (3 * width, width), "self_attn.in_proj_bias": (3 * width,)}
        layer |= {"self_attn.out_proj.weight": (width, width), "self_attn.out_proj.bias": (width,)}
        layer |= {"linear1.weight": (2048, width), "linear1.bias": (2048,), "linear2.weight": (width, 2048), "linear2.bias": (width,)}
        layer |= {f"{norm}.{key}": (width,) for norm in ("norm1", "norm2") for key in ("weight", "bias")}
        table |= {f"transformer.{key}": shape for key, shape in layer.items()}
    return table


def write(folder, version, compiled=None, change=lambda state: None):
    """Write a file of random weights by the key table; those of v2 come from a compiled model."""
    torch.manual_seed(3)
    prefix = "_orig_mod." if (version != "v1" if compiled is None else compiled) else ""
    state = {f"{prefix}{key}": torch.randn(shape) * 0.02 for key, shape in key_table(version).items()}
    change(state)
    torch.save(state, folder / "tryoffdiff.pth")
    return folder / "tryoffdiff.pth"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Stable Diffusion's blocks and names with few channels, as wide as the tiny SigLIP, with the tiny autoencoder."""
    folder = tmp_path_factory.mktemp("sd14")
    torch.manual_seed(0)
    UNet2DConditionModel.from_config(SMALL_UNET).save_pretrained(folder / "unet")
    for part in ("vae", "scheduler"):
        shutil.copytree(tiny_weights() / "sd" / part, folder / part)
    return str(folder)


def build(base, version, **settings):
    torch.manual_seed(0)
    sampler = {"sampler": "pndm"} if version == "v1" else {"sampler": "euler", "karras": True}
    return TryOffDiff(base, version=version, image_size=64, **{"steps": 3, **sampler, **settings}).eval()


def network(version):
    unet = UNet2DConditionModel.from_config(SMALL_UNET)
    return TryOffDiffNetwork(unet, version, tokens=TOKENS, width=WIDTH, context=77, dropout=0.1)


@pytest.mark.parametrize(("version", "keys", "adapter"), [("v1", 702, 5_594_445), ("v2-single", 690, 80_461), ("v2-multi", 691, 80_461)])
def test_the_numbers_of_parameters_at_full_size(version, keys, adapter):
    """On the meta device: Stable Diffusion 1.4's denoiser (1.5's config), 1024 SigLIP tokens of 768."""
    with torch.device("meta"):
        whole = TryOffDiffNetwork(empty_part("unet", UNET), version, tokens=1024, width=768, context=77, dropout=0.1)
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in whole.named_children()}
    print(version, counts, sum(counts.values()))
    classes = 3 * 1280 if version == "v2-multi" else 0
    assert counts.pop("unet") == 859_520_964 + classes and sum(counts.values()) == adapter
    # 3,438,732,841 bytes has tryoffdiffv2_multi.pth: four a parameter, and 0.3 MB for the names.
    assert version != "v2-multi" or 4 * (859_520_964 + classes + adapter) == 3_438_421_060
    shapes = {key: tuple(value.shape) for key, value in whole.state_dict().items() if key != "unscaled"}
    assert shapes == key_table(version, UNET, 768, 1024) and len(shapes) == keys


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_is_placed(base, tmp_path, version, compiled):
    file = write(tmp_path, version, compiled)
    method = build(base, version, published=str(file))
    state = {key: value for key, value in method.network.state_dict().items() if key != "unscaled"}
    given = {key.replace("_orig_mod.", ""): value for key, value in read_state(file).items()}
    assert state.keys() == given.keys() and all(torch.equal(state[key], given[key]) for key in given)
    assert bool(method.network.unscaled) == (version != "v1"), "the quirk follows from the file"
    assert not build(base, version).network.unscaled, "our own training has none"


def test_the_prefix_may_be_further_inside(tmp_path):
    """As it is if a part of the model was compiled."""

    def inside(state):
        for key in [key for key in state if key.startswith("unet.")]:
            state[key.replace("unet.", "unet._orig_mod.")] = state.pop(key)

    found, file = network("v2-single"), write(tmp_path, "v2-single", compiled=False, change=inside)
    load_published(found, file)
    given = {key.replace("_orig_mod.", ""): value for key, value in read_state(file).items()}
    assert given and all(torch.equal(found.state_dict()[key], value) for key, value in given.items())


FAULTS = {
    "many": (lambda state: state.update({"image_encoder.head.probe": torch.zeros(1)}), "left over: image_encoder.head.probe"),
    "few": (lambda state: state.pop("_orig_mod.proj.bias"), "missing: proj.bias"),
    "few of the denoiser": (lambda state: state.pop("_orig_mod.unet.conv_in.bias"), "missing: unet.conv_in.bias"),
    "misshapen": (
        lambda state: state.update({"_orig_mod.proj.weight": torch.zeros(77, 5)}),
        "of another shape: proj.weight (77, 5) for (77, 64)",
    ),
    "twice": (lambda state: state.update({"norm.bias": torch.zeros(WIDTH)}), "norm.bias is there twice, with and without _orig_mod."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_too_many_too_few_or_misshapen_is_named(fault, tmp_path):
    change, says = FAULTS[fault]
    file = write(tmp_path, "v2-single", change=change)
    own = network("v2-single")
    before = {key: value.clone() for key, value in own.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_published(own, file)
    line = str(error.value)
    assert says in line and str(file) in line and "\n" not in line
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items()), "nothing is loaded in part"


@pytest.mark.parametrize("asked", VERSIONS)
@pytest.mark.parametrize("held", VERSIONS)
def test_the_version_is_recognised_by_the_keys(asked, held, tmp_path):
    file = write(tmp_path, held)
    if asked == held:
        load_published(network(asked), file)
        return
    says = rf"holds TryOffDiff {held} \(it has .*\), but model\.init_args\.version is {asked}: set --model\.init_args\.version {held}"
    with pytest.raises(UserError, match=says):
        load_published(network(asked), file)


def test_other_files_are_refused(tmp_path):
    torch.save({"linear.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: holds no TryOffDiff: no key begins with unet\."):
        load_published(network("v1"), tmp_path / "other.pth")
    torch.save({"unet.conv_in.bias": print}, tmp_path / "code.pth")
    with pytest.raises(UserError, match=r"code\.pth: not a weights file that can be read safely"):
        load_published(network("v1"), tmp_path / "code.pth")


def test_the_sampler_of_the_authors_v2_weights_is_not_the_users_choice(base, tmp_path):
    file = str(write(tmp_path, "v2-single"))
    with pytest.raises(UserError, match=r"sampler: dpm\+\+: .*: set --model\.init_args\.sampler euler"):
        build(base, "v2-single", published=file, sampler="dpm++", karras=False)
    build(base, "v1", published=str(write(tmp_path, "v1")), sampler="dpm++")


def test_a_checkpoint_that_started_from_the_authors_weights_keeps_their_quirk(base, tmp_path, people):
    started = build(base, "v2-single", published=str(write(tmp_path, "v2-single")))
    other = build(base, "v2-single")
    other.load_state_dict(started.state_dict())
    assert other.network.unscaled and torch.equal(other.take_off(people.select([0])), started.take_off(people.select([0])))


@torch.no_grad()
def test_training_from_the_authors_v2_weights_adds_noise_as_they_do(base, people, monkeypatch):
    """diffusers' EulerDiscreteScheduler.add_noise, x + sigma * eps, which the denoiser then sees as it is."""
    method, people = build(base, "v2-single"), people.select([0, 3])
    seen, forward = [], method.network.forward
    monkeypatch.setattr(method.network, "forward", lambda *args: (seen.append(args), forward(*args))[1])
    added, add_noise = [], method.schedule.add_noise
    monkeypatch.setattr(method.schedule, "add_noise", lambda *args: (added.append(args), add_noise(*args))[1])
    for unscaled in (False, True):
        method.network.unscaled.fill_(unscaled)
        method.denoising_loss(people, ("train", 0), training=True)
    latents, epsilon, timestep = added[0]
    theirs = EulerDiscreteScheduler.from_config(method.schedule.config, timestep_spacing="linspace", use_karras_sigmas=True)
    torch.testing.assert_close(seen[1][0], theirs.add_noise(latents, epsilon, timestep), rtol=1e-4, atol=1e-4)
    assert torch.equal(seen[0][0], add_noise(latents, epsilon, timestep))


def test_published_weights_restore_garments_of_any_kind(base, tmp_path, people):
    method = build(base, "v2-multi", published=str(write(tmp_path, "v2-multi")))
    images = method.take_off(replace(people.select([0, 1]), category=["lower", "full"]))
    assert images.shape == (2, 3, 64, 48) and images.isfinite().all()
