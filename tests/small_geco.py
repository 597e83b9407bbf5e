"""Small CIGM and GECo and a quiet trainer, for the tests of both."""

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fashiongen.methods.geco import CIGM, GECo

SMALL = {"image_size": 16, "features": 2, "noise_channels": 4}
BACKBONE = {"backbone_options": {"channels": [8, 8, 8, 8]}, "embedding": 6}


def cigm(**settings) -> CIGM:
    torch.manual_seed(0)
    method = CIGM(**SMALL, discriminator_widths=(4, 8), optimizer=lambda p: torch.optim.Adam(p, lr=2e-4, betas=(0.5, 0.999)), **settings)
    return method


def diverse_cigm() -> CIGM:
    return cigm(diversity=1.0, lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7))


def geco(**settings) -> GECo:
    torch.manual_seed(0)
    return GECo(**SMALL, **BACKBONE, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3), **settings)


def trainer(**settings) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(**{"accelerator": "cpu", "num_sanity_val_steps": 0, "limit_val_batches": 0, **quiet, **settings})


def checkpointing(folder, every: int) -> dict:
    callback = ModelCheckpoint(dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=every)
    return {"callbacks": [callback], "enable_checkpointing": True}
