"""The networks of CIGM and GECo: sizes, shapes, and weights by the authors' names of keys."""

import pickle

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from small_geco import geco
from torch import nn

from fashiongen.errors import UserError
from fashiongen.methods.geco.network import Compatibility, Discriminator, Generator, load_backbone
from fashiongen.methods.geco.published import load_discriminator, load_generator, load_ranker


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    parts = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return parts | {f"{name}.num_batches_tracked": ()}


def authors_generator() -> dict[str, tuple[int, ...]]:
    """Names and shapes in a state dict of the authors' generator."""
    shapes = {"initial_down.0.weight": (64, 3, 4, 4), "initial_down.0.bias": (64,)}
    for level, (before, after) in enumerate([(64, 128), (128, 256), (256, 512), (512, 512), (512, 512), (512, 512)], start=1):
        shapes |= {f"down{level}.0.weight": (after, before, 4, 4)} | norm(f"down{level}.1", after)
    shapes |= {"bottleneck.0.weight": (512, 512, 4, 4), "bottleneck.0.bias": (512,)}
    for level, (before, after) in enumerate([(1536, 512), (1024, 512), (1024, 512), (1024, 256), (512, 128), (256, 64)], start=1):
        place = f"up{level}.0" if level <= 2 else f"up{level}"
        shapes |= {f"{place}.0.weight": (before, after, 4, 4)} | norm(f"{place}.1", after)
    return shapes | {"final_up.0.weight": (128, 3, 4, 4), "final_up.0.bias": (3,)}


def authors_discriminator() -> dict[str, tuple[int, ...]]:
    shapes = {"initial.0.weight": (64, 6, 4, 4), "initial.0.bias": (64,), "model.3.weight": (1, 512, 4, 4), "model.3.bias": (1,)}
    for level, (before, after) in enumerate([(64, 128), (128, 256), (256, 512)]):
        shapes |= {f"model.{level}.0.weight": (after, before, 4, 4)} | norm(f"model.{level}.1", after)
    return shapes


def authors_ranker() -> dict[str, tuple[int, ...]]:
    resnet = {f"resnet.{key}": tuple(value.shape) for key, value in torchvision.models.resnet18().state_dict().items()}
    linear = {"query_proj.weight": (128, 1024), "query_proj.bias": (128,), "bottom_proj.weight": (128, 512), "bottom_proj.bias": (128,)}
    return resnet | linear


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {
        key: torch.tensor(7) if key.endswith("tracked") else torch.rand(shape).add_(0.5 if "running" in key else -0.5)
        for key, shape in shapes.items()
    }


