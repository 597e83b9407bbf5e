"""Runs the nodes of a plan, parents before children. A node that is finished with the same key does not run again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fashiongen.benchmark.node import Job, finished, intact, pasteable, without_running
from fashiongen.benchmark.plan import Describe, Node, Plan, make_plan
from fashiongen.benchmark.program import command_line, describer, python_path
from fashiongen.benchmark.progress import FAILED_STATUSES, State, counts, live_table
from fashiongen.errors import UserError
from fashiongen.records import Record, Status, write_atomically
from fashiongen.weights_read import unpinned


class Executor(Protocol):
    """Where nodes run.

    Attributes:
        jobs: number of nodes that run at the same time.
        cpus: number of cores per node.
        available: maximum number of GPUs per node; None if unknown.
    """

    jobs: int
    cpus: int
    available: int | None

    def run(self, job: Job) -> Record:
        """Run a node and return its record."""

    def stop(self) -> None:
        """Stop all running nodes."""


MakeExecutor = Callable[[int], Executor]
"""Creates an executor, given this machine's number of GPUs."""


class Runner:
    """Runs a plan into a folder."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        executor: Executor,
        *,
        command: list[str] | None = None,
        accept_stale: bool = False,
        console: Console | None = None,
    ) -> None:
        """Prepare to run or list the nodes.

        Args:
            plan: the nodes.
            out: folder of the results.
            executor: runs the nodes.
            command: the program; fashiongen itself by default.
            accept_stale: keep results of another version of the package or of the libraries.
            console: where progress is printed.
        """
        self.plan, self.out, self.executor = plan, out.resolve(), executor
        self.command = command or command_line()
        self.accept_stale = accept_stale
        self.console = console or Console()
        self.states: dict[str, State] = {}

    def _find_done(self) -> None:
        """Find out which nodes are done; a child that must run needs its parents' checkpoints unchanged since they were recorded."""
        lost: set[str] = set()
        whole: set[str] = set()
        while True:
            for node in self.plan.nodes:
                job = self._job(node)
                record = finished(job, accept_stale=self.accept_stale) if node.id not in lost else None
                self.states[node.id] = State(node, job, record, "done" if record else "waiting")
            to_do = [state for state in self.states.values() if state.status == "waiting" and state.node.skipped is None]
            parents = [self.states[name] for state in to_do for name in state.node.parents.values()]
            needed = {parent.node.id: parent for parent in parents if parent.record is not None and parent.node.id not in whole}
            broken = {name for name, parent in needed.items() if parent.record is not None and not intact(parent.job, parent.record)}
            if not broken:
                return
            lost |= broken
            whole |= needed.keys() - broken

    def _job(self, node: Node) -> Job:
        """Return the job of a node. Its key includes the keys of its parents, also of stale ones that were accepted."""
        parents = {role: self.states[parent] for role, parent in node.parents.items()}
        keys = {role: (parent.record and parent.record.key) or parent.job.key for role, parent in parents.items()}
        arguments = [*node.arguments, "--evaluate.out", "record.json"]
        if node.kept is not None:
            arguments += ["--evaluate.keep", node.kept]
        elif node.kind == "test" and sum(_tested(node) == _tested(other) for other in self.plan.nodes if other.kept is None) > 1:
            arguments += ["--evaluate.reuse", str(self.out / "predictions")]
        for role, parent in parents.items():
            path = str(parent.job.folder / node.loads[role])
            if node.kind == "fit":
                arguments += [f"--parents.{role}", path]
            elif role == "garments":
                arguments += ["--data.init_args.garments", path]
            else:
                arguments += ["--ckpt_path", path, *(["--trust"] if node.trust else [])]
        asked = os.environ.get("OMP_NUM_THREADS", "")
        environment = {"OMP_NUM_THREADS": str(min(self.executor.cpus, int(asked)) if asked.isdigit() else self.executor.cpus)}
        if place := python_path():
            environment["PYTHONPATH"] = place
        return Job(
            id=node.id,
            out=str(self.out),
            command=[*self.command, *arguments],
            environment=environment,
            limit=node.limit,
            key=_hash([node.content, node.code, node.libraries, node.sources, keys, node.loads]),
            settings_key=_hash([node.content, {role: parent.job.settings_key for role, parent in parents.items()}, node.loads]),
            parents=keys,
            versions=node.libraries | node.sources,
            resumable=node.checkpoint,
            files={role: file for role, file in (("last", node.checkpoint), ("best", node.best)) if file is not None},
            kept=node.kept,
            trust=node.trust,
            known={"node": node.id, "kind": node.kind, "method": node.method, "overlays": node.overlays, "seed": node.seed},
            assumed={
                "task": node.task,
                "protocol": node.protocol,
                "dataset": node.dataset,
                "split": "train" if node.kind == "fit" else "test",
            },
            cpus=self.executor.cpus,
            gpus=node.gpus,
        )

    def list(self) -> None:
        """Print every node with its needs, its command, and why it cannot run."""
        self._find_done()
        for state in self.states.values():
            node = state.node
            left = f"skipped: {node.skipped}" if node.skipped else "done" if state.status == "done" else "to do"
            needs = f"needs {', '.join(node.needs)}" if node.needs else "needs nothing"
            limit = "no limit" if node.limit is None else f"limit {node.limit:g} s"
            gpus = f", {node.gpus} GPU" if node.gpus else ""
            after = f", after {', '.join(node.parents.values())}" if node.parents else ""
            self._say(f"{node.id}\n    {left}; {needs}; {limit}{gpus}{after}\n    {pasteable(state.job, state.job.command)}")
        self._say(f"{self.plan.suite}: {counts(self.states.values())}")

    def run(self) -> int:
        """Run the nodes that are not done and return the exit status: 1 if a node failed, was killed or timed out.

        Raises:
            UserError: if another runner is using the folder.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        with _alone(self.out):
            self._find_done()
            self._write_plan()
            with live_table(self.console, self.plan.suite, self.states.values()) as refresh, ThreadPoolExecutor(self.executor.jobs) as pool:
                try:
                    self._run(pool, refresh)
                except BaseException:
                    self.executor.stop()
                    raise
        return self._sum_up()

    def _run(self, pool: ThreadPoolExecutor, refresh: Callable[[], None]) -> None:
        running: dict[Future[Record], State] = {}
        while True:
            for state in self.states.values():
                # A test that shares its predictions would wait for the running one while its own time limit runs.
                alone = all(_tested(state.node) != _tested(other.node) for other in running.values())
                if state.status == "waiting" and len(running) < self.executor.jobs and alone and self._ready(state):
                    state.status, state.began = "running", time.monotonic()
                    running[pool.submit(self.executor.run, state.job)] = state
            if not running:
                return
            done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                state = running.pop(future)
                try:
                    record = future.result()
                except (OSError, UserError) as error:
                    record = self._not_run(state.job, "failed", " ".join(str(error).split()))
                self._finish(state, record)
            refresh()

    def _ready(self, state: State) -> bool:
        """Return whether a node can start now; if it never can, record it as skipped."""
        if state.node.skipped is not None:
            self._finish(state, self._not_run(state.job, "skipped", state.node.skipped, keep=True))
            return False
        parents = {role: self.states[name] for role, name in state.node.parents.items()}
        for role, parent in parents.items():
            if parent.record is not None and parent.record.status != "ok":
                reason = f"its parent {parent.node.id} is {parent.record.status}: {parent.record.reason}"
                self._finish(state, self._not_run(state.job, "skipped", reason))
                return False
            earlier = parent.record if parent.status == "done" else None
            if earlier is not None and (earlier.key != state.job.parents[role] or not intact(parent.job, earlier)):
                why = f"its parent {parent.node.id} cannot run here ({parent.node.skipped or 'its own parent cannot either'})"
                reason = f"{why}, and its earlier result has other settings or is incomplete"
                self._finish(state, self._not_run(state.job, "skipped", reason, keep=True))
                return False
        return all(parent.record is not None for parent in parents.values())

    @staticmethod
    def _not_run(job: Job, status: Status, reason: str, *, keep: bool = False) -> Record:
        """Return the record of a node that did not run, and write it if possible."""
        try:
            return without_running(job, status, reason, keep=keep)
        except (OSError, UserError) as error:
            message = f"{reason}; no record could be written: {' '.join(str(error).split())}"
            return Record(**job.known, **job.assumed, status="failed", reason=message, key=job.key)

    def _finish(self, state: State, record: Record) -> None:
        earlier = record.status == "ok" and state.status != "running"
        state.record, state.status = record, "done" if earlier else record.status
        if not self.console.is_terminal:
            done = sum(state.record is not None for state in self.states.values())
            seconds = "" if record.seconds is None else f"  {record.seconds:.1f} s"
            reason = f"  {record.reason}" if record.status != "ok" else ""
            self._say(f"[{done}/{len(self.states)}] {state.status:<8} {state.node.id}{seconds}{reason}")

    def _write_plan(self) -> None:
        nodes = [
            {**asdict(state.node), "key": state.job.key, "command": pasteable(state.job, state.job.command)}
            for state in self.states.values()
        ]
        content = {"suite": self.plan.suite, "file": self.plan.file, "sha256": self.plan.sha256, "nodes": nodes}
        write_atomically(self.out / "suite.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _sum_up(self) -> int:
        """Print the summary."""
        self._say(f"{self.plan.suite}: {counts(self.states.values())}; records in {self.out / 'nodes'}")
        for state in self.states.values():
            if state.status in (*FAILED_STATUSES, "skipped") and state.record is not None:
                log = f"\n    log: {state.job.folder / 'log.txt'}" if state.status in FAILED_STATUSES else ""
                self._say(f"{state.status}: {state.node.id}: {state.record.reason}{log}")
        read = [entry for state in self.states.values() if state.record is not None for entry in state.record.weights]
        for line in unpinned((entry["source"], entry["revision"]) for entry in read if entry["pinned"] is False):
            self._say(line)
        return int(any(state.status in FAILED_STATUSES for state in self.states.values()))

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def run_suite(
    file: Path,
    out: Path,
    make_executor: MakeExecutor,
    *,
    dry_run: bool = False,
    accept_stale: bool = False,
    command: list[str] | None = None,
    describe: Describe | None = None,
    console: Console | None = None,
) -> int:
    """Plan a suite, run it or list its nodes, and return the exit status.

    Args:
        file: the suite.
        out: folder of the results.
        make_executor: creates the executor, given this machine's number of GPUs.
        dry_run: list the nodes and run none.
        accept_stale: keep results of another version of the package or of the libraries.
        command: the program; fashiongen itself by default.
        describe: inspects commands; by default in a process of fashiongen.
        console: where progress is printed.

    Raises:
        UserError: if the suite or a recipe is wrong, or another runner is using the folder.
    """
    made: list[Executor] = []

    def available(gpus: int) -> int | None:
        if not made:
            made.append(make_executor(gpus))
        return made[0].available

    with _terminable():
        try:
            plan = make_plan(file, describe or describer(render=not dry_run), available=available)
            runner = Runner(plan, out, made[0], command=command, accept_stale=accept_stale, console=console)
            if dry_run:
                runner.list()
                return 0
            return runner.run()
        finally:
            for executor in made:
                executor.stop()


def _tested(node: Node) -> list[object]:
    """Return what tests of a node that differ in their protocols alone have in common."""
    return [node.kind, node.method, node.overlays, node.seed, node.dataset, node.parents]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Lock the folder: one runner at a time."""
    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another `bench run` is using this folder: wait for it, or choose another --out") from error
        yield


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM end this process as Ctrl-C does, after its children."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
