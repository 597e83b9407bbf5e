"""Checks that run what exists already: the tests marked `gpu`, and the scripts of `benchmarks/speed`."""

from __future__ import annotations

import json
import os
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

# A speed script's arguments at full size, and in a rehearsal.
SPEED: dict[str, tuple[list[str], list[str]]] = {
    "igr": (
        ["--device", "cuda", "--size", "full", "--bf16", "--repeats", "2"],
        ["--image", "32x24", "--batch", "1", "--steps", "2", "--repeats", "1"],
    ),
    "retrieval": (
        ["--device", "cuda", "--size", "full", "--people", "1500", "--mgcm-rows", "150", "--rows", "3", "--score-rows", "100", "--items"],
        ["--people", "240", "--mgcm-rows", "2", "--rows", "1", "--score-rows", "2", "--items"],
    ),
}


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


def _weights(work: Work, script: str) -> list[str]:
    """Return the option for random weights that other checks may have written already."""
    return ["--weights", str(work.scratch / "weights")] if script == "igr" else []


def speed(work: Work, script: str) -> None:
    """Run a script of `benchmarks/speed`, which asserts that both ways give the same result."""
    out = work.folder / "speed.json"
    try:
        import_module(script).main([str(out), *SPEED[script][work.rehearse], *_weights(work, script)])
    finally:  # what was measured before a row failed
        if out.is_file():
            content = json.loads(out.read_text())
            work.note(conditions=content["conditions"])
            for name, row in (content.get("rows", {}) | content.get("evaluation", {})).items():
                ours, plain = (row.get(keys[0], row.get(keys[1])) for keys in (("short", "ours, s"), ("long", "loop, s")))
                if plain is not None:
                    cells = {"ours, s": ours, "plain, s": plain, "plain / ours": plain / ours, "difference": row["difference"]}
                    work.row(script=script, row=name, **cells)
