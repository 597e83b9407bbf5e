r"""All checks that need a CUDA GPU, in order of worth, made for a few minutes on one bare machine.

    python benchmarks/gpu_check.py [--minutes 9] [--out DIR] [--only NAME ...] [--again] [--archive FILE]
    python benchmarks/gpu_check.py --rehearse        # every check at tiny size on a CPU, about a minute
    python benchmarks/gpu_check.py --list            # what there is, and what is left to run
    python benchmarks/gpu_check.py --summarise       # writes the summary of the records in --out again

Each check runs in its own process with a limit of its own, so that one that hangs or runs out of memory stops no other. Its record, a JSON
file, is written as soon as it is done; what a stopped one had found until then stays in it. A check is left out if --out holds its record
for the same card and the same code: the record's `closure` is a hash of the check and of all files that it imports. So a second run on
another machine continues where the first one's time ended, and once all is done a run takes no time. --out is `benchmarks/results/gpu` by
default; its README.md is made from the records. A run never exceeds --minutes.

Exit status: 0 if no check failed, 1 if one did, 2 if there is no GPU, a library is missing, or an option is wrong.

On a bare machine
-----------------
It needs Linux, Python 3.12, torch 2.11 or later with CUDA, and this checkout; no network, no installed fashiongen. What the machine's
Python lacks comes as wheels, for example diffusers, jsonargparse, docstring-parser, typeshed-client, importlib-metadata, lazy-importer,
rich, resvg-py, lpips, clean-fid, requests, and for the checks of ZeRO deepspeed, hjson, einops, msgpack, py-cpuinfo, ninja, psutil,
pydantic, pydantic-core, annotated-types, typing-inspection: collect them where there is a network,

    python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .wheels NAME ...      # 15 MB
    DS_BUILD_OPS=0 python3 -m pip wheel --no-deps --no-build-isolation -w .wheels deepspeed       # has a pure source; wants torch here

pydantic fits one version of pydantic-core alone: take the pair that `pip download pydantic` resolves. Carry the folder within the checkout
(git ignores it if .git/info/exclude lists `/.wheels/`); the checkout has 14 MB. There:

    python3 -m pip install -q --no-index --no-deps --no-compile --target /tmp/site .wheels/*.whl &&
    PYTHONPATH=/tmp/site:. timeout 560 python3 benchmarks/gpu_check.py --minutes 9 --archive "$OUT/gpu.zip"

`--archive` keeps a zip of all records, whole after each check, for machines that hand back few files and may be taken away at any time.
Unpack it into `benchmarks/results/gpu`, and commit what was measured on a GPU. `timeout` is a net only: the run ends by itself before.
The offloading check compiles DeepSpeed's Adam with the machine's g++ and nvcc.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PLACES = [str(ROOT), str(HERE), str(HERE / "speed")]
sys.path += [place for place in PLACES if place not in sys.path]

from gpu import records, work  # noqa: E402  from the folder next to this file
from gpu.checks import Check, all_checks  # noqa: E402
from gpu.summary import summary  # noqa: E402
from gpu.work import Work  # noqa: E402

RESULTS = HERE / "results" / "gpu"
NEEDED = ("torch", "torchvision", "lightning", "diffusers", "transformers", "torchmetrics", "timm", "peft", "accelerate", "safetensors")
NEEDED += (
    "jsonargparse",
    "docstring_parser",
    "typeshed_client",
    "rich",
    "resvg_py",
    "lpips",
    "cleanfid",
    "requests",
    "scipy",
    "yaml",
    "PIL",
    "pytest",
)
PRELOADED = ["fashiongen.cli.lightning", "fashiongen.cli.build", "fashiongen.methods.igr", "fashiongen.methods.geco", "gpu.training"]
PROBE_LIMIT = 120.0
"""Seconds until the first process must have answered: it waits for the imports."""

TOGETHER = 6
"""Checks that measure no time run at once, at most this many."""

LEAST = 15.0
"""Seconds under which no check is started."""


@dataclass
class Running:
    """A check's process."""

    check: Check
    work: Work
    process: Any
    log: Path
    started: float
    limit: float
    cut: bool  # the run's end comes before the check's own limit


