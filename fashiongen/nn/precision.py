"""True float32: torch's switches that let a matrix product or a convolution of float32 numbers use fewer bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute matrix products, convolutions and recurrent layers of float32 in float32, on CUDA and on the CPU.

    TF32 has a mantissa of 10 bits and bfloat16 of 7, where float32 has 23. Both of torch's interfaces are set, so that they agree while
    the block runs, and restored afterwards: the older one of `set_float32_matmul_precision` and `allow_tf32`, and `fp32_precision`.

    >>> torch.set_float32_matmul_precision("high")
    >>> with full_float32():
    ...     torch.get_float32_matmul_precision()
    'highest'
    >>> torch.get_float32_matmul_precision()
    'high'
    >>> torch.set_float32_matmul_precision("highest")
    """
    backends: Any = torch.backends
    cudnn, switches = backends.cudnn, _switches(backends)
    before = [switch.fp32_precision for switch in switches]
    matmul, tf32 = _read(torch.get_float32_matmul_precision), _read(lambda: cudnn.allow_tf32)
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        if tf32 is not None:
            cudnn.allow_tf32 = tf32
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def _switches(backends: Any) -> list[Any]:  # noqa: ANN401  torch.backends' own module
    cpu = backends.mkldnn
    return [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, cpu.matmul, cpu.conv, cpu.rnn]


def _read(setting: Any) -> Any:  # noqa: ANN401  a getter of torch's older interface and its value
    """Return a setting of the older interface; None if the newer one has set something else, which torch refuses to read."""
    try:
        return setting()
    except RuntimeError:
        return None
