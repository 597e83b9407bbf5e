"""Clusters of samples that share something."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from fashiongen.evaluation.clusters import chained, join


def test_samples_that_share_a_key_are_one_cluster_directly_or_over_others():
    """Against scipy's connected components, in any order."""
    generator = np.random.default_rng(0)
    keys = [(f"top:{top}", f"bottom:{bottom}") for top, bottom in generator.integers(0, 60, (80, 2))]
    names = {name: index for index, name in enumerate(dict.fromkeys(name for pair in keys for name in pair))}
    edges = np.array([[names[one], names[other]] for one, other in keys]).T
    _, component = connected_components(csr_array((np.ones(80), edges), shape=(len(names), len(names))), directed=False)
    expected = [component[names[one]] for one, _ in keys]
    found = join(keys)
    assert 5 < len(set(found)) == len(set(expected)) == len(set(zip(found, expected, strict=True)))
    order = generator.permutation(80)
    assert join([keys[index] for index in order]) == [found[index] for index in order]
    assert join([]) == [] and join([("b", "a")]) == ["a"]


def test_a_chain_over_much_of_a_test_is_told():
    """Each of ten rows shares its bottom with the next one's top: no two rows share both."""
    chain = join([(f"item:{index}", f"item:{index + 1}") for index in range(10)] + [(f"own:{index}",) for index in range(20)])
    assert chained(chain) == "10 of 30 samples are one cluster, chained over what they share (item:0): intervals are much too wide"
    assert chained(chain[7:]) is None and chained(chain[:10]) is None and chained([]) is None