def as_saved(path, state, loss=None):
    """Write a file as the authors' training does."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict()
    content = {"epoch": 198, "model_state_dict": state, "optimizer_state_dict": optimizer}
    torch.save(content | ({"loss": loss} if loss is not None else {}), path)
    return path


def test_the_generator_has_the_authors_size_and_the_paper_variant_omits_unused_layers():
    assert count(Generator(unused_down=True)) == 54_413_507
    assert count(Generator()) == 54_413_507 - (512 * 512 * 16 + 2 * 512)


def test_the_discriminator_has_the_authors_size():
    assert count(Discriminator()) == 2_768_705
    assert Discriminator()(torch.zeros(2, 3, 128, 128), torch.zeros(2, 3, 128, 128)).shape == (2, 1, 8, 8)


def test_the_ranker_has_the_authors_size():
    code = Compatibility(load_backbone("resnet18", None, True, {}), 128, True)
    assert count(code) == 11_689_512 + 1024 * 128 + 128 + 512 * 128 + 128
    paper = Compatibility(load_backbone("resnet18", None, False, {}), 128, True)
    assert count(paper) == count(code) - (512 * 1000 + 1000)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_the_generator_takes_powers_of_two(size):
    generator = Generator(size, features=2, noise_channels=5)
    shapes = []
    for up in generator.up[:2]:
        up.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    generated = generator(torch.rand(2, 3, size, size), torch.randn(2, 5))
    assert generated.shape == (2, 3, size, size) and generated.abs().max() <= 1
    assert shapes == generator.dropout_shapes


def test_noise_and_top_both_reach_the_template():
    generator = Generator(32, features=4, noise_channels=8).eval()
    top, noise = torch.rand(1, 3, 32, 32), torch.randn(1, 8)
    template = generator(top, noise)
    assert torch.equal(template, generator(top, noise)), "dropout is drawn outside"
    assert not torch.equal(template, generator(top, noise + 1)) and not torch.equal(template, generator(top.flip(3), noise))


def test_dropout_acts_on_the_first_two_up_convolutions():
    """What is dropped is zero, what stays is doubled."""
    generator = Generator(32, features=4, noise_channels=8).eval()
    top, noise, seen = torch.rand(2, 3, 32, 32), torch.randn(2, 8), {}
    for level in (0, 1):
        generator.up[level].register_forward_hook(lambda _, __, output, level=level: seen.update({f"out {level}": output}))
        generator.up[level + 1].register_forward_pre_hook(lambda _, inputs, level=level: seen.update({f"next {level}": inputs[0]}))
    masks = [torch.rand(2, *shape) > 0.5 for shape in generator.dropout_shapes]
    generator(top, noise, masks)
    for level, mask in enumerate(masks):
        torch.testing.assert_close(seen[f"next {level}"][:, : mask.shape[1]], seen[f"out {level}"] * 2 * mask)


def test_impossible_sizes_are_named():
    for build, named in (
        (lambda: Generator(96), "image_size: 96"),
        (lambda: Generator(8), "image_size: 8"),
        (lambda: Generator(32, features=0), "features"),
        (lambda: Discriminator(64), "too many convolutions for images of 64"),
        (lambda: Discriminator(64, (8,)), "discriminator_widths"),
        (lambda: load_backbone("resnet81", None, False, {}), "backbone: resnet81"),
        (lambda: load_backbone("resnet18", None, False, {"chanels": 2}), "chanels"),
        (lambda: load_backbone("resnet18", "./absent.pt", False, {}), "no such weights file"),
        (lambda: load_backbone("resnet18", "tiny", False, {}), "no such weights file|does not fit"),
    ):
        with pytest.raises(UserError, match=named) as error:
            build()
        assert "\n" not in str(error.value)
    Discriminator(64, (8, 16, 32))


@pytest.mark.parametrize("counters", [True, False])
def test_torchvisions_weights_give_torchvisions_features(tmp_path, counters):
    """Torchvision's file of ImageNet weights has no counters of batches."""
    theirs = torchvision.models.resnet18().eval()
    state = {key: value for key, value in theirs.state_dict().items() if counters or not key.endswith("tracked")}
    torch.save(state, tmp_path / "resnet18.pth")
    save_file(state, tmp_path / "resnet18.safetensors")
    images = torch.rand(2, 3, 64, 64)
    theirs.fc = nn.Identity()
    for file in ("resnet18.pth", "resnet18.safetensors"):
        for classifier in (False, True):
            ours = Compatibility(load_backbone("resnet18", str(tmp_path / file), classifier, {}), 4, True).eval()
            torch.testing.assert_close(ours.features(images), theirs(images))
    with pytest.raises(UserError, match=r"of another shape: conv1|layer1\.0\.conv1\.weight \(64, 64, 3, 3\) for \(8, 64, 3, 3\)"):
        load_backbone("resnet18", str(tmp_path / "resnet18.pth"), False, {"channels": [8, 8, 8, 8]})


def test_the_authors_generator_is_placed_key_by_key(tmp_path):
    state = drawn(authors_generator())
    file = as_saved(tmp_path / "generator_fashionvc.pt", state, nn.BCEWithLogitsLoss())
    code, paper = Generator(unused_down=True), Generator()
    load_generator(code, file)
    load_generator(paper, file)
    for ours, key in (
        ("first.0.weight", "initial_down.0.weight"),
        ("down.4.1.running_mean", "down5.1.running_mean"),
        ("bottleneck.0.bias", "bottleneck.0.bias"),
        ("up.0.0.weight", "up1.0.0.weight"),
        ("up.1.1.bias", "up2.0.1.bias"),
        ("up.5.1.num_batches_tracked", "up6.1.num_batches_tracked"),
        ("last.0.bias", "final_up.0.bias"),
    ):
        assert torch.equal(code.state_dict()[ours], state[key]) and torch.equal(paper.state_dict()[ours], state[key])
    assert torch.equal(code.state_dict()["unused_down.0.weight"], state["down6.0.weight"])
    assert len(code.state_dict()) == len(state) and len(paper.state_dict()) == len(state) - 6


