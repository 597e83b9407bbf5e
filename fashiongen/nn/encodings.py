"""Outputs of frozen encoders: declared once, so that they can be cached in memory or precomputed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fashiongen.batches import Batch


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One output of a frozen encoder.

    It is computed outside autocast, whatever the training precision, so that it is the same in a training step, in
    `fashiongen data encode` and in a test: bfloat16 is coarser than grey levels. Only if the weights themselves have another dtype
    (DeepSpeed with bf16, `bf16-true`) is it computed in that dtype in a step, while a disk cache holds the output of float32 weights.

    Attributes:
        reads: the batch fields, all tensors, passed to `compute`.
        compute: takes the fields, (B, ...) each, returns (B, ...) floats.
        encoder: the frozen network; its weights and its `config`, if it has one, identify the encoding.
        preprocessing: description of the processing before and after the encoder, in words and numbers. It identifies the
            encoding too: change it whenever `compute` changes, so that older caches are not read.
    """

    reads: tuple[str, ...]
    compute: Callable[..., Tensor]
    encoder: nn.Module
    preprocessing: str

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        """Encode the batch: (B, ...) float32."""
        fields = [getattr(batch, name) for name in self.reads]
        with torch.autocast(fields[0].device.type, enabled=False):
            return self.compute(*fields).float()


def identities(encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """Return for each kind a sha256 of everything that affects its values: weights, config and preprocessing.

    The weights' source and the version of the library that wrote their config do not count.
    """
    of_encoder: dict[nn.Module, str] = {}
    for encoding in encodings.values():
        if encoding.encoder not in of_encoder:
            of_encoder[encoding.encoder] = _encoder_sha256(encoding.encoder)
    return {
        kind: hashlib.sha256(f"{of_encoder[encoding.encoder]}\0{encoding.reads}\0{encoding.preprocessing}".encode()).hexdigest()
        for kind, encoding in encodings.items()
    }


def _encoder_sha256(encoder: nn.Module) -> str:
    config: Any = getattr(encoder, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    described = {key: value for key, value in settings.items() if not key.startswith("_") and key not in ("transformers_version", "dtype")}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's values as bytes in row-major order, for any dtype."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class EncodingCache:
    """Tensors by sample id, in the memory of the device that computed them.

    Only for samples that are the same in every epoch. A batch with any uncached sample is computed as a whole, so that a sample's value
    does not depend on which samples were cached (a resumed run starts with none).
    """

    def __init__(self) -> None:
        """Start empty."""
        self._values: dict[tuple[str, str], Tensor] = {}

    def __call__(self, kind: str, ids: list[str], compute: Callable[[], Tensor]) -> Tensor:
        """Return the encodings of a batch, (B, ...), from memory if all its samples are cached.

        Args:
            kind: name of the encoding.
            ids: the B samples.
            compute: returns the encodings of the batch, (B, ...); called if a sample is not cached.
        """
        if any((kind, id_) not in self._values for id_ in ids):
            values = compute().detach()
            self._values.update({(kind, id_): value.clone() for id_, value in zip(ids, values, strict=True)})
            return values
        return torch.stack([self._values[kind, id_] for id_ in ids])

    def of_items(self, kind: str, ids: list[str], compute: Callable[[list[int]], Tensor]) -> Tensor:
        """Return the encodings of items, (N, ...), computing each distinct item that is not cached once, even within the batch.

        Items, such as those of a user's history, occur in many samples: whole batches are hardly ever cached at first. An item's value may
        differ by rounding with the items that are computed beside it, and so in a resumed run.

        Args:
            kind: name of the encoding.
            ids: the N items, with repetitions.
            compute: returns the encodings of the items at the given places, in their order; called if an item is not cached.
        """
        new = {id_: place for place, id_ in reversed(list(enumerate(ids))) if (kind, id_) not in self._values}
        if new:
            places = sorted(new.values())
            values = compute(places).detach()
            self._values.update({(kind, ids[place]): value.clone() for place, value in zip(places, values, strict=True)})
        return torch.stack([self._values[kind, id_] for id_ in ids])
