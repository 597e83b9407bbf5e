"""`fashiongen tiny build` on the card, with its stages' times."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fashiongen.checkpoints import tiny_weights
from fashiongen.tiny import build as builder
from gpu.work import Work


def run(work: Work) -> None:
    """Rebuild the shipped tiny checkpoints on the device, into a temporary folder; each stage is noted as it ends."""
    out = work.folder / "weights"
    report = out.with_name(f".{out.name}.build") / "report.json"
    plan, reuse = None, ()
    if work.rehearse:  # of the stages that are shipped two are trained
        few = dict.fromkeys((name for name in vars(builder.Plan()) if name.endswith("_steps")), 1)
        plan = builder.Plan(items=24, people=12, held_out=50, batch=8, backbone_items=24, **few)
        shipped = json.loads((tiny_weights() / "BUILD.json").read_text())["stages"]
        reuse = tuple(name for name in shipped if name not in ("classifier", "siglip"))  # on which no other stage is built
        builder.DRAWN, builder.PROMPTED = 2, 2
    with _watched(work, report):
        builder.build(out, plan=plan, device=work.device, reuse=reuse)
    stages = json.loads((out / "BUILD.json").read_text())["stages"]
    _note(work, stages)


def _note(work: Work, stages: dict[str, Any]) -> None:
    rows = [{"stage": name, "took, s": facts.get("seconds"), "quality": _quality(facts)} for name, facts in stages.items()]
    work.note(stages=stages, rows=rows)


def _quality(facts: dict[str, Any]) -> str:
    left_out = ("seconds", "device", "precision", "versions", "steps", "parameters")
    return ", ".join(f"{key} {value:.4g}" for key, value in facts.items() if key not in left_out and isinstance(value, float))


@contextlib.contextmanager
def _watched(work: Work, report: Path, every: float = 5.0) -> Iterator[None]:
    """Note the finished stages of a build while it runs."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            with contextlib.suppress(OSError, ValueError):
                _note(work, json.loads(report.read_text()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
