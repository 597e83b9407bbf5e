"""`fashiongen bench run` as a user types it, on real trainings."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys
import yaml

from fashiongen.benchmark import runner
from fashiongen.cli import main
from fashiongen.records import Record

ROOT = Path(__file__).parents[2]


def bench(*arguments: object) -> int:
    try:
        main(["bench", "run", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_suite_is_trained_tested_and_kept(recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    (tmp_path / "recipes" / "tasks").mkdir(parents=True)
    settings = {**yaml.safe_load(Path(recipe).read_text()), "evaluate": {"task": "vtoff", "protocol": "plain"}}
    (tmp_path / "recipes" / "painter.yaml").write_text(yaml.safe_dump(settings))
    metrics = {"colour": {"class_path": "fashiongen.metrics.ColourError", "init_args": {"region": "whole"}}}
    protocol = {"evaluate": {"task": "vtoff", "protocol": "plain", "metrics": metrics}}
    (tmp_path / "recipes" / "tasks" / "plain.yaml").write_text(yaml.safe_dump(protocol))
    suite = {"suite": "s", "recipes": "recipes", "runs": [{"methods": ["painter"], "seeds": [4]}]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    out = tmp_path / "out"
    assert bench(tmp_path / "suite.yaml", "--out", out) == 0
    names = ["fit--painter--seed4", "test--painter--seed4--plain--Gallery"]
    fit, test = (Record.read(out / "nodes" / name / "record.json") for name in names)
    assert (fit.kind, fit.method, fit.seed, fit.status, fit.exit_status, fit.dataset) == ("fit", "painter", 4, "ok", 0, "gallery")
    assert fit.parameters["trainable"] and fit.peak_memory_bytes and fit.fit_seconds and fit.seconds and fit.fit_seconds < fit.seconds
    assert (test.kind, test.method, test.protocol, test.n_samples) == ("test", "painter", "plain", 8)
    assert test.checkpoint == {**fit.checkpoint, "path": str(out / "nodes" / "fit--painter--seed4" / "logs" / "toy" / "last.ckpt")}
    assert test.fit_seconds and len(fit.checkpoint["weights_sha256"]) == 64
    folder = out / "nodes" / test.node
    assert len((folder / test.per_sample).read_text().splitlines()) == 8 and len(list((folder / test.images).glob("*.png"))) == 8
    assert "colour" in (folder / test.log).read_text()
    assert "2 ok" in capfd.readouterr().out
    # The folder alone shows that everything is done: nothing runs again.
    nodes = {node["id"]: node["key"] for node in json.loads((out / "suite.json").read_text())["nodes"]}
    assert nodes == {fit.node: fit.key, test.node: test.key}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.yaml", "--out", "out"], "absent.yaml: No such file"),
        (["suite.yaml", "--out", "out", "--jobs", "0"], "--jobs 0: must be at least 1"),
        (["suite.yaml", "--out", "out", "--slurm", "partition"], "--slurm partition: must be KEY=VALUE"),
        (["--out", "out"], "SUITE"),
        (["suite.yaml", "--out", "out"], "unknown key 'seed'"),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text("suite: s\nrecipes: .\nseed: 1\nruns: [{methods: [a]}]")
    assert bench(*arguments) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(("executor", "words"), [("local", "to do; needs nothing; no limit\n"), ("slurm", "no limit, 1 GPU\n")])
def test_a_dry_run_lists_what_a_cluster_would_run(tmp_path, monkeypatch, capfd, executor, words):
    monkeypatch.setattr(runner, "describer", lambda render: toys.describe)
    suite = toys.write_suite(tmp_path, {"white": {"facts": {"learns": False, "accelerator": "auto", "gpus": 1}}})
    assert bench(suite, "--out", tmp_path / "out", "--dry-run", "--executor", executor, "--cpus", 3) == 0
    told = capfd.readouterr().out
    assert words in told


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_weights_of_one_that_was_not(tmp_path):
    """Must show 2 with the real command line: SIGKILL to the runner in mid-training, and a second run."""
    keys = {"data.init_args.people": 400, "trainer.max_epochs": 4}
    fit_keys = {"trainer.callbacks.init_args.every_n_train_steps": 3}
    suite = {
        "suite": "s",
        "recipes": str(ROOT / "recipes" / "tiny"),
        "keys": keys,
        "fit_keys": fit_keys,
        "runs": [{"methods": ["bpr_dae"]}],
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fashiongen", "bench", "run", str(tmp_path / "suite.yaml"), "--out"]
    subprocess.run([*command, str(tmp_path / "unbroken")], env=environment, check=True, cwd=tmp_path)
    folder = tmp_path / "broken" / "nodes" / "fit--bpr_dae--seed0"
    with subprocess.Popen([*command, str(tmp_path / "broken")], env=environment, cwd=tmp_path) as runner:
        while not (folder / "logs" / "bpr_dae" / "last.ckpt").exists():
            assert runner.poll() is None
            time.sleep(0.01)
        runner.send_signal(signal.SIGKILL)
    assert not (folder / "record.json").exists()
    subprocess.run([*command, str(tmp_path / "broken")], env=environment, check=True, cwd=tmp_path)
    assert (folder / "log.txt").read_text().count("fashiongen fit") == 2
    for name in ("fit--bpr_dae--seed0", "test--bpr_dae--seed0--strict--FashionVC"):
        one, two = (tmp_path / which / "nodes" / name for which in ("unbroken", "broken"))
        first, second = (Record.read(place / "record.json") for place in (one, two))
        assert (first.status, first.metrics, first.key) == (second.status, second.metrics, second.key)
        assert first.checkpoint["weights_sha256"] == second.checkpoint["weights_sha256"]
        if first.per_sample:
            assert (one / first.per_sample).read_text() == (two / second.per_sample).read_text()
