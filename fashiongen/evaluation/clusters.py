"""Clusters of samples that are not independent of each other."""

from collections import Counter
from collections.abc import Sequence

LARGE, FEW = 0.25, 20
"""Share of the samples in one cluster above which intervals are far too wide; fewer samples say little anyway."""


def chained(clusters: Sequence[str]) -> str | None:
    """Return a warning if a single cluster, a chain of samples that share something, holds much of a test: its intervals say little."""
    name, most = Counter(clusters).most_common(1)[0] if clusters else ("", 0)
    if most <= LARGE * len(clusters) or len(clusters) < FEW:
        return None
    return f"{most} of {len(clusters)} samples are one cluster, chained over what they share ({name}): intervals are much too wide"


def join(shared: Sequence[Sequence[str]]) -> list[str]:
    """Return the cluster of each sample, named after its smallest key: samples with a key in common are in one, directly or over others.

    >>> join([("top:1", "bottom:1"), ("top:2", "bottom:1"), ("top:3", "bottom:3")])
    ['bottom:1', 'bottom:1', 'bottom:3']

    Args:
        shared: for each sample the keys of what it shares with others, at least one.
    """
    smaller: dict[str, str] = {}

    def smallest(key: str) -> str:
        while (next_ := smaller.setdefault(key, key)) != key:
            smaller[key] = smaller[next_]
            key = next_
        return key

    for keys in shared:
        first = min(smallest(key) for key in keys)
        for key in keys:
            smaller[smallest(key)] = first
    return [smallest(keys[0]) for keys in shared]
