"""The layer names in the authors' files for MGCM (`mgcm_PART_DATASET.pt` of github.com/sisinflab/GeCo)."""

from __future__ import annotations

# The authors' layer names and ours: `encoder` has the first five convolutions, `final_enc` the sixth, `m` the first of the decoder.
GENERATOR = {"encoder.0": "first", "final_enc.1": "down.4.norm", "final_enc.2": "down.4.conv", "m.1": "up.0.conv", "m.3": "up.0.norm"}
GENERATOR |= {f"encoder.{place}.1": f"down.{place - 1}.norm" for place in range(1, 5)}
GENERATOR |= {f"encoder.{place}.2": f"down.{place - 1}.conv" for place in range(1, 5)}
GENERATOR |= {f"decoder.{place}.1": f"up.{place + 1}.conv" for place in range(4)} | {"decoder.4.1": "last"}
GENERATOR |= {f"decoder.{place}.3": f"up.{place + 1}.norm" for place in range(4)}
DISCRIMINATOR = {"encoder.0.0": "first", "out_layer": "out"}
DISCRIMINATOR |= {f"encoder.{place}.0": f"convs.{place - 1}" for place in range(1, 4)}
DISCRIMINATOR |= {f"encoder.{place}.1": f"norms.{place - 1}" for place in range(1, 4)}
