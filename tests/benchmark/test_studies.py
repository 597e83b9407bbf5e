"""The tables that the studies share."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from fashiongen.intervals import interval

FILE = Path(__file__).parents[2] / "benchmarks" / "studies" / "study.py"


@pytest.fixture
def study():
    spec = importlib.util.spec_from_file_location("study_of_studies", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder, name, values, *, clusters=True):
    lines = [
        {"id": f"{index:02d}", **({"cluster": f"t{index // 4}"} if clusters else {}), "auc": value} for index, value in enumerate(values)
    ]
    (folder / f"{name}.per_sample.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / f"{name}.json").write_text(json.dumps({"metrics": {"auc": {"value": float(np.mean(values))}}}))


def test_differences_are_over_seeds_and_clusters_and_their_p_values_adjusted(study, tmp_path):
    generator = np.random.default_rng(0)
    cluster = np.repeat(generator.normal(0, 0.2, 10), 4)
    first = [0.6 + shift + cluster + generator.normal(0, 0.1, 40) for shift in (0.1, -0.1, 0.02)]
    others = {"far": [first[0] - 0.6], "near": [one - 0.01 for one in first], "chance": [0.55 + generator.normal(0, 0.1, 40)]}
    runs = {"a": ["a0", "a1", "a2"], **{name: [f"{name}{index}" for index in range(len(of))] for name, of in others.items()}}
    for name, values in zip(
        [name for names in runs.values() for name in names], [*first, *(one for of in others.values() for one in of)], strict=True
    ):
        write(tmp_path, name, values, clusters=name != "chance0")
    text = study.tables(tmp_path, runs, ["auc"], "a", ["auc"])
    found = interval(np.array(first), [index // 4 for index in range(40)], np.array(others["far"]))
    assert f"| far (one run) | {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f}) |" in text
    (near,) = [line for line in text.splitlines() if line.startswith("| near |")][-1:]
    assert near.endswith(") ≈ |") and near.startswith("| near | +0.0100 (")
    assert "3 comparisons a column" in text and "| chance (one run) |" in text
    # Each sample's difference is exactly 0.01: over samples alone it would be certain, over seeds it is not.
    assert float(near.split("(")[1].split(" to ")[0]) < 0


def test_runs_of_other_samples_are_refused(study, tmp_path):
    write(tmp_path, "a", [0.1, 0.2])
    write(tmp_path, "b", [0.1, 0.2, 0.3])
    with pytest.raises(SystemExit, match="a, b: not the same samples"):
        study.per_sample(tmp_path, ["a", "b"], "auc")
    with pytest.raises(SystemExit, match="not the same samples"):
        study.differences(tmp_path, ["a"], [["b"]], "auc")
