"""benchmarks/README.md names everything that exists, and the studies that it names start."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GUIDE = (BENCHMARKS / "README.md").read_text(encoding="utf-8")


def test_the_guide_names_every_suite_result_and_study():
    suites = {path.stem for path in (BENCHMARKS / "suites").glob("*.yaml")}
    results = {path.parent.name for path in (BENCHMARKS / "results").glob("*/README.md")}
    studies = {path.name for path in (BENCHMARKS / "studies").glob("*_*.py")}
    assert suites and results and studies
    assert [name for name in sorted(suites) if f"`{name}`" not in GUIDE] == []
    assert [name for name in sorted(results) if f"(results/{name}/README.md)" not in GUIDE] == []
    assert [name for name in sorted(studies) if f"python benchmarks/studies/{name} " not in GUIDE] == []


def test_what_the_guides_link_to_is_there():
    for guide in BENCHMARKS.rglob("README.md"):
        for place in re.findall(r"\]\(([^)#:]+)\)", guide.read_text(encoding="utf-8")):
            assert (guide.parent / place).exists(), f"{guide}: {place}"


@pytest.mark.parametrize("study", ["retrieval_tiny", "vtoff_tiny"])
def test_a_study_finds_its_recipes(study):
    code = f"import {study}, study\nassert study.TINY.is_dir() and study.OVERLAYS.is_dir()\n{study}.main()"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=BENCHMARKS / "studies", capture_output=True, text=True, check=True)
    assert f"python benchmarks/studies/{study}.py OUT" in done.stdout
