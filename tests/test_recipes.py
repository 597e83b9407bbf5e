"""Every recipe and overlay parses, and every tiny recipe runs, with the real command line."""

import importlib
import inspect
import io
import re
from pathlib import Path

import lightning.pytorch as L
import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden
from rich.console import Console
from warm import OnWarm

from fashiongen.benchmark.command_info import CommandInfo
from fashiongen.benchmark.inspection import _names, _tiny_parts, inspect_commands
from fashiongen.benchmark.runner import run_suite
from fashiongen.cli import main
from fashiongen.cli.saving import check_saving
from fashiongen.cli.settings import resolve
from fashiongen.closure import closure
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.records import Record

RECIPES = Path(__file__).parents[1] / "recipes"
FULL = sorted(RECIPES.glob("*.yaml"))
TINY = sorted((RECIPES / "tiny").glob("*.yaml"))
OVERLAYS = sorted((RECIPES / "overlays").glob("*.yaml"))
TASKS = sorted((RECIPES / "tasks").glob("*.yaml"))
FOLDERS = [RECIPES, RECIPES / "tiny"]


def name(path: Path) -> str:
    return str(path.relative_to(RECIPES).with_suffix(""))


def numbers(arguments: dict) -> dict:
    """Return the arguments that are numbers, or lists of them."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    parts = {key: value if isinstance(value, list) else [value] for key, value in plain.items()}
    return {key: plain[key] for key, value in parts.items() if value and all(isinstance(part, int | float) for part in value)}


# What a recipe of full size sets for its memory, and DREAM, without which CatVTON trains by default.
NOT_BY_DEFAULT = {"gradient_checkpointing", "dream"}


@pytest.mark.parametrize("recipe", [path.stem for path in FULL if path.stem not in ("twgtm-phase1", "tryoffdiff-v2")])
def test_a_method_s_numbers_are_by_default_those_of_its_recipe(recipe):
    model = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["model"]
    module, _, name = model["class_path"].rpartition(".")
    bases = [base for base in getattr(importlib.import_module(module), name).__mro__ if "__init__" in vars(base)]
    parameters = {key: found for base in reversed(bases) for key, found in inspect.signature(base.__init__).parameters.items()}
    of_recipe = {key: value for key, value in numbers(model.get("init_args", {})).items() if key not in NOT_BY_DEFAULT}
    by_default = numbers({key: parameters[key].default for key in of_recipe})
    assert by_default == of_recipe


def command_of(*configs: Path, command: str = "fit") -> list[str]:
    return [command, *(arg for config in configs for arg in ("--config", str(config)))]


@pytest.fixture(scope="module")
def parsed():
    """Return the settings of a command line, as `--print_config` shows them; nothing is built, so nothing can be downloaded.

    One parser reads all command lines of this file at once. If one is wrong, each test has its own read, to say which.
    """
    commands = [command_of(recipe) for recipe in FULL + TINY]
    commands += [overlaid(folder, overlay) for folder in FOLDERS for overlay in OVERLAYS + TASKS]
    try:
        known = {tuple(command): settings for command, settings in zip(commands, resolve(commands), strict=True)}
    except UserError:
        known = {}
    return lambda command: known.get(tuple(command)) or resolve([command])[0]


def test_there_are_recipes():
    """Otherwise the tests below would pass with nothing to test."""
    assert len(FULL) >= 1 and len(TINY) >= 1 and len(TASKS) >= 1
    assert {path.name for path in OVERLAYS} >= {"zero2.yaml", "zero2-offload.yaml", "ddp.yaml", "bf16.yaml", "smoke.yaml"}
    assert {path.parent for path in RECIPES.rglob("*.yaml")} == {RECIPES, RECIPES / "tiny", RECIPES / "overlays", RECIPES / "tasks"}


@pytest.mark.parametrize("recipe", FULL + TINY, ids=name)
def test_recipe_parses(recipe, parsed):
    settings = parsed(command_of(recipe))
    assert settings["model"]["class_path"].startswith("fashiongen.methods.")
    assert settings["data"]["class_path"].startswith("fashiongen.data.")


def test_print_config_shows_what_is_parsed(parsed, capsys):
    command = command_of(FULL[0])
    with pytest.raises(SystemExit) as stop:
        main([*command, "--print_config"])
    assert stop.value.code == 0
    shown, settings = leaves(yaml.safe_load(capsys.readouterr().out)), leaves(parsed(command))
    assert shown
    assert {key: value for key, value in shown.items() if settings.get(key) != without_nulls(value)} == {}


@pytest.mark.parametrize("recipe", FULL + TINY, ids=name)
def test_a_monitored_checkpoint_saves_after_validation(recipe, parsed):
    check_callbacks(parsed(command_of(recipe)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("overlay", [path for path in OVERLAYS if "trainer" in yaml.safe_load(path.read_text(encoding="utf-8"))], ids=name)
def test_an_overlay_leaves_checkpoints_after_validation(folder, overlay, parsed):
    check_callbacks(parsed(overlaid(folder, overlay)))


def test_a_checkpoint_before_validation_is_found(parsed):
    settings = parsed([*command_of(RECIPES / "igr.yaml"), "--trainer.callbacks.init_args.every_n_train_steps", "1000"])
    with pytest.raises(UserError, match="every_n_train_steps saves before the validation"):
        check_callbacks(settings)


def check_callbacks(settings: dict) -> None:
    """Build the callbacks of a recipe and check them as `fit` does."""
    callbacks = []
    for entry in settings["trainer"]["callbacks"]:
        module, _, kind = entry["class_path"].rpartition(".")
        callbacks.append(getattr(importlib.import_module(module), kind)(**entry.get("init_args", {})))
    rhythm = {key: settings["trainer"][key] for key in ("val_check_interval", "check_val_every_n_epoch") if key in settings["trainer"]}
    trainer = L.Trainer(callbacks=callbacks, accelerator="cpu", logger=False, **rhythm)
    saving = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    assert saving, "it saves nothing"
    check_saving(trainer, settings["evaluate"]["checkpoint"])


def recipe_of(overlay: Path) -> str:
    """Return the recipe that an overlay is for.

    That of one method is for the longest whose name its own begins with, that of one dataset for a task that it serves; any serves for
    the others.
    """
    any_other = "geco" if "fashiongen.data." in overlay.read_text(encoding="utf-8") else "igr"
    return max((recipe.stem for recipe in FULL if overlay.stem.startswith(f"{recipe.stem}-")), key=len, default=any_other)


def overlaid(folder: Path, overlay: Path) -> list[str]:
    base = folder / f"{recipe_of(overlay)}.yaml"
    return command_of(base, overlay, command="test" if overlay in TASKS else "fit")


@pytest.mark.parametrize("overlay", OVERLAYS + TASKS, ids=name)
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_overlay_parses_and_wins(folder, overlay, parsed):
    wanted = leaves(yaml.safe_load(overlay.read_text(encoding="utf-8")))
    assert wanted
    found = leaves(parsed(overlaid(folder, overlay)))
    for key in [key for key in wanted if key.endswith("+")]:  # a list that is appended to
        for entry in wanted.pop(key):
            (added,) = [other for other in found[key.removesuffix("+")] if leaves(other)[".class_path"] == leaves(entry)[".class_path"]]
            assert len(found[key.removesuffix("+")]) > 1 and entry["init_args"].items() <= added["init_args"].items()
    assert {key: value for key, value in wanted.items() if found.get(key) != without_nulls(value)} == {}


@pytest.mark.parametrize("given", ["--evaluate.protocol=geco-all", f"--config={RECIPES / 'tasks' / 'geco-all.yaml'}"], ids=["key", "file"])
def test_the_metrics_of_two_protocols_are_not_mixed(given, capsys):
    with pytest.raises(SystemExit):
        main(["test", "--config", str(RECIPES / "tiny" / "random.yaml"), given, "--print_config"])
    evaluate = yaml.safe_load(capsys.readouterr().out)["evaluate"]
    assert evaluate["protocol"] == "geco-all"
    assert set(evaluate["metrics"]) == {"auc", "mrr"}
    assert evaluate["metrics"]["auc"]["init_args"] == {"candidates": "negatives:1", "leave_out_others": False}


def leaves(settings: object, key: str = "") -> dict[str, object]:
    """Flatten settings; of a class path only the name counts, since a class may be imported from two places."""
    if isinstance(settings, dict) and settings:
        return {name: value for entry, inner in settings.items() for name, value in leaves(inner, f"{key}.{entry}").items()}
    return {key: str(settings).rpartition(".")[2] if key.endswith(".class_path") else settings}


def without_nulls(settings: object) -> object:
    """Leave out the keys without a value, as `parsed` does."""
    if isinstance(settings, dict):
        return {key: without_nulls(value) for key, value in settings.items() if value is not None}
    return [without_nulls(value) for value in settings] if isinstance(settings, list) else settings


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Run the suite tiny-smoke as `bench run` does and return its records by node: parents first, each node a process of its own.

    The processes are warm; tests/benchmark/test_command.py starts such nodes from nothing.
    """
    out = tmp_path_factory.mktemp("smoke")

    def describe(commands):
        answer = inspect_commands(commands, resolve, render=True)
        return [CommandInfo(**found) for found in answer["commands"]], answer["gpus"]

    told = io.StringIO()
    suite = RECIPES.parent / "benchmarks" / "suites" / "tiny-smoke.yaml"
    status = run_suite(suite, out, lambda gpus: OnWarm(), describe=describe, console=Console(file=told))
    assert status in (0, 1), told.getvalue()  # 1: a node failed, and its own test says so below
    return {path.parent.name: Record.read(path) for path in (out / "nodes").glob("*/record.json")}


