"""BPR-DAE: ranking by the codes of two autoencoders over features of a frozen AlexNet."""

from fashiongen.methods.bpr_dae.module import BPRDAE

__all__ = ["BPRDAE"]
