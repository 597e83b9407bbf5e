"""The work of one process in test_sync.py, in a separate module so that a spawned process can import it by name."""

import torch
from torch import distributed

from fashiongen.metrics import KID, SSIM

SHARES = {"uneven": [5, 2], "one-empty": [7, 0]}


def work(rank, rendezvous, images, network, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for name, shares in SHARES.items():
        pair, sets = SSIM(region="foreground"), KID(subsets=10, subset_size=4, network=network)
        share = [part.split(shares)[rank] for part in images]
        for metric in (pair, sets):
            if shares[rank]:
                metric.update(*share)
        with pair.sync_context():
            everyone = pair.values()
        results.put((name, rank, pair.compute().item(), sets.compute().item(), everyone.tolist(), len(pair.values()), pair.n_undefined))
    distributed.destroy_process_group()
