"""Inspecting real recipes, methods and data for a plan."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml

from fashiongen.benchmark import inspection
from fashiongen.benchmark.command_info import CommandInfo, obstacle
from fashiongen.benchmark.inspection import _listing, inspect_commands
from fashiongen.benchmark.plan import make_plan
from fashiongen.checkpoints import tiny_weights
from fashiongen.cli.settings import resolve
from fashiongen.errors import UserError
from fashiongen.methods.bpr_dae import BPRDAE
from fashiongen.methods.geco import CIGM
from fashiongen.methods.mgcm import MGCM
from fashiongen.methods.pix2pix_cm import Pix2PixCM
from fashiongen.wardrobe import write_fashionvc, write_street_tryon, write_viton_hd

ROOT = Path(__file__).parents[2]
TINY, OVERLAYS = ROOT / "recipes" / "tiny", ROOT / "recipes" / "overlays"


def facts(*commands: list, render: bool = False) -> list[CommandInfo]:
    asked = [[str(part) for part in command] for command in commands]
    return [CommandInfo(**found) for found in inspect_commands(asked, resolve, render=render)["commands"]]


def test_a_method_and_its_data_are_described(recipe):
    fit, test = facts(["fit", "--config", recipe], ["test", "--config", recipe])
    assert (fit.method, fit.needs, fit.tasks, fit.learns, fit.n_optimizers) == ("Painter", ["mask"], ["vtoff"], True, 1)
    assert (fit.dataset, fit.data_name, fit.offers) == ("Gallery", "gallery", ["garment", "garment_mask", "mask"])
    assert fit.checkpoint == "logs/toy/last.ckpt" and not fit.seeded_data and fit.gpus == 0 and not fit.deepspeed
    assert (fit.task, test.task) == ("", "vtoff") and fit.content != test.content
    assert obstacle(fit, "fit", 0) is None and obstacle(test, "test", 0) is None


def test_only_what_affects_a_result_changes_the_content_hash(recipe):
    fit = ["fit", "--config", recipe]
    changes = [[], ["--trainer.max_epochs", "2"], ["--model.init_args.width", "4"], ["--trainer.logger.init_args.name", "other"]]
    plain, longer, thinner, named = (found.content for found in facts(*([*fit, *keys] for keys in changes)))
    assert plain == named and len({plain, longer, thinner}) == 3
    (judged,) = facts([*fit, "--evaluate.images", "3"])
    assert judged.content == plain  # a training does not depend on its evaluation


def test_settings_that_decide_no_number_change_no_content():
    both = {
        "trainer.log_every_n_steps": 7,
        "trainer.enable_model_summary": True,
        "trainer.enable_progress_bar": False,
        "trainer.logger": False,
        "trainer.default_root_dir": "elsewhere",
        "data.init_args.num_workers": 1,
    }
    alone = {
        "fit": {"evaluate.images": 3, "evaluate.protocol": "p"},
        "test": {"evaluate.images": 3, "evaluate.validation_images": 1, "trainer.max_epochs": 3, "trainer.max_steps": 3},
    }
    count = {
        "fit": {"trainer.max_epochs": 3, "data.init_args.eval_batch_size": 3},
        "test": {"evaluate.protocol": "p", "evaluate.size": [8, 8]},
    }
    commands = [[kind, "--config", str(TINY / "white.yaml")] for kind in alone]
    for kind, settings in zip(alone, resolve(commands), strict=True):

        def changes(key, value, kind=kind, settings=settings):
            changed = deepcopy(settings)
            holder, name = inspection._holder(changed, key)
            assert holder
            holder[name] = value
            return inspection._what_counts(changed, kind, {}) != inspection._what_counts(settings, kind, {})

        assert [key for key, value in {**both, **alone[kind]}.items() if changes(key, value)] == []
        assert all(changes(key, value) for key, value in count[kind].items())


def test_other_weights_of_a_metric_change_the_content_of_tests_alone(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    metric = {"class_path": "fashiongen.metrics.LPIPS", "init_args": {"extractor": "alex"}}
    (tmp_path / "metric.yaml").write_text(yaml.safe_dump({"evaluate": {"metrics": {"lpips": metric}}}))
    inspect = inspected(*([kind, "--config", recipe, "--config", "metric.yaml"] for kind in ("test", "fit")))
    file = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    file.parent.mkdir(parents=True)
    found = [inspect()]
    for content in (b"one", b"two"):
        file.write_bytes(content)
        found.append(inspect())
    assert [len({one.content for one in kind}) for kind in zip(*found, strict=True)] == [3, 1]
    assert all(one.problem is None for kind in found for one in kind)


def test_a_best_checkpoint_is_known_by_its_fixed_name(recipe):
    key = "--trainer.callbacks.init_args."
    monitored = [f"{key}monitor", "val/loss", f"{key}save_top_k", "1", f"{key}enable_version_counter", "false"]
    fit = ["fit", "--config", recipe, "--evaluate.checkpoint"]
    named = [*fit, "best", *monitored, f"{key}filename", "best"]
    plain, best, counted, varying = facts(
        [*fit, "last"], named, [*named, f"{key}enable_version_counter", "true"], [*named[:-1], "best-{step}"]
    )
    assert (plain.best, plain.selects) == (None, "last")
    assert (best.checkpoint, best.best, best.selects) == ("logs/toy/last.ckpt", "logs/toy/best.ckpt", "best")
    assert counted.best is None and varying.best is None


def test_devices_that_the_recipe_leaves_open_are_left_to_the_executor(recipe):
    fit = ["fit", "--config", recipe, "--trainer.accelerator"]
    found = facts([*fit, "auto"], [*fit, "auto", "--trainer.devices", "-1"], [*fit, "cuda", "--trainer.devices", "2"], [*fit, "cpu"])
    assert [(one.accelerator, one.gpus) for one in found] == [("auto", 1), ("auto", -1), ("cuda", 2), ("cpu", 0)]


def test_overlays_that_cannot_run_here_have_an_obstacle(cache):
    zero2 = ["--config", OVERLAYS / "zero2.yaml"]
    cigm, bpr, white = facts(
        ["fit", "--config", TINY / "geco-cigm.yaml", *zero2],
        ["fit", "--config", TINY / "bpr_dae.yaml", *zero2],
        ["fit", "--config", TINY / "white.yaml"],
    )
    assert obstacle(cigm, "fit", 8) == "DeepSpeed takes one optimizer and CIGM has 2"
    assert obstacle(bpr, "fit", 0) == "DeepSpeed needs a CUDA GPU, and there is none"
    assert not white.learns and cigm.seeded_data
    assert cigm.offers is None  # the world is not rendered, as requested
    assert not list(cache.glob("wardrobe/fashionvc-*people2000*"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "fashionvc"
    write_fashionvc(folder, people=240, size=(16, 16), seed=0, workers=1)
    return folder


def test_data_are_identified_by_content_and_not_by_location(pairs, tmp_path, monkeypatch):
    shutil.copytree(pairs, tmp_path / "data" / "here")
    shutil.copytree(pairs, tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    command = ["test", "--config", TINY / "colour_neighbour.yaml", "--data.init_args.root"]
    here, there = facts([*command, "data/here"], [*command, tmp_path / "there"])
    assert here.absolute == {"data.init_args.root": str(tmp_path / "data" / "here")} and there.absolute == {}
    assert here.offers == ["images"] and here.seeded_data
    lists = sorted((tmp_path / "data" / "here" / "files").glob("*.csv"))
    assert lists
    lists[0].write_text(lists[0].read_text().replace("1", "1", 1) + "\n")
    (other,) = facts([*command, "data/here"])
    assert other.content != here.content
    (absent,) = facts([*command, "data/absent"])
    assert "data/absent" in obstacle(absent, "test", 0)


SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.yaml"))


@pytest.mark.parametrize(
    "suite", [pytest.param(path, id=path.stem, marks=[] if path.stem == "paper-igr" else pytest.mark.slow) for path in SUITES]
)
def test_every_suite_can_be_planned_where_there_are_no_data(suite, tmp_path, monkeypatch):
    """Missing data are a reason to skip a node, never an error of the suite."""
    monkeypatch.chdir(tmp_path)

    def describe(commands):
        answer = inspect_commands(commands, resolve, render=False)
        return [CommandInfo(**found) for found in answer["commands"]], 8

    nodes = make_plan(suite, describe).nodes
    lacking = [node for node in nodes if "data/" in (node.skipped or "")]
    assert len(lacking) == (0 if suite.stem.startswith("tiny") else len(nodes))


def test_the_reference_images_of_a_protocol_are_identified_too(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_street_tryon(tmp_path / "data" / "street_tryon", people=12, size=(64, 48), seed=0, test_fraction=0.5, workers=1)
    street = ["--data.class_path", "fashiongen.data.StreetTryOn", "--data.init_args.root", "data/street_tryon"]
    command = ["test", "--config", ROOT / "recipes" / "igr.yaml", "--evaluate.protocol", "vtoff-igr-street", *street]
    (found,) = facts(command)
    assert found.offers and "data/viton_hd: no such folder" in found.problem  # the data exist, the reference does not
    write_viton_hd(tmp_path / "data" / "viton_hd", people=4, size=(64, 48), seed=0, test_fraction=0.5, workers=1)
    (found,) = facts(command)
    assert found.offers and found.problem is None


def test_unreadable_data_are_a_reason_and_not_an_error(pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / "data")
    (tmp_path / "data" / "lost.csv").symlink_to(tmp_path / "absent")
    (found,) = facts(["test", "--config", TINY / "colour_neighbour.yaml", "--data.init_args.root", tmp_path / "data"])
    assert "lost.csv" in obstacle(found, "test", 0)


def test_a_listing_follows_links_once_and_reads_weights_whole(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere" / "a.bin").write_bytes(b"one")
    (tmp_path / "root" / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "root")
    listed, held = _listing(tmp_path / "root"), _listing(tmp_path / "root", contents=True)
    (tmp_path / "elsewhere" / "a.bin").write_bytes(b"two")
    assert _listing(tmp_path / "root") == listed and _listing(tmp_path / "root", contents=True) != held
    (tmp_path / "elsewhere" / "b.json").write_text("[1]")
    longer = _listing(tmp_path / "root")
    (tmp_path / "elsewhere" / "b.json").write_text("[2]")
    assert len({listed, longer, _listing(tmp_path / "root")}) == 3
    assert _listing(tmp_path / "elsewhere" / "a.bin") == _listing(tmp_path / "root" / "train" / "a.bin")


def test_other_weights_of_the_same_size_change_the_content_hash(recipe, tmp_path):
    command = ["fit", "--config", TINY / "bpr_dae.yaml", "--model.init_args.weights", tmp_path / "alexnet.pth"]
    (tmp_path / "alexnet.pth").write_bytes(b"one")
    (one,) = facts(command)
    (tmp_path / "alexnet.pth").write_bytes(b"two")
    (two,) = facts(command)
    assert one.content != two.content


def test_relative_paths_are_found_wherever_a_recipe_or_a_suite_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("alexnet.pth", "weights/metric.pth", "encoded/index.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("one")
    commands = {
        "model.init_args.weights": ["fit", "--config", TINY / "bpr_dae.yaml", "--model.init_args.weights", "alexnet.pth"],
        "evaluate.metrics.fid.init_args.weights": [
            *("test", "--config", TINY / "white.yaml", "--evaluate.metrics.fid.init_args.weights", "weights/metric.pth")
        ],
        "cache": ["fit", "--config", TINY / "igr.yaml", "--cache", "encoded"],
    }
    before = facts(*commands.values())
    for (key, command), found in zip(commands.items(), before, strict=True):
        assert found.absolute == {key: str(tmp_path / command[-1])}
    for name in ("alexnet.pth", "weights/metric.pth", "encoded/index.json"):
        Path(name).write_text("two")
    assert all(one.content != other.content for one, other in zip(before, facts(*commands.values()), strict=True))
    (absent,) = facts([*commands["cache"][:-1], "absent"])
    assert absent.problem == "absent: No such file or directory"


def test_the_content_is_the_same_in_another_place(pairs, tmp_path):
    shutil.copytree(pairs, tmp_path / "there")
    commands = [["test", "--config", TINY / "colour_neighbour.yaml", "--data.init_args.root", root] for root in (pairs, tmp_path / "there")]
    one, two = facts(*commands)
    (third,) = facts([*commands[0][:-1], pairs, "--data.init_args.size", "[8, 8]"])
    assert third.content != one.content
    assert one.content == two.content


def test_a_misspelt_key_is_a_one_line_error():
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
    """One command of each kind is parsed; commands that differ only in values are of the same kind."""
    asked: dict[tuple, list[str]] = {}

    def describe(commands):
        found = []
        for command in commands:
            keys = tuple(key for key in command[1::2] if key != "--config")
            asked.setdefault((command[0], command[2], keys), command)
            takes_off = "vtoff-tiny" in command  # a suite's cycles name such tests
            task = "vtoff" if takes_off else "t" * (command[0] == "test")
            found.append(CommandInfo(method="M", tasks=["t"], task=task, protocol=str(len(found)), checkpoint="c"))
        return found, 8

    for suite in SUITES:
        make_plan(suite, describe)
    assert len(asked) > 20
    for settings in resolve(list(asked.values())):
        assert yaml.safe_dump(settings)


def test_data_of_another_task_are_a_problem(recipe):
    (found,) = facts(["test", "--config", recipe, "--evaluate.task", "retrieval"])
    assert found.task == "retrieval" and found.problem == "the task is retrieval, but the data gallery are for vtoff"
    assert "does not support retrieval" in obstacle(found, "test", 0)
    with pytest.raises(UserError, match=r"evaluate\.task=knitting: unknown task; choose one of"):
        facts(["test", "--config", recipe, "--evaluate.task", "knitting"])


def inspected(*commands: list) -> Callable[[], list[CommandInfo]]:
    """Parse commands once, and return a function that inspects them anew."""
    asked = [[str(part) for part in command] for command in commands]
    settings = resolve(asked)

    def inspect() -> list[CommandInfo]:
        seen: dict = {}
        return [inspection._inspect(command[0], deepcopy(one), seen, render=False) for command, one in zip(asked, settings, strict=True)]

    return inspect


def test_an_edited_file_of_decisions_changes_the_content(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key, place, other = "data.init_args.quality.init_args.decisions", Path("logs/igr-hqft/decisions.csv"), Path("other/decisions.csv")
    fit = ["fit", "--config", TINY / "igr-hqft.yaml"]
    inspect = inspected(fit, [*fit, f"--{key}", other.absolute()])
    absent, _ = inspect()
    assert absent.absolute == {}  # the node writes its own
    for path in (place, other):
        path.parent.mkdir(parents=True)
    place.write_text("id,kept\na,1\n")
    kept, _ = inspect()
    for path in (place, other):
        path.write_text("id,kept\na,0\n")
    edited, elsewhere = inspect()
    assert kept.absolute == {key: str(place.absolute())}
    assert len({absent.content, kept.content, edited.content}) == 3 and elsewhere.content == edited.content


def test_only_the_tiny_weights_that_are_read_change_the_content(cache, tmp_path, monkeypatch):
    commands = {
        "sd": ["fit", "--config", TINY / "igr.yaml"],
        "resnet18": ["fit", "--config", TINY / "geco.yaml"],
        "alexnet": ["fit", "--config", TINY / "bpr_dae.yaml"],
        "classifier": ["test", "--config", TINY / "white.yaml"],
        "none": ["fit", "--config", TINY / "white.yaml"],
        "neither": ["test", "--config", TINY / "random.yaml"],
    }
    weights = shutil.copytree(tiny_weights(), tmp_path / "weights")
    monkeypatch.setattr(inspection, "tiny_weights", lambda: weights)
    inspect = inspected(*commands.values())
    before = [found.content for found in inspect()]
    files = ["sd/vae/config.json", "resnet18/model.safetensors", "alexnet/model.safetensors", "classifier/config.json", "new/new.json"]
    for file in files:
        (weights / file).parent.mkdir(exist_ok=True)
        (weights / file).write_bytes(b"other")
        after = [found.content for found in inspect()]
        changed = [name for name, old, new in zip(commands, before, after, strict=True) if old != new]
        assert changed == [name for name in commands if file.startswith(name)]
        before = after


def test_a_download_changes_no_content(cache, tmp_path, monkeypatch):
    """Else the first run of a suite, which downloads the weights, would make its own results stale."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    main = tmp_path / "models--owner--name" / "refs" / "main"
    fit = ["fit", "--config", TINY / "igr.yaml", "--model.init_args.pretrained"]
    inspect = inspected([*fit, "owner/name"], [*fit, "owner/name@v1"])
    before = [found.content for found in inspect()]
    main.parent.mkdir(parents=True)
    main.write_text("a")
    assert [found.content for found in inspect()] == before and len(set(before)) == 2


def test_the_code_is_that_of_the_method_the_data_and_the_task():
    igr, white, geco = facts(*(["fit", "--config", TINY / f"{name}.yaml"] for name in ("igr", "white", "geco")))
    assert len({igr.code, white.code, geco.code}) == 3
    assert "timm" in geco.libraries and "timm" not in igr.libraries and {"torch", "lightning"} <= igr.libraries.keys()
