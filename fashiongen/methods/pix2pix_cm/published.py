"""The layer names in the authors' files for Pix2PixCM (`pix2pixcm_PART_DATASET.pt` of github.com/sisinflab/GeCo)."""

from __future__ import annotations

# The authors' layer names and ours.
GENERATOR = {"e1": "first", "d6.1": "last"}
GENERATOR |= {f"e{place}.1": f"down.{place - 2}.norm" for place in range(2, 7)}
GENERATOR |= {f"e{place}.2": f"down.{place - 2}.conv" for place in range(2, 7)}
GENERATOR |= {f"d{place}.1": f"up.{place - 1}.conv" for place in range(1, 6)}
GENERATOR |= {f"d{place}.3": f"up.{place - 1}.norm" for place in range(1, 6)}
DISCRIMINATOR = {"initial.0": "first", "model.3": "out"}
DISCRIMINATOR |= {f"model.{place}.0": f"convs.{place}" for place in range(3)}
DISCRIMINATOR |= {f"model.{place}.1": f"norms.{place}" for place in range(3)}
