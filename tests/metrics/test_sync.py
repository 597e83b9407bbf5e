"""Metrics agree across processes that hold unequal numbers of samples, or none."""

import tempfile

import pytest
import torch
from torch import distributed, multiprocessing

from fashiongen.metrics import KID, SSIM

SHARES = {"uneven": [5, 2], "one-empty": [7, 0]}


def work(rank, rendezvous, pictures, network, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for name, shares in SHARES.items():
        pair, sets = SSIM(region="foreground"), KID(subsets=10, subset_size=4, network=network)
        share = [part.split(shares)[rank] for part in pictures]
        for metric in (pair, sets):
            if shares[rank]:
                metric.update(*share)
        with pair.sync_context():
            everyone = pair.values()
        results.put((name, rank, pair.compute().item(), sets.compute().item(), everyone.tolist(), len(pair.values()), pair.n_undefined))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_processes_give_the_result_of_one(network, pictures):
    prediction, target, mask = pictures
    mask[6] = False  # no foreground: undefined, in the second process
    pair, sets = SSIM(region="foreground"), KID(subsets=10, subset_size=4, network=network)
    for metric in (pair, sets):
        metric.update(prediction, target, mask)
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, args=(f"{folder}/rendezvous", (prediction, target, mask), network, results), nprocs=2)
    for _ in range(4):
        name, rank, pair_value, set_value, everyone, n_own, n_undefined = results.get()
        assert pair_value == pytest.approx(pair.compute().item(), abs=1e-6)
        assert set_value == pytest.approx(sets.compute().item(), rel=1e-5)
        torch.testing.assert_close(torch.tensor(everyone), pair.values(), equal_nan=True)
        assert n_own == SHARES[name][rank]
        assert n_undefined == (rank == 1 if name == "uneven" else rank == 0)
