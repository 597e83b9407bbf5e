"""What a plan is told of true recipes, methods and data."""

import shutil
from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml

from fashiongen.benchmark.facts import Facts, gather, obstacle
from fashiongen.benchmark.plan import make_plan
from fashiongen.errors import UserError
from fashiongen.methods.bpr_dae import BPRDAE
from fashiongen.methods.geco import CIGM
from fashiongen.methods.mgcm import MGCM
from fashiongen.methods.pix2pix_cm import Pix2PixCM
from fashiongen.training import resolved
from fashiongen.wardrobe import write_fashionvc

ROOT = Path(__file__).parents[2]
TINY, OVERLAYS = ROOT / "recipes" / "tiny", ROOT / "recipes" / "overlays"


def facts(*commands: list, render: bool = False) -> list[Facts]:
    asked = [[str(part) for part in command] for command in commands]
    return [Facts(**found) for found in gather(asked, resolved, render=render)["facts"]]


def test_a_method_and_its_data_are_described(recipe):
    fit, test = facts(["fit", "--config", recipe], ["test", "--config", recipe])
    assert (fit.method, fit.needs, fit.tasks, fit.learns, fit.n_optimizers) == ("Painter", ["mask"], ["vtoff"], True, 1)
    assert (fit.dataset, fit.data_name, fit.offers) == ("Gallery", "gallery", ["garment", "garment_mask", "mask"])
    assert fit.checkpoint == "logs/toy/last.ckpt" and not fit.seeded_data and fit.gpus == 0 and not fit.deepspeed
    assert (fit.task, test.task) == ("", "vtoff") and fit.content != test.content
    assert obstacle(fit, "fit", 0) is None and obstacle(test, "test", 0) is None


def test_what_decides_about_a_result_changes_the_content_and_nothing_else(recipe):
    fit = ["fit", "--config", recipe]
    changes = [[], ["--trainer.max_epochs", "2"], ["--model.init_args.width", "4"], ["--trainer.logger.init_args.name", "other"]]
    plain, longer, thinner, named = (found.content for found in facts(*([*fit, *keys] for keys in changes)))
    assert plain == named and len({plain, longer, thinner}) == 3
    (judged,) = facts([*fit, "--evaluate.pictures", "3"])
    assert judged.content == plain  # a training does not depend on how it will be judged


def test_overlays_that_cannot_run_here_are_told(cache):
    zero2 = ["--config", OVERLAYS / "zero2.yaml"]
    cigm, bpr, white = facts(
        ["fit", "--config", TINY / "geco-cigm.yaml", *zero2],
        ["fit", "--config", TINY / "bpr_dae.yaml", *zero2],
        ["fit", "--config", TINY / "white.yaml"],
    )
    assert obstacle(cigm, "fit", 8) == "DeepSpeed takes one optimizer and CIGM has 2"
    assert obstacle(bpr, "fit", 0) == "DeepSpeed needs a CUDA GPU, and there is none"
    assert not white.learns and cigm.seeded_data
    assert cigm.offers is None  # the world is not rendered, and nobody asked for it
    assert not list(cache.glob("wardrobe/fashionvc-*people2000*"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "fashionvc"
    write_fashionvc(folder, people=240, size=(16, 16), seed=0, workers=1)
    return folder


def test_data_are_told_apart_by_what_they_hold_and_not_by_their_place(pairs, tmp_path, monkeypatch):
    shutil.copytree(pairs, tmp_path / "data" / "here")
    shutil.copytree(pairs, tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    command = ["test", "--config", TINY / "colour_neighbour.yaml", "--data.init_args.root"]
    here, there = facts([*command, "data/here"], [*command, tmp_path / "there"])
    assert here.absolute == {"data.init_args.root": str(tmp_path / "data" / "here")} and there.absolute == {}
    assert here.offers == ["pictures"] and here.seeded_data
    lists = sorted((tmp_path / "data" / "here" / "files").glob("*.csv"))
    assert lists
    lists[0].write_text(lists[0].read_text().replace("1", "1", 1) + "\n")
    (other,) = facts([*command, "data/here"])
    assert other.content != here.content
    (absent,) = facts([*command, "data/absent"])
    assert "data/absent" in obstacle(absent, "test", 0)


def test_the_content_is_the_same_in_another_place(pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / "there")
    commands = [["test", "--config", TINY / "colour_neighbour.yaml", "--data.init_args.root", root] for root in (pairs, tmp_path / "there")]
    one, two = facts(*commands)
    (third,) = facts([*commands[0][:-1], pairs, "--data.init_args.size", "[8, 8]"])
    assert third.content != one.content
    assert one.content == two.content


def test_a_misspelt_key_is_told_in_one_line():
    with pytest.raises(UserError, match=r"unknown key 'peple'"):
        facts(["fit", "--config", TINY / "white.yaml", "--data.init_args.peple", "3"])


@pytest.mark.parametrize(
    "method",
    [
        lambda: CIGM(image_size=64, features=16, noise_channels=64, discriminator_widths=[16, 32, 64]),
        lambda: MGCM(image_size=64, width=16),
        lambda: Pix2PixCM(image_size=64, width=16),
        lambda: BPRDAE(weights=None),
    ],
    ids=["CIGM", "MGCM", "Pix2PixCM", "BPRDAE"],
)
def test_the_number_of_optimizers_is_the_true_one(method):
    built = method()
    built.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    optimizers = built.configure_optimizers()
    assert (len(optimizers) if isinstance(optimizers, list) else 1) == built.n_optimizers


def test_the_keys_of_all_suites_are_known():
    """One command of each kind is parsed; two that differ in values alone are of one kind."""
    asked: dict[tuple, list[str]] = {}

    def describe(commands):
        found = []
        for command in commands:
            keys = tuple(key for key in command[1::2] if key != "--config")
            asked.setdefault((command[0], command[2], keys), command)
            found.append(Facts(method="M", tasks=["t"], task="t" * (command[0] == "test"), protocol=str(len(found)), checkpoint="c"))
        return found, 8

    for suite in sorted((ROOT / "benchmarks" / "suites").glob("*.yaml")):
        make_plan(suite, describe)
    assert len(asked) > 20
    for settings in resolved(list(asked.values())):
        assert yaml.safe_dump(settings)