@pytest.mark.parametrize("recipe", TINY, ids=name)
def test_tiny_recipe_runs(recipe, smoke):
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    run = f"{recipe.stem}+smoke--seed0"
    test = f"test--{run}--{settings['evaluate']['protocol']}--{settings['data']['class_path'].rpartition('.')[2]}"
    records = [smoke[node] for node in ([f"fit--{run}"] if learns(recipe) else []) + [test]]
    assert [(record.status, record.reason) for record in records] == [("ok", None)] * len(records)
    assert records[-1].n_samples > 0
    assert (records[-1].checkpoint is not None) == learns(recipe)
    # Some metrics need more samples than a smoke run has.
    assert [metric for metric in records[-1].metrics.values() if isinstance(metric["value"], float)]


@pytest.mark.parametrize("recipe", [recipe for recipe in TINY if "tiny\n" in recipe.read_text(encoding="utf-8")], ids=name)
def test_the_weights_that_a_tiny_recipe_reads_are_in_its_record_and_key(recipe, smoke, parsed):
    record = smoke[f"fit--{recipe.stem}+smoke--seed0"]
    settings = {key: value for key, value in parsed(command_of(recipe)).items() if key != "evaluate"}
    parts = _tiny_parts(settings, closure(_names(settings, [])).sources)
    shipped = [entry["source"].removeprefix("tiny/") for entry in record.weights if entry["source"].startswith("tiny/")]
    assert shipped and all(any(source.startswith(part) for part in parts) for source in shipped)
    assert all(any(source.startswith(part) for source in shipped) for part in parts)
    for parent in record.parents.values():
        (entry,) = [entry for entry in record.weights if entry["source"] == parent]
        assert list(entry["files"].values()) == [smoke[Path(parent).parents[2].name].checkpoint["sha256"]]