class Run:
    """One run of some checks."""

    def __init__(self, checks: list[Check], options: argparse.Namespace, scratch: Path) -> None:
        """Run `checks` until the time is over; everything temporary goes to `scratch`."""
        self.options, self.scratch, self.out = options, scratch, Path(options.out)
        self.waiting, self.running = checks, list[Running]()
        self.ends = time.monotonic() + 60 * options.minutes
        self.device = "cpu" if options.rehearse else "cuda"
        self.card = "rehearsal" if options.rehearse else ""
        self.ended: dict[str, list[str]] = {}
        self.undead = False
        self.context = multiprocessing.get_context("forkserver")
        self.together = 2 if options.rehearse else TOGETHER
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*PLACES, *filter(None, [os.environ.get("PYTHONPATH")])])}
        # Programs of wheels, such as ninja, lie beside what `pip --target` installed.
        programs = [str(Path(place, "bin")) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
        self.environment["PATH"] = os.pathsep.join([*programs, os.environ.get("PATH", os.defpath)])
        self.environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self.environment |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # asking for a GPU then starts no CUDA in a process that forks
        self.environment["TORCH_EXTENSIONS_DIR"] = str(scratch / "extensions")  # where DeepSpeed compiles
        self.environment.setdefault("FASHIONGEN_CACHE", str(scratch / "cache"))
        # Python's tracker of semaphores would tell of those that stopped checks leave, and then removes them.
        self.environment["PYTHONWARNINGS"] = "ignore:resource_tracker:UserWarning"
        if options.rehearse:
            self.environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        self.context.set_forkserver_preload(PRELOADED)

    def start(self, check: Check, limit: float, cut: bool) -> None:
        """Start a check's process, forked from one that has imported the libraries."""
        folder = self.scratch / check.name
        folder.mkdir()
        common = {
            "kind": check.kind,
            "card": self.card,
            "rehearsal": self.options.rehearse,
            "closure": check.closure(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "limit": check.limit,
        }
        file = records.file_of(self.out if self.card else self.scratch, check.name, self.card or "probe")
        # An older record stays until this check has ended well, or failed.
        what = (check.name, check.function, check.arguments, self.device, self.options.rehearse)
        todo = Work(*what, self.scratch, folder, folder / file.name, common, (records.read(file) or {}).get("facts", {}))
        log = self.scratch / f"{check.name}.log"
        program = [sys.executable, str(HERE / "gpu_check.py"), "--perform"]
        environment = dict(self.environment)
        if not check.alone:  # several run at once
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // self.together)))
        process = self.context.Process(target=work.begin, args=(work.as_json(todo), str(log), environment, program))
        process.start()
        self.running.append(Running(check, todo, process, log, time.monotonic(), limit, cut))

    def end(self, job: Running, stopped: bool) -> None:
        """Take a check's record over, or write that it has none."""
        if stopped:
            kill(job.process.pid)
            job.process.kill()
        job.process.join(10)  # a process that waits for the driver may outlive its end
        self.undead |= job.process.is_alive()
        self.running.remove(job)
        kill(job.process.pid)  # what it may have left running
        place = records.file_of(self.out, job.check.name, self.card)
        record = records.read(job.work.file) or {"check": job.check.name, "facts": {}, **job.work.common}
        if record.get("status") in (None, "running"):
            took = round(time.monotonic() - job.started, 1)
            reason = f"ended by signal {-job.process.exitcode}" if job.process.exitcode else "ended without a word"
            if stopped:
                reason = f"stopped after {took:.0f} s" + (": the run's time is over" if job.cut else ", its limit")
            status = "unfinished" if stopped and job.cut else "failed"
            record |= {"status": status, "reason": reason, "seconds": took}
        if record["status"] == "failed":
            record["log"] = job.log.read_text(errors="replace")[-work.LOG_END :] if job.log.is_file() else ""
        record = records.without_places(record, (self.scratch, ROOT))
        older = records.read(place)
        if record["status"] in ("ok", "failed") or older is None or older["status"] != "ok":
            records.write(place, record)
        self.tell(job.check.name, record["status"], record.get("seconds"), record["reason"])
        self.summarise()

    def tell(self, name: str, status: str, seconds: float | None = None, reason: str | None = None) -> None:
        """Print how a check ended."""
        self.ended.setdefault(status, []).append(name)
        took = "" if seconds is None else f" {seconds:.0f} s"
        print(f"{name:<24} {status}{took}{'' if reason is None else f': {reason}'}", flush=True)

    def summarise(self) -> None:
        """Write the summary, and the archive if one is wanted."""
        write_text(self.out / "README.md", summary(self.out))
        if self.options.archive is not None:
            place = Path(self.options.archive)
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".{place.name}.part")
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in [*sorted(self.out.glob("*.json")), self.out / "README.md"]:
                    archive.write(file, file.name)
            part.replace(place)

    def probe(self) -> str | None:
        """Find the card's name in a process of its own, so that this one never holds any of its memory; return why there is none."""
        self.start(Check("probe", "", "gpu.cards:probe", PROBE_LIMIT, ()), PROBE_LIMIT, False)
        job = self.running.pop()
        job.process.join(PROBE_LIMIT)
        kill(job.process.pid)
        record = records.read(job.work.file)
        if record is not None and record["status"] == "ok":
            self.card = record["facts"]["card"]
            return None
        if record is not None and record["status"] == "skipped":
            return "no CUDA GPU here; --rehearse runs every check at tiny size on a CPU"
        end = job.log.read_text(errors="replace").strip().splitlines()[-1:] if job.log.is_file() else []
        why = [record["reason"]] if record and record.get("reason") else []
        return f"asking for the GPU failed: {'; '.join([*why, *end]) or 'no answer'}"

    def __call__(self) -> int:
        """Run all, and return the exit status."""
        if not self.options.again:
            for check in [check for check in self.waiting if is_done(check, self.out, self.card)]:
                self.waiting.remove(check)
                self.tell(check.name, "left out", reason="its record is here")
        try:
            while self.waiting or self.running:
                while self.waiting and self.may_start(self.waiting[0]):
                    check = self.waiting.pop(0)
                    left = self.ends - time.monotonic()
                    if left < LEAST:
                        self.tell(check.name, "not run", reason="no time is left")
                        continue
                    limit = math.inf if check.limit is None else check.limit * self.options.patience
                    self.start(check, min(limit, left), left < limit)
                for job in list(self.running):
                    if not job.process.is_alive():
                        self.end(job, stopped=False)
                    elif time.monotonic() - job.started > job.limit:
                        self.end(job, stopped=True)
                time.sleep(0.05)
        finally:
            for job in self.running:
                kill(job.process.pid)
        self.summarise()
        print("; ".join(f"{len(names)} {status}" for status, names in self.ended.items()) + f"; see {self.out / 'README.md'}")
        return 1 if "failed" in self.ended else 0

    def may_start(self, check: Check) -> bool:
        """Return whether a check may start beside those that run."""
        if not self.running:
            return True
        if not self.options.rehearse and (check.alone or any(job.check.alone for job in self.running)):
            return False
        return len(self.running) < self.together


def is_done(check: Check, out: Path, card: str) -> bool:
    """Return whether there is a record of a check on a card by the code as it is."""
    record = records.read(records.file_of(out, check.name, card))
    return record is not None and record["status"] == "ok" and record["closure"] == check.closure()


def kill(session: int | None) -> None:
    """End all processes of a session, those with process groups of their own too, as ninja gives them to compilers."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold spaces; state, parent, group and session follow it.
            if int((place / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                os.kill(int(place.name), signal.SIGKILL)


def write_text(path: Path, text: str) -> None:
    """Write to a temporary file and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def complain(message: str) -> int:
    """Print one line, and return the exit status of a mistake."""
    print(f"gpu_check.py: {message}", file=sys.stderr)
    return 2


def show(checks: list[Check], out: Path) -> None:
    """Print the checks with what their records say."""
    for check in checks:
        told = []
        for path in sorted(out.glob(f"{check.name}.*.json")):
            record = records.read(path)
            if record is not None and record["check"] == check.name:
                current = "" if record["closure"] == check.closure() else ", by older code"
                told.append(f"{record['status']} on {record['card']}{current}")
        limit = "what is left" if check.limit is None else f"{check.limit:.0f} s"
        print(f"{check.name:<24} {limit:>12}  {'; '.join(told) or 'not run'}")


def main(args: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="when to end at the latest (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the records (default: benchmarks/results/gpu; a rehearsal's is temporary)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="run these checks alone, in the order of --list")
    parser.add_argument("--again", action="store_true", help="run checks whose records are there, too")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="also keep a zip of all records here, renewed after each check")
    parser.add_argument("--patience", type=float, default=1.0, metavar="N", help="multiply the checks' limits, for a slow or busy machine")
    parser.add_argument("--rehearse", action="store_true", help="every check at tiny size on a CPU; its numbers say nothing")
    parser.add_argument("--list", action="store_true", help="list the checks, their limits and records; run nothing")
    parser.add_argument("--summarise", action="store_true", help="write the summary of the records again; run nothing")
    parser.add_argument("--perform", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.perform:
        work.perform(work.from_json(options.perform.read_text()))
    checks = all_checks()
    if unknown := sorted(set(options.only) - {check.name for check in checks}):
        return complain(f"--only {' '.join(unknown)}: no such check; --list names them")
    checks = [check for check in checks if not options.only or check.name in options.only]
    if options.rehearse:  # two at a time: the longest goes first
        checks.sort(key=lambda check: check.limit is not None)
    if options.rehearse and options.out is not None and options.out.resolve().is_relative_to(HERE / "results"):
        return complain(f"--out {options.out}: a rehearsal's numbers must not lie among results; choose another folder")
    if options.list or options.summarise:
        out = options.out or RESULTS
        if options.list:
            show(checks, out)
        else:
            write_text(out / "README.md", summary(out))
        return 0
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return complain(f"not installed here: {', '.join(missing)}; `python benchmarks/gpu_check.py --help` says how to bring them")
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        if options.out is None:
            options.out = Path(scratch) / "results" if options.rehearse else RESULTS
        run, before = Run(checks, options, Path(scratch)), dict(os.environ)
        os.environ.update(run.environment)  # the process that forks starts with them
        try:
            if not options.rehearse and (problem := run.probe()) is not None:
                return complain(problem)
            status = run()
            if run.undead:  # Python would wait for it
                sys.stdout.flush()
                os._exit(status)
            return status
        finally:
            os.environ.clear()
            os.environ.update(before)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that checks end, too
    sys.exit(main())