def test_the_authors_discriminator_and_ranker_are_placed_key_by_key(tmp_path):
    state = drawn(authors_discriminator())
    discriminator = Discriminator()
    load_discriminator(discriminator, as_saved(tmp_path / "discriminator.pt", state, nn.BCEWithLogitsLoss()))
    assert torch.equal(discriminator.blocks[1][0].weight, state["model.1.0.weight"])
    assert torch.equal(discriminator.last.bias, state["model.3.bias"])
    assert len(discriminator.state_dict()) == len(state)

    state = drawn(authors_ranker())
    file = as_saved(tmp_path / "geco.pt", state)
    for classifier in (True, False):
        network = Compatibility(load_backbone("resnet18", None, classifier, {}), 128, True)
        load_ranker(network, file)
        assert torch.equal(network.query_projection.weight, state["query_proj.weight"])
        assert torch.equal(network.backbone.layer4[1].conv2.weight, state["resnet.layer4.1.conv2.weight"])
        assert len(network.state_dict()) == len(state) - (0 if classifier else 2)


def test_keys_too_many_too_few_and_misshapen_are_named(tmp_path):
    state = drawn(authors_generator())
    del state["up3.1.bias"]
    state["down7.0.weight"] = torch.zeros(1)
    state["final_up.0.bias"] = torch.zeros(4)
    expected = r"missing: up3\.1\.bias; left over: down7\.0\.weight; of another shape: final_up\.0\.bias \(4,\) for \(3,\)"
    generator = Generator()
    before = generator.first[0].weight.clone()
    with pytest.raises(UserError, match=expected):
        load_generator(generator, as_saved(tmp_path / "generator.pt", state))
    assert torch.equal(generator.first[0].weight, before), "nothing is placed of what does not fit"
    state = drawn(authors_discriminator())
    del state["model.3.bias"]
    with pytest.raises(UserError, match=r"missing: model\.3\.bias$"):
        load_discriminator(Discriminator(), as_saved(tmp_path / "discriminator.pt", state))
    state = drawn(authors_ranker())
    state["query_proj.weight"] = torch.zeros(64, 1024)
    with pytest.raises(UserError, match=r"query_proj\.weight \(64, 1024\) for \(128, 1024\)"):
        load_ranker(Compatibility(load_backbone("resnet18", None, True, {}), 128, True), as_saved(tmp_path / "geco.pt", state))


class Opens:
    def __reduce__(self):
        return (open, ("opened", "w"))


def test_a_published_file_runs_no_code(tmp_path, monkeypatch):
    """The one object that may be in there is CIGM's loss function, and nothing is done with it."""
    monkeypatch.chdir(tmp_path)
    for place in ("loss", "model_state_dict"):
        content = {"epoch": 0, "model_state_dict": drawn(authors_discriminator()), "loss": nn.BCEWithLogitsLoss()} | {place: Opens()}
        torch.save(content, "file.pt")
        with pytest.raises(UserError, match="not a weights file that can be read safely"):
            load_discriminator(Discriminator(), "file.pt")
    with open("plain.pt", "wb") as file:
        pickle.dump(Opens(), file)
    with pytest.raises(UserError, match="not a weights file"):
        load_generator(Generator(), "plain.pt")
    assert not (tmp_path / "opened").exists()
    torch.save({"loss": nn.BCEWithLogitsLoss()}, "file.pt")
    from fashiongen.checkpoints import read_state

    with pytest.raises(UserError, match="not a weights file that can be read safely"):
        read_state("file.pt")


def test_a_published_generator_becomes_gecos(monkeypatch):
    given = []
    monkeypatch.setattr("fashiongen.methods.geco.geco.load_generator", lambda generator, file: given.append((generator, file)))
    method = geco(published_generator="generator.pt")
    assert given == [(method.generator, "generator.pt")] and method._generates
    assert not geco()._generates
