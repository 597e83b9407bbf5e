"""Reads the files that the authors' training code writes for BPR-DAE (`bprdae_DATASET_*.pt` of github.com/sisinflab/GeCo)."""

from __future__ import annotations

from fashiongen.checkpoints import load_state, read_state
from fashiongen.methods.bpr_dae.network import BPRDAENetwork

NAMES = {"W1_v": "top.weight", "b1_v": "top.hidden_bias", "b1_prime_v": "top.visible_bias"}
NAMES |= {"W2_v": "bottom.weight", "b2_v": "bottom.hidden_bias", "b2_prime_v": "bottom.visible_bias"}


def load_published(network: BPRDAENetwork, file: str) -> None:
    """Load the authors' file into `network`.

    Raises:
        UserError: if the file cannot be read safely or does not fit.
    """
    load_state(network, {NAMES.get(key, key): value for key, value in read_state(file).items()}, source=file)
