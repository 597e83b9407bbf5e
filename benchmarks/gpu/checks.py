"""The list of checks, in order of worth. It imports nothing heavy, so that `--list` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.closure import RECIPES, ROOT, closure, files_of

SPEED = ROOT / "benchmarks" / "speed"
FIRST = ("igr", "geco", "geco-cigm", "bpr_dae", "mgcm")
"""Full recipes whose steps are measured before those of others."""

STEP_LIMITS = {"igr": 240, "igr-hqft": 240}
"""Seconds of those that may have to try a smaller batch, or start from a parent."""

TRY_ON = {"twgtm": 240.0, "catvton": 150.0, "tryoffdiff": 120.0, "tryoffanyone": 150.0}
"""Seconds of the methods of `speed/tryon.py`; the last one has CatVTON's network."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: as in `--only`.
        kind: heading of its table in the summary.
        function: `module:function`, called with a `Work` and the arguments.
        limit: seconds after which it is stopped; None: what is left.
        sources: the files whose import closure decides whether its record is still valid.
        arguments: of the function.
        alone: it measures time, so nothing else may run on the card.
    """

    name: str
    kind: str
    function: str
    limit: float | None
    sources: tuple[Path, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    alone: bool = True

    def closure(self) -> str:
        """Return the hash of everything in this repository that the check uses."""
        return closure([*files_of(self.function.partition(":")[0]), *self.sources])


def all_checks() -> list[Check]:
    """Return the checks in the order in which they run; recipes and tests are found, not listed."""
    steps = {path.stem: _steps(path) for path in sorted(RECIPES.glob("*.yaml")) if _learns(path)}
    early = [steps.pop(name) for name in FIRST if name in steps]
    full = RECIPES / "igr.yaml"
    # Other tests may import what a bare machine lacks: they are not even collected.
    tests = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    set_up = {path for test in tests for folder in test.parents if (path := folder / "conftest.py").is_file()}
    files = [path.relative_to(ROOT).as_posix() for path in tests]
    zero = [
        Check(way, "ZeRO on one GPU", "gpu.zero:run", limit, (full, RECIPES / "overlays" / f"{way}.yaml"), {"way": way})
        for way, limit in (("zero2", 150.0), ("zero2-offload", 240.0))
    ]
    every_tiny = sorted((RECIPES / "tiny").glob("*.yaml"))
    tiny = [path for path in every_tiny if _learns(path)]
    return [
        Check("card", "The card", "gpu.cards:measure", 40, ()),
        Check("tests", "Tests marked `gpu`", "gpu.scripts:tests", 120, (*tests, *sorted(set_up), *every_tiny), {"files": files}),
        *early,
        *zero,
        Check("speed-igr", "Speed", "gpu.scripts:speed", 150, (SPEED / "igr.py",), {"script": "igr"}),
        Check("speed-retrieval", "Speed", "gpu.scripts:speed", 120, (SPEED / "retrieval.py",), {"script": "retrieval"}),
        *steps.values(),
        *(_try_on(method, limit) for method, limit in TRY_ON.items()),
        *(
            Check(f"longer-{path.stem}", "Trained ten times longer", "gpu.longer:run", 420, (path,), {"recipe": f"tiny/{path.stem}"}, False)
            for path in tiny
        ),
        Check("tiny-build", "`fashiongen tiny build`", "gpu.building:run", None, (), {}, False),
    ]


def _steps(path: Path) -> Check:
    sources = (path, RECIPES / "overlays" / "bf16.yaml")
    return Check(
        f"step-{path.stem}", "Training steps at full size", "gpu.steps:run", STEP_LIMITS.get(path.stem, 180), sources, {"recipe": path.stem}
    )


def _try_on(method: str, limit: float) -> Check:
    sources = (SPEED / "tryon.py", RECIPES / f"{method}.yaml")  # the script takes the method's class and settings from its recipe
    return Check(f"speed-{method}", "Speed", "gpu.scripts:speed", limit, sources, {"script": "tryon", "method": method})


def _learns(path: Path) -> bool:
    """Return whether a recipe trains anything: it names an optimizer then."""
    return "optimizer:" in path.read_text(encoding="utf-8")
