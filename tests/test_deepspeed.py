"""ZeRO-2 without a GPU: the same weights as DDP, and a checkpoint that becomes one plain file."""

import pytest
import torch
import yaml
from cpu_deepspeed import fit

from fashiongen.cli import main


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {
                    "class_path": "toy.Painter",
                    "init_args": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}}},
                },
                "data": {"class_path": "toy.Gallery"},
                "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0},
            }
        )
    )
    return path


def test_zero2_learns_what_ddp_learns(recipe, tmp_path):
    plain = fit(tmp_path / "ddp", "ddp", "--config", recipe)
    sharded = fit(tmp_path / "zero2", "zero2", "--config", recipe)
    one_file = tmp_path / "one.ckpt"
    main(["consolidate", str(sharded), str(one_file), "--trust"])
    expected = torch.load(plain, weights_only=True)["state_dict"]
    state = torch.load(one_file, weights_only=True)["state_dict"]
    for name, weight in expected.items():
        torch.testing.assert_close(state[name], weight, rtol=0, atol=1e-5)
    main(["validate", "--config", str(recipe), "--ckpt_path", str(one_file), "--trainer.accelerator", "cpu", "--trainer.logger", "false"])
