"""`test` on two processes gives the same numbers as on one, with the public command line; see also test_loading.py and test_sync.py."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from fashiongen.cli import main
from fashiongen.evaluation.kept import Manifest

ROOT = Path(__file__).parents[2]
RUNS = {
    # Of these people 9 are tested, 6 by one process and 3 by the other: dealt one by one, in batches of 5 and 4, images would differ.
    "igr": ["--model.init_args.steps", "2", "--data.init_args.people", "61", "--data.init_args.eval_batch_size", "6"],
    "bpr_dae": ["--data.init_args.people", "230"],
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over several threads round differently; one process and each of two use one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def command(recipe, out, *args):
    """The arguments of a test without a logger, which writes to the current folder."""
    places = ["--config", str(ROOT / "recipes" / "tiny" / f"{recipe}.yaml"), "--evaluate.out", str(out), "--evaluate.keep", str(out)[:-5]]
    return ["test", *places, "--trainer.logger", "false", "--trainer.callbacks", "null", *RUNS[recipe], *args]


def launch(*args):
    """Run the command line in a process from which Lightning starts the other; neither outlives this function."""
    line = [sys.executable, "-m", "fashiongen", *args]
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen(line, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **told)
    try:
        output, _ = process.communicate(timeout=500)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output[-4000:]


def same(one, two):
    one, two = (json.loads(path.read_text()) for path in (one, two))
    assert two["device"].startswith("2 x cpu")
    assert one["n_samples"] == two["n_samples"]
    assert one["reason"] == two["reason"]
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, metric in one["metrics"].items():
        other = two["metrics"][name]
        assert metric["value"] is not None
        assert other["value"] == pytest.approx(metric["value"], abs=1e-6, rel=0), name
        assert other["ci95"] == (metric["ci95"] and pytest.approx(metric["ci95"], abs=1e-6, rel=0)), name
    return one


def check(recipe, folder, two_processes, *args):
    main(command(recipe, folder / "one.json", *args))
    two_processes(command(recipe, folder / "two.json", *args, "--trainer.devices", "2"))
    record = same(folder / "one.json", folder / "two.json")
    assert record["n_samples"] % 2 == 1
    task = yaml.safe_load((ROOT / "recipes" / "tasks" / f"{record['protocol']}.yaml").read_text())["evaluate"]
    assert len(record["metrics"]) == len(task["metrics"])
    assert (folder / "one.per_sample.jsonl").read_bytes() == (folder / "two.per_sample.jsonl").read_bytes()
    one, two = (Manifest.read(folder / name) for name in ("one", "two"))
    assert (one.ids, one.sha256) == (two.ids, two.sha256) and len(one.ids) == record["n_samples"]


def forked(args):
    main([*args, "--trainer.strategy", "ddp_fork"])


def test_try_off_on_two_processes_gives_the_numbers_of_one(tmp_path):
    check("igr", tmp_path, lambda args: launch(*args, "--trainer.strategy", "ddp"))


@pytest.mark.timeout(120)  # if one process skips its hooks, the other waits for ever
@pytest.mark.parametrize("batch", [8, 1000])  # with 1000 one process has no query and no candidate
def test_retrieval_on_two_processes_gives_the_numbers_of_one(batch, tmp_path):
    check("bpr_dae", tmp_path, forked, "--data.init_args.eval_batch_size", str(batch))
