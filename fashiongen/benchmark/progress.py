"""The progress of a benchmark: the state of each node, counts, and a live table."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from fashiongen.benchmark.node import Job
from fashiongen.benchmark.plan import Node
from fashiongen.records import Record

FAILED_STATUSES = ("failed", "killed", "timeout")
COLOURS = {"ok": "green", "failed": "red", "killed": "red", "timeout": "red", "skipped": "yellow", "running": "cyan", "done": "green"}
ORDER = ("waiting", "running", "done", "ok", *FAILED_STATUSES, "skipped")
SHOWN = 12


@dataclass
class State:
    """The state of a node: waiting, running, done (in an earlier run), or the status of its record."""

    node: Node
    job: Job
    record: Record | None = None
    status: str = "waiting"
    began: float = 0.0


def counts(states: Collection[State]) -> str:
    """Return the number of nodes with each status, as text."""
    found = {status: count for status in ORDER if (count := sum(state.status == status for state in states))}
    return ", ".join(f"{count} {status}" for status, count in found.items()) or "no node"


@contextmanager
def live_table(console: Console, suite: str, states: Collection[State]) -> Iterator[Callable[[], None]]:
    """Show a live table if the console is a terminal; yield a function that refreshes it."""
    if not console.is_terminal:
        yield lambda: None
        return
    with Live(_table(suite, states), console=console, auto_refresh=False) as live:
        yield lambda: live.update(_table(suite, states), refresh=True)
        live.update(_table(suite, states), refresh=True)


def _table(suite: str, states: Collection[State]) -> Table:
    """Return a table of the running nodes and those that ended last."""
    table = Table(title=f"{suite}: {counts(states)}", expand=True)
    table.add_column("status")
    table.add_column("node", overflow="fold", ratio=2)
    table.add_column("seconds", justify="right")
    table.add_column("reason", overflow="ellipsis", no_wrap=True, ratio=1)
    ended = sorted((state for state in states if state.record and state.began), key=lambda state: state.began)
    for state in [*ended[-SHOWN:], *(state for state in states if state.status == "running")]:
        record = state.record
        seconds = record.seconds if record and record.seconds else time.monotonic() - state.began
        reason = escape(record.reason or "") if record and record.status != "ok" else ""
        table.add_row(f"[{COLOURS.get(state.status, 'white')}]{state.status}", escape(state.node.id), f"{seconds:.0f}", reason)
    return table
