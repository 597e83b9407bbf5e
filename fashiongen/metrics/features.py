"""The feature extractors that metrics are built on, by name.

A metric's reported name carries its extractor, so a number from the tiny network never shares a column with one from a published network.
"""

from copy import deepcopy
from functools import cache

import torch

from fashiongen.checkpoints import tiny_weights
from fashiongen.errors import UserError
from fashiongen.nn.classifier import AttributeClassifier

# Both names mean the attribute classifier trained on the embedded wardrobe: distances are called lpips[tiny], sets fid[tiny-classifier].
EXTRACTORS = ("tiny", "tiny-classifier")
INJECTED = "custom"


@cache
def extractor(name: str) -> AttributeClassifier:
    """Return the network of that name, frozen and in evaluation mode; one process loads it once.

    Raises:
        UserError: if there is no extractor of that name, or its weights are not there.
    """
    if name not in EXTRACTORS:
        raise UserError(unknown(name))
    return AttributeClassifier.from_pretrained(tiny_weights() / "classifier").requires_grad_(False)


def unknown(name: str) -> str:
    """Say in one line that there is no such extractor and which ones there are."""
    return f"unknown feature extractor {name!r}: choose one of {', '.join(EXTRACTORS)}"


class FrozenNetwork:
    """A metric's hold on its extractor: loaded at first use, moved to where it is used, and no submodule.

    A network that a metric held as a submodule would land in the checkpoint and among the parameters of the method that holds the metric.
    Copies and pickles of a named extractor carry the name alone.
    """

    def __init__(self, name: str, network: AttributeClassifier | None = None) -> None:
        """Hold the extractor called `name`, or a frozen copy of `network`.

        Args:
            name: One of `EXTRACTORS`, or with a `network` the name to report for it.
            network: Stands in for a named extractor; it is then never reported under a built-in name, but as `custom`.

        Raises:
            UserError: if the name is unknown and no network is given.
        """
        if network is None and name not in EXTRACTORS:
            raise UserError(unknown(name))
        self.name = INJECTED if network is not None and name in EXTRACTORS else name
        self._network = None if network is None else deepcopy(network).eval().requires_grad_(False)

    def on(self, device: torch.device) -> AttributeClassifier:
        """Return the network on `device`."""
        network = extractor(self.name) if self._network is None else self._network
        return network.to(device)
