"""DeepSpeed on CPU processes, which Lightning does not support: only for tests, using private methods of Lightning 2.6.

Trains with the real command line, each rank in its own warm process:

    checkpoint = fit(tmp_path, "zero2", "--config", recipe)       # a folder
    checkpoint = fit(tmp_path, "ddp", "--config", recipe)         # a file
"""

import json
import os
import time
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy
from warm import Command

ROOT = Path(__file__).parents[1]
STRATEGIES = {
    "zero2": {"class_path": "cpu_deepspeed.CPUDeepSpeedStrategy", "init_args": {"stage": 2, "process_group_backend": "gloo"}},
    "ddp": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"process_group_backend": "gloo"}},
}


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """DeepSpeedStrategy without the check for CUDA, on gloo."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # its faster all-reduce would have to be compiled
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", self.local_rank)


def fit(folder: Path, strategy: Literal["zero2", "ddp"], *args: str | Path, processes: int = 2, timeout: float = 300) -> Path:
    """Run `fashiongen fit ARGS` in `folder` and return the checkpoint that it leaves, a folder under ZeRO-2."""
    folder.mkdir(parents=True, exist_ok=True)
    overlay = folder / "strategy.yaml"
    # Every key that a recipe's own ModelCheckpoint may have set is named: the entry of a later file inherits the rest.
    settings = {"dirpath": str(folder), "filename": strategy, "save_last": False, "save_top_k": 1, "every_n_train_steps": 1}
    settings |= {"enable_version_counter": False, "monitor": None}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}
    overlay.write_text(  # JSON is YAML
        json.dumps(
            {
                "trainer": {
                    "accelerator": "cpu",
                    "devices": processes,
                    "strategy": STRATEGIES[strategy],
                    "logger": False,
                    "callbacks": [callback],
                }
            }
        )
    )
    environment = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
    }
    command = ["fit", *args, "--config", overlay]
    ranks = [Command(command, cwd=folder, env=environment | {"LOCAL_RANK": str(rank)}) for rank in range(processes)]
    deadline = time.monotonic() + timeout
    try:
        while any(rank.returncode is None for rank in ranks) and not any(rank.returncode for rank in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        statuses = [rank.returncode for rank in ranks]
    finally:
        for rank in ranks:
            rank.end()
    assert statuses == [0] * processes, "\n".join(rank.output()[-4000:] for rank in ranks)
    return folder / f"{strategy}.ckpt"
