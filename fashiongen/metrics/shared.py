"""What several metrics need of the same images, computed once: the features of a network, and which images are finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

Result = TypeVar("Result")


@dataclass
class _Shared:
    """What is known inside `shared_features()`: of each tensor that is alive, and the embeddings of texts by network."""

    images: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    texts: dict[nn.Module, dict[str, Tensor]] = field(default_factory=dict)


_shared: ContextVar[_Shared | None] = ContextVar("shared", default=None)


@contextmanager
def shared_features() -> Iterator[None]:
    """Let metrics with the same extractor run it only once per batch; the features are discarded with the images, or at the end.

    Batches are identified by their tensor: inside, images must not be changed in place.
    """
    token = _shared.set(_Shared())
    try:
        yield
    finally:
        _shared.reset(token)


def once(images: Tensor, network: nn.Module | None, kind: str, compute: Callable[[Tensor], Result]) -> Result:
    """Return `compute(images)`, which inside `shared_features()` runs only once for the same tensor, network and kind.

    Args:
        images: identified as an object: a view or a copy is another.
        network: the network in use, None without one.
        kind: what is computed, since a network has several outputs.
        compute: must not return its argument, which would then stay in memory.
    """
    shared = _shared.get()
    if shared is None:
        return compute(images)
    results: dict[Any, Any] = shared.images.setdefault(images, {})
    key = (network, kind)
    if key not in results:
        results[key] = compute(images)
    found: Result = results[key]
    return found


def embedded_texts(network: Any, texts: Sequence[str]) -> Tensor:  # noqa: ANN401  anything with `text_features`
    """Return `network.text_features(texts)`, (N, F), with each distinct text encoded once, inside `shared_features()` once for all metrics.

    Args:
        network: has `text_features`, from a list of texts to (N, F).
        texts: N texts, at least one.
    """
    shared = _shared.get()
    known: dict[str, Tensor] = {} if shared is None else shared.texts.setdefault(network, {})
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known.update(zip(new, network.text_features(new), strict=True))
    return torch.stack([known[text] for text in texts])
