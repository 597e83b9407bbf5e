"""Checks that run what exists already: the tests marked `gpu`, and the scripts of `benchmarks/speed`."""

from __future__ import annotations

import json
import os
from functools import partial
from importlib import import_module
from typing import Any

from gpu.work import ROOT, CheckFailed, Work

REHEARSAL = "FASHIONGEN_GPU_REHEARSAL"
"""With this variable the tests marked `gpu` run on a CPU, see tests/conftest.py."""

SETTINGS = """[pytest]
pythonpath = {tests}
addopts = --import-mode=importlib
markers =
    gpu: needs a CUDA GPU
    slow: takes minutes
"""

# The same small networks as in a rehearsal of steps, with the settings of the full ones.
SMALL = ["--size", "small", "--bf16", "--batch", "1", "--steps", "2", "--repeats", "1"]
# A speed script's arguments at full size, and in a rehearsal; `SCRIPT METHOD` is the script with --methods METHOD.
SPEED: dict[str, tuple[list[str], list[str]]] = {
    "igr": (
        ["--device", "cuda", "--size", "full", "--bf16", "--repeats", "2"],
        ["--image", "32x24", "--batch", "1", "--steps", "2", "--repeats", "1"],
    ),
    "retrieval": (
        ["--device", "cuda", "--size", "full", "--people", "1500", "--mgcm-rows", "150", "--rows", "3", "--score-rows", "100", "--items"],
        ["--people", "240", "--mgcm-rows", "2", "--rows", "1", "--score-rows", "2", "--items"],
    ),
    "tryon": (["--device", "cuda", "--size", "full", "--bf16", "--repeats", "2"], SMALL),
    # Both directions train together: a person is two samples, each of two images side by side.
    "tryon twgtm": (
        ["--device", "cuda", "--size", "full", "--bf16", "--repeats", "2", "--batch", "1", "--noises", "2"],
        [*SMALL, "--noises", "2"],
    ),
}
BY_ROW = ("igr", "tryon")
"""Scripts that tell what they found after each row, and can keep their random weights."""


class Outcomes:
    """A plugin of pytest that collects how each test ended."""

    def __init__(self) -> None:
        """Start empty."""
        self.ended: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:  # noqa: ANN401  pytest's own
        """Take one phase of a test."""
        if report.when == "call" or report.outcome != "passed":
            self.ended[report.nodeid] = report.outcome
        if report.outcome == "failed":
            self.why[report.nodeid] = str(report.longrepr)[-1500:]


def tests(work: Work, files: list[str]) -> None:
    """Run the tests marked `gpu`."""
    import pytest

    if work.rehearse:
        os.environ[REHEARSAL] = "1"
    outcomes = Outcomes()
    settings = work.folder / "pytest.ini"  # the repository's own wants a newer pytest than a bare machine may have
    settings.write_text(SETTINGS.format(tests=ROOT / "tests"))
    options = ["-q", "-m", "gpu", "-c", str(settings), "--rootdir", str(ROOT), "--confcutdir", str(ROOT), "-p", "no:cacheprovider"]
    folder = f"--basetemp={work.folder / 'tests'}"
    status = pytest.main([*options, folder, *(str(ROOT / file) for file in files)], plugins=[outcomes])
    count = {outcome: list(outcomes.ended.values()).count(outcome) for outcome in ("passed", "failed", "skipped")}
    work.note(ended=outcomes.ended, failures=outcomes.why)
    work.row(**count)
    if status != 0 or not count["passed"]:
        raise CheckFailed(f"pytest ended with status {int(status)}: {', '.join(outcomes.why) or count}")


def speed(work: Work, script: str, method: str | None = None) -> None:
    """Run a script of `benchmarks/speed`, which asserts that both ways give the same result.

    Args:
        work: what to run.
        script: its name.
        method: for a script that takes --methods, the one to measure.
    """
    out = work.folder / "speed.json"
    full, rehearsed = SPEED.get(f"{script} {method}", SPEED[script])
    options = [str(out), *(rehearsed if work.rehearse else full)]
    options += ["--methods", method] if method is not None else []
    main = import_module(script).main
    if script in BY_ROW:  # noted at once: the check may be stopped before its last row
        main([*options, "--weights", str(work.scratch / "weights")], partial(_take, work, script))
        return
    try:
        main(options)
    finally:  # what was measured before a row failed
        if out.is_file():
            _take(work, script, json.loads(out.read_text()))


def _take(work: Work, script: str, content: dict[str, Any]) -> None:
    """Note the conditions and rows of a script's file."""
    rows = []
    for name, row in (content.get("rows", {}) | content.get("evaluation", {})).items():
        ours, plain = (row.get(keys[0], row.get(keys[1])) for keys in (("short", "ours, s"), ("long", "loop, s")))
        if plain is not None:
            cells = {"ours, s": ours, "plain, s": plain, "plain / ours": plain / ours, "difference": row["difference"]}
            peaks = {"peak, GB": row.get("short peak"), "plain peak, GB": row.get("long peak")}
            rows.append({"script": script, "row": name, **cells, **{key: peak for key, peak in peaks.items() if peak is not None}})
    work.note(conditions=content["conditions"], rows=rows)
