"""Metrics agree across processes with unequal numbers of samples, or none."""

import tempfile

import pytest
import torch
from metrics.sync_worker import SHARES, work
from torch import multiprocessing
from warm import CONTEXT

from fashiongen.metrics import KID, SSIM


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_result_of_one(network, images):
    prediction, target, mask = images
    mask[6] = False  # no foreground: undefined, in the second process
    pair, sets = SSIM(region="foreground"), KID(subsets=10, subset_size=4, network=network)
    for metric in (pair, sets):
        metric.update(prediction, target, mask)
    results = CONTEXT.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"{folder}/rendezvous", (prediction, target, mask), network, results)
        multiprocessing.start_processes(work, args=arguments, nprocs=2, start_method="forkserver")
    for _ in range(4):
        name, rank, pair_value, set_value, everyone, n_own, n_undefined = results.get()
        assert pair_value == pytest.approx(pair.compute().item(), abs=1e-6)
        assert set_value == pytest.approx(sets.compute().item(), rel=1e-5)
        torch.testing.assert_close(torch.tensor(everyone), pair.values(), equal_nan=True)
        assert n_own == SHARES[name][rank]
        assert n_undefined == (rank == 1 if name == "uneven" else rank == 0)
