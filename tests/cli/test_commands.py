"""The real command line on a toy method; mistakes are in test_messages.py."""

import json
import resource
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from fashiongen import __version__
from fashiongen.cli import main
from fashiongen.records import Record

ROOT = Path(__file__).parents[2]
COMMANDS = "fit validate test predict recipes wardrobe data retrieve bench leaderboard new tiny consolidate".split()


def parsed(capsys, *args):
    """Return the settings with which a command would run."""
    with pytest.raises(SystemExit) as stop:
        main([*map(str, args), "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture
def trained(recipe):
    """A run of one epoch in the current folder: its recipe and its checkpoint."""
    assert main(["fit", "--config", recipe]) is None  # otherwise the script would exit with status 1
    return recipe, "logs/toy/last.ckpt"


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["recipes"], ["bench", "run", "--help"], ["data", "masks", "--help"]], ids=" ".join
)
def test_help_and_version_import_nothing_heavy(args):
    program = (
        f"import sys; from fashiongen.cli import main\ntry: main({args})\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "fashiongen.cli" in modules
    assert not {"torch", "lightning", "numpy", "jsonargparse", "yaml", "PIL", "fashiongen.cli.lightning"} & modules


def test_help_and_version_are_fast():
    bare = _least_seconds("import argparse; argparse.ArgumentParser().parse_args(['--help'])")
    for option in ("--help", "--version"):
        assert _least_seconds(f"from fashiongen.cli import main; main(['{option}'])") < bare + 0.3


def _least_seconds(program):
    """Return a program's CPU time, which a busy machine changes less than the wall-clock time."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fashiongen {__version__}\n"


def test_both_scripts_are_the_same_program():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"fashiongen": "fashiongen.cli:main", "lightning": "fashiongen.cli:main"}


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"    {name}" not in text] == []


def test_recipes_lists_what_there_is_by_name(capsys):
    assert main(["recipes"]) is None
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [
        "Recipes: --config NAME",
        "Overlays: a further --config NAME",
        "Protocols: test --evaluate.protocol NAME",
        "Suites: bench run NAME",
    ]
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    assert listed >= {"igr", "tiny/igr", "zero2", "vtoff-tiny", "tiny-smoke"}


@pytest.mark.parametrize("command", ["recipes", "leaderboard"])
def test_a_closed_pipe_is_not_an_error(command, tmp_path):
    record = Record(node="a", method="a", task="vtoff", dataset="d", split="test", protocol="p")
    record.write(tmp_path / "nodes" / "a" / "record.json")
    args = [command, *([str(tmp_path)] if command == "leaderboard" else [])]
    command = f"{sys.executable} -c 'from fashiongen.cli import main; import time; time.sleep(1); main({json.dumps(args)})' | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_suite_is_named_and_has_a_folder_of_its_own(tmp_path, monkeypatch):
    from fashiongen.benchmark import runner

    asked = []
    monkeypatch.setattr(runner, "run_suite", lambda *args, **options: asked.append(args) or 0)
    monkeypatch.chdir(tmp_path)
    main(["bench", "run", "tiny-smoke", "--dry-run"])
    main(["bench", "run", "mine.yaml", "--out", "here"])
    assert [(suite, out) for suite, out, _ in asked] == [
        (ROOT / "benchmarks" / "suites" / "tiny-smoke.yaml", Path("results/tiny-smoke")),
        (Path("mine.yaml"), Path("here")),
    ]


def test_classes_in_the_current_folder_are_found(recipe):
    """Like a user's own code, for either script; afterwards the process imports what it did before."""
    Path("own_shop.py").write_text("from toy import Gallery, Painter\n\nclass Shop(Gallery):\n    pass\n\nclass Own(Painter):\n    pass\n")
    Path("own.yaml").write_text("model: {class_path: own_shop.Own}\ndata: {class_path: own_shop.Shop}\n")
    before = list(sys.path)
    configs = ["--config", recipe, "--config", "own.yaml"]
    main(["fit", *configs])
    main(["test", *configs, "--ckpt_path", "logs/toy/last.ckpt", "--evaluate.out", "test.json"])
    main(["predict", *configs, "--ckpt_path", "logs/toy/last.ckpt", "--out", "images"])
    assert sys.path == before
    assert json.loads(Path("test.json").read_text())["status"] == "ok"
    assert len(list(Path("images").iterdir())) == 8
    del sys.modules["own_shop"]


@pytest.mark.parametrize("command", [*COMMANDS, "wardrobe render", "data encode", "data masks", "bench run", "new method", "tiny build"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    description = text.split("\n\n")[1]
    assert len(description) > 20
    if command in COMMANDS[:4]:
        assert text.startswith(f"usage: fashiongen {command} --config RECIPE")
        assert f"  fashiongen {command} --config tiny/igr" in text[:2000]


def test_overlays_compose_and_the_command_line_wins(recipe, tmp_path, capsys):
    (tmp_path / "one.yaml").write_text("model: {init_args: {width: 5}}\ntrainer: {max_epochs: 5, max_steps: 7}\n")
    (tmp_path / "two.yaml").write_text("trainer: {max_epochs: 6}\n")
    settings = parsed(capsys, "fit", "--config", recipe, "--config", "one.yaml", "--config", "two.yaml", "--data.init_args.count", "4")
    assert settings["model"]["class_path"] == "toy.Painter"
    assert settings["model"]["init_args"]["width"] == 5
    assert settings["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.01
    assert (settings["trainer"]["max_epochs"], settings["trainer"]["max_steps"]) == (6, 7)
    assert settings["data"]["init_args"]["count"] == 4
    assert settings["seed_everything"] == 0


def test_lists_are_replaced_and_appended_to_with_a_plus(recipe, tmp_path, capsys):
    monitor = "{class_path: lightning.pytorch.callbacks.LearningRateMonitor}"
    (tmp_path / "replace.yaml").write_text(f"trainer: {{callbacks: [{monitor}]}}\n")
    (tmp_path / "append.yaml").write_text(f"trainer: {{callbacks+: {monitor}}}\n")
    for overlay, count in (("replace.yaml", 1), ("append.yaml", 2)):
        settings = parsed(capsys, "fit", "--config", recipe, "--config", overlay)
        assert len(settings["trainer"]["callbacks"]) == count


def test_fit_writes_its_recipe_and_a_test_leaves_it_alone(trained):
    recipe, checkpoint = trained
    saved = Path("logs/toy/config.yaml")
    before = saved.read_bytes()
    assert yaml.safe_load(before)["model"]["class_path"] == "toy.Painter"
    main(["validate", "--config", recipe, "--ckpt_path", checkpoint, "--model.init_args.refuse", "user"])
    assert saved.read_bytes() == before


@pytest.mark.parametrize("given", ["logs/toy/last.ckpt", "last"])
def test_a_full_checkpoint_is_read_safely_and_training_resumes(given, trained):
    recipe, checkpoint = trained
    before = torch.load(checkpoint, weights_only=True)
    assert before["optimizer_states"] and before["loops"] and before["callbacks"]
    main(["fit", "--config", recipe, "--ckpt_path", given, "--trainer.max_epochs", "3"])
    after = torch.load(checkpoint, weights_only=True)
    assert (before["global_step"], after["global_step"]) == (4, 12)


def test_settings_come_from_the_recipe_not_from_the_checkpoint(trained, capsys):
    recipe, checkpoint = trained
    with pytest.raises(SystemExit):
        main(["test", "--config", recipe, "--ckpt_path", checkpoint, "--model.init_args.width", "5"])
    assert "hand.weight" in capsys.readouterr().err


def test_predict_writes_images(trained):
    recipe, checkpoint = trained
    main(["predict", "--config", recipe, "--ckpt_path", checkpoint, "--out", "images"])
    assert sorted(path.name for path in Path("images").iterdir()) == [f"image-{index}.png" for index in range(8)]


def test_the_record_says_what_was_run(trained, tmp_path):
    recipe, checkpoint = trained
    Path("more.yaml").write_text("trainer: {limit_test_batches: 2}\n")
    shutil.copy(checkpoint, "copy.ckpt")  # the path of a checkpoint is not a setting
    hashes, protocols = [], set()
    common = ["test", "--config", recipe, "--config", "more.yaml", "--ckpt_path"]
    for out, path in (("one.json", checkpoint), ("two.json", "copy.ckpt")):
        main([*common, path, "--evaluate.out", out])
        record = json.loads(Path(out).read_text())
        assert record["recipe"] == recipe
        assert record["overlays"] == ["more.yaml"]
        assert record["n_samples"] == 4
        hashes.append(record["config_sha256"])
        protocols.add(record["protocol_sha256"])
    assert hashes[0] == hashes[1] and len(hashes[0]) == 64
    main([*common, checkpoint, "--evaluate.out", "three.json", "--data.init_args.count", "6"])
    record = json.loads(Path("three.json").read_text())
    assert record["config_sha256"] != hashes[0] and protocols == {record["protocol_sha256"]}  # other data, the same protocol
    Path("judged.yaml").write_text("evaluate: {metrics: {ssim: {class_path: fashiongen.metrics.SSIM}}}\n")
    main([*common, checkpoint, "--evaluate.out", "four.json", "--config", "judged.yaml"])
    assert json.loads(Path("four.json").read_text())["protocol_sha256"] not in protocols


def test_parents_are_passed_on_unless_a_run_resumes(trained, monkeypatch):
    import toy

    recipe, checkpoint = trained
    seen = []
    monkeypatch.setattr(toy.Painter, "load_parents", lambda self, parents: seen.append(parents))
    Path("child.yaml").write_text("parents: {coarse: toy, fine: other}\n")
    given = ["--parents.coarse", checkpoint, f"--parents.fine={checkpoint}"]
    main(["fit", "--config", recipe, "--config", "child.yaml", *given])
    assert seen == [{"coarse": Path(checkpoint), "fine": Path(checkpoint)}]
    main(["fit", "--config", recipe, "--config", "child.yaml", "--ckpt_path", checkpoint, "--trainer.max_epochs", "2"])
    main(["validate", "--config", recipe, "--config", "child.yaml", "--ckpt_path", checkpoint])
    assert len(seen) == 1


def test_a_restartable_run_starts_from_its_parents_and_then_resumes(trained, monkeypatch, capsys):
    """`--ckpt_path last`, which Lightning allows before the first run."""
    import toy

    recipe, checkpoint = trained
    seen = []
    monkeypatch.setattr(toy.Painter, "load_parents", lambda self, parents: seen.append(parents))
    saving = "{class_path: lightning.pytorch.callbacks.ModelCheckpoint, init_args: {dirpath: restarts, save_last: true}}"
    Path("child.yaml").write_text(f"parents: {{coarse: toy}}\ntrainer: {{callbacks: [{saving}]}}\n")
    restartable = ["fit", "--config", recipe, "--config", "child.yaml", "--ckpt_path", "last"]
    with pytest.raises(SystemExit):
        main(restartable)
    assert "needs the checkpoint of its parent toy: add --parents.coarse PATH" in capsys.readouterr().err
    main([*restartable, "--parents.coarse", checkpoint])
    assert seen == [{"coarse": Path(checkpoint)}]
    main([*restartable, "--parents.coarse", checkpoint, "--trainer.max_epochs", "2"])
    assert len(seen) == 1


def test_wardrobe_render_writes_a_layout(tmp_path):
    assert main(["wardrobe", "render", "viton_hd", str(tmp_path / "world"), "--people", "14", "--size", "64x48", "--seed", "1"]) is None
    pairs = (tmp_path / "world" / "test_pairs.txt").read_text().split()
    assert pairs and (tmp_path / "world" / "test" / "image" / pairs[0]).is_file()


@pytest.mark.parametrize("overlay", ["zero2.yaml", "zero2-offload.yaml"])
def test_deepspeed_accepts_the_overlays(overlay, recipe, capsys):
    """DeepSpeed's own check of the configuration that Lightning builds from an overlay; it needs no GPU."""
    from deepspeed.runtime.config import DeepSpeedConfig
    from lightning.pytorch.strategies import DeepSpeedStrategy

    settings = parsed(capsys, "fit", "--config", recipe, "--config", ROOT / "recipes" / "overlays" / overlay)
    strategy, optimizer = settings["trainer"]["strategy"], settings["model"]["init_args"]["optimizer"]
    assert strategy["class_path"] == "lightning.pytorch.strategies.DeepSpeedStrategy"
    config = DeepSpeedConfig({**DeepSpeedStrategy(**strategy["init_args"]).config, "train_micro_batch_size_per_gpu": 2})
    assert config.zero_config.stage == 2
    assert optimizer["init_args"]["lr"] == 0.01
    if overlay == "zero2.yaml":
        assert config.zero_config.offload_optimizer is None
        assert optimizer["class_path"] == "torch.optim.AdamW"
    else:  # DeepSpeed offloads only its own optimizer
        assert config.zero_config.offload_optimizer.device == "cpu"
        assert optimizer["class_path"] == "deepspeed.ops.adam.DeepSpeedCPUAdam"
