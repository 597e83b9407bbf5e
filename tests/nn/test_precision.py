"""True float32: no switch of torch's lets a matrix product or a convolution use fewer bits, and each is as before afterwards."""

import doctest

import pytest
import torch

from fashiongen.metrics.base import exact_arithmetic
from fashiongen.nn import precision
from fashiongen.nn.precision import full_float32

backends = torch.backends
SWITCHES = [
    backends.cuda.matmul,
    backends.cudnn.conv,
    backends.cudnn.rnn,
    backends.mkldnn.matmul,
    backends.mkldnn.conv,
    backends.mkldnn.rnn,
]


def coarse_matmul():
    torch.set_float32_matmul_precision("medium")


def coarse_old_flag():
    torch.backends.cuda.matmul.allow_tf32 = True


def coarse_new_flag():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


@pytest.fixture(
    params=[lambda: None, coarse_matmul, coarse_old_flag, coarse_new_flag], ids=["defaults", "medium", "allow_tf32", "fp32_precision"]
)
def coarse(request):
    before = [switch.fp32_precision for switch in SWITCHES]
    request.param()
    yield
    torch.set_float32_matmul_precision("highest")
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.fp32_precision = value


def state():
    """Every switch, of both interfaces; the older one cannot be read after the newer one was set alone."""
    try:
        old = (torch.get_float32_matmul_precision(), backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)
    except RuntimeError:
        old = None
    return old, [switch.fp32_precision for switch in SWITCHES]


@pytest.mark.parametrize("context", [full_float32, lambda: exact_arithmetic(torch.device("cpu"))], ids=["float32", "metrics"])
def test_all_switches_are_off_inside_and_restored(coarse, context):
    before = state()
    with context():
        assert state() == (("highest", False, False), ["ieee"] * 6)
        with context():  # nested
            assert state()[1] == ["ieee"] * 6
        assert state()[1] == ["ieee"] * 6
    assert state() == before
    with pytest.raises(ZeroDivisionError), context():
        raise ZeroDivisionError
    assert state() == before


def test_the_example_is_true():
    assert doctest.testmod(precision).failed == 0


@pytest.mark.gpu
@pytest.mark.parametrize("coarseness", ["high", "medium"])
def test_a_product_and_a_convolution_are_exact_on_a_gpu(coarseness):
    torch.set_float32_matmul_precision(coarseness)
    try:
        left, right = torch.randn(2, 512, 512, dtype=torch.float64, device="cuda")
        image, kernel = (
            torch.randn(1, 64, 32, 32, dtype=torch.float64, device="cuda"),
            torch.randn(64, 64, 3, 3, dtype=torch.float64, device="cuda"),
        )
        with exact_arithmetic(left.device):
            product, convolved = left.float() @ right.float(), torch.nn.functional.conv2d(image.float(), kernel.float())
        assert (product - left @ right).abs().max() < 1e-3 and (left.float() @ right.float() - left @ right).abs().max() > 1e-3
        assert (convolved - torch.nn.functional.conv2d(image, kernel)).abs().max() < 1e-3
    finally:
        torch.set_float32_matmul_precision("highest")
