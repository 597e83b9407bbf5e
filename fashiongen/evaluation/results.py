"""What a test measured, reduced over all processes: values, intervals, and the same for groups of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from fashiongen.evaluation.clusters import join
from fashiongen.intervals import interval_of_one_run
from fashiongen.metrics.base import PerSample, SetMetric
from fashiongen.nn.processes import gather
from fashiongen.records import GroupEntry, MetricEntry

OfSamples = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""A metric's value for each sample, and which of them are defined, both (N,)."""


@dataclass(kw_only=True)
class Counted:
    """What one process counts in a test, batch by batch.

    Attributes:
        ids: the samples' ids.
        shared: the keys of what each sample shares with others.
        groups: the group of each sample; empty without groups.
        references: the group of each reference image; None if the targets are the samples' own.
        not_finite: number of predictions that are not finite.
        seconds: time of the predictions.
        memory: peak memory in bytes.
    """

    ids: list[str] = field(default_factory=list)
    shared: list[tuple[str, ...]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    references: list[str] | None = None
    not_finite: int = 0
    seconds: float = 0.0
    memory: int = 0


@dataclass(kw_only=True)
class Results:
    """The results of a test, over all processes; samples are sorted by id.

    Attributes:
        ids: the samples' ids.
        clusters: the cluster of each sample.
        groups: the group of each sample; empty without groups, or if there is one alone.
        per_sample: the values of the metrics that have one per sample, each (N,).
        metrics: the metrics by reported name.
        of_groups: the same for each group.
        not_finite: number of predictions that are not finite.
        seconds: time of all predictions, summed over the processes.
        memory: highest peak memory of a process, in bytes.
    """

    ids: list[str]
    clusters: list[str]
    groups: list[str]
    per_sample: dict[str, NDArray[np.float64]]
    metrics: dict[str, MetricEntry]
    of_groups: dict[str, GroupEntry]
    not_finite: int
    seconds: float
    memory: int


def reduce(metrics: Mapping[str, Metric], mine: Counted) -> Results:
    """Reduce the metrics of all processes; each of them must call this.

    Args:
        metrics: by reported name.
        mine: what this process has counted.
    """
    of_samples = {name: metric for name, metric in metrics.items() if isinstance(metric, PerSample)}
    values = {name: (metric.values().double().tolist(), metric.defined_samples().tolist()) for name, metric in of_samples.items()}
    parts: list[tuple[Counted, dict[str, tuple[list[float], list[bool]]]]] = gather((mine, values))
    counted = [part for part, _ in parts]
    ids = [id_ for part in counted for id_ in part.ids]
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    clusters = np.array(join([keys for part in counted for keys in part.shared]), dtype=object)[order]
    labels = [label for part in counted for label in part.groups]
    if len(set(labels)) < 2:  # its numbers are those of all samples
        labels = []
    groups = np.array(labels, dtype=object)[order] if labels else None
    references = None if mine.references is None else [label for part in counted for label in part.references or ()]
    samples: dict[str, OfSamples] = {
        name: (
            np.concatenate([np.array(found[name][0], dtype=np.float64) for _, found in parts])[order],
            np.concatenate([np.array(found[name][1], dtype=bool) for _, found in parts])[order],
        )
        for name in of_samples
    }
    results = {name: _entry(metric, float(metric.compute()), samples.get(name), clusters) for name, metric in metrics.items()}
    return Results(
        ids=[ids[index] for index in order],
        clusters=clusters.tolist(),
        groups=[] if groups is None else groups.tolist(),
        per_sample={name: found for name, (found, _) in samples.items()},
        metrics=results,
        of_groups={} if groups is None else _of_groups(metrics, groups, clusters, samples, labels, references),
        not_finite=sum(part.not_finite for part in counted),
        seconds=sum(part.seconds for part in counted),
        memory=max(part.memory for part in counted),
    )


def _entry(metric: Metric, value: float, found: OfSamples | None, clusters: NDArray[Any]) -> MetricEntry:
    """Return a metric's entry; its interval is over the samples with a defined value, if it has values per sample."""
    interval = None
    if found is not None:
        values, defined = found
        interval = interval_of_one_run(values[defined], clusters[defined].tolist())
    return {"value": value, "higher_is_better": metric.higher_is_better, "ci95": interval}


def _of_groups(
    metrics: Mapping[str, Metric],
    groups: NDArray[Any],
    clusters: NDArray[Any],
    samples: Mapping[str, OfSamples],
    labels: Sequence[str],
    references: Sequence[str] | None,
) -> dict[str, GroupEntry]:
    """Return the results of each group; a metric that is neither over samples nor over sets has none.

    Args:
        metrics: by reported name.
        groups: the group of each sample, sorted by id, as all values per sample are.
        clusters: the cluster of each sample, likewise.
        samples: the values per sample and which are defined, by the metric's name.
        labels: the group of each prediction in the order of the set metrics, that of the processes.
        references: the group of each target in that order; None for that of its prediction.
    """
    found: dict[str, GroupEntry] = {name: {"n_samples": int((groups == name).sum()), "metrics": {}} for name in sorted(set(labels))}
    for name, metric in metrics.items():
        if name in samples:
            values, defined = samples[name]
            for group, entry in found.items():
                inside = groups == group
                counted = values[inside & defined]
                # As the metric itself: in double precision, then float32.
                mean = float(np.float32(counted.mean())) if len(counted) else float("nan")
                entry["metrics"][name] = _entry(metric, mean, (values[inside], defined[inside]), clusters[inside])
        elif isinstance(metric, SetMetric):
            with metric.sync_context():
                for group, entry in found.items():
                    predictions, targets = _places(labels, group), _places(labels if references is None else references, group)
                    entry["metrics"][name] = _entry(metric, float(metric.between(predictions, targets)), None, clusters)
    return found


def _places(labels: Sequence[str], group: str) -> Tensor:
    return torch.tensor([label == group for label in labels], dtype=torch.bool)
