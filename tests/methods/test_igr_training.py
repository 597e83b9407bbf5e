"""IGR with the real command line: killed and resumed, and sharded by ZeRO-2."""

import os
import signal
import time
from pathlib import Path

import torch
import warm
from cpu_deepspeed import fit

from fashiongen.cli import main

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "tiny" / "igr.yaml"
WORLD = {"--data.init_args.people": "60", "--data.init_args.batch_size": "4", "--data.init_args.validation": "4"}
SHORT = [argument for pair in WORLD.items() for argument in pair] + [
    "--trainer.limit_val_batches",
    "0",
    "--trainer.enable_model_summary",
    "false",
]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def command(folder: Path, *args: str) -> list[str]:
    steps = ["--trainer.max_steps", "16", "--trainer.callbacks.every_n_train_steps", "5", "--trainer.callbacks.dirpath", str(folder)]
    return ["fit", "--config", str(RECIPE), *SHORT, *steps, "--trainer.logger", "false", *args]


def test_killed_in_mid_epoch_and_resumed_it_ends_with_the_same_weights(tmp_path, cache):
    """An epoch has 11 steps: the kill falls behind a checkpoint at step 5 or 10, and training goes on into the second epoch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    warm.run(command(whole), cwd=tmp_path, env=environment)

    process = warm.Command(command(broken), cwd=tmp_path, env=environment)
    last, deadline = broken / "last.ckpt", time.monotonic() + 300
    while not last.exists() and process.returncode is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.end()
    assert process.returncode == -signal.SIGKILL, "training ended before it could be killed"
    step = torch.load(last, weights_only=True)["global_step"]
    assert step in (5, 10)

    warm.run(command(broken, "--ckpt_path", str(last)), cwd=tmp_path, env=environment)
    expected, found = weights(whole / "last.ckpt"), weights(last)
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0, msg=name)


def test_zero2_on_two_processes_equals_ddp(tmp_path, cache):
    """Four steps of two processes; the consolidated checkpoint then does the task."""
    args = ["--config", str(RECIPE), *SHORT, "--trainer.max_steps", "4"]
    plain = weights(fit(tmp_path / "ddp", "ddp", *args))
    sharded = fit(tmp_path / "zero2", "zero2", *args)
    one_file = tmp_path / "one.ckpt"
    main(["consolidate", str(sharded), str(one_file), "--trust"])
    state = weights(one_file)
    moved = 0.0
    for name, weight in plain.items():
        torch.testing.assert_close(state[name].float(), weight, rtol=0, atol=1e-5, msg=name)
        moved = max(moved, weight.abs().max().item())
    assert moved > 0
    small = [
        "--data.init_args.people",
        "60",
        "--data.init_args.validation",
        "4",
        "--model.init_args.steps",
        "2",
        "--trainer.logger",
        "false",
    ]
    main(["test", "--config", str(RECIPE), *small, "--ckpt_path", str(one_file), "--evaluate.out", str(tmp_path / "r.json")])
    assert (tmp_path / "r.json").is_file()