WEIGHTS = ("pretrained", "vae", "siglip", "image_encoder", "ip_adapter", "weights", "published")
LEAST = {
    "igr": 3,
    "igr-hqft": 3,
    "geco": 1,
    "tryoffdiff": 2,
    "tryoffdiff-v2": 3,
    "catvton": 2,
    "tryoffanyone": 2,
    "catvton-mask-free": 2,
    "catvton-published": 1,
}
"""How many files at least a recipe or overlay reads from a hub."""


@pytest.mark.parametrize("recipe", FULL + OVERLAYS, ids=name)
def test_a_full_recipe_pins_the_revisions_of_its_weights(recipe):
    given = yaml.safe_load(recipe.read_text(encoding="utf-8")).get("model", {}).get("init_args", {})
    from_hub = {key: value for key, value in given.items() if key in WEIGHTS and "/" in value and not value.startswith("weights/")}
    assert {key: value for key, value in from_hub.items() if not re.fullmatch("[^@/]+/[^@/]+@[0-9a-f]{40}(/.*)?", value)} == {}
    assert len(from_hub) >= LEAST.get(recipe.stem, 0)


def learns(recipe: Path) -> bool:
    """Return whether a recipe's method has a training step; the baselines without training have none."""
    class_path = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["class_path"]
    module, _, method = class_path.rpartition(".")
    return is_overridden("training_step", getattr(importlib.import_module(module), method), Method)
