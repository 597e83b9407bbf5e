"""Plant small faults in the maths, one at a time, and see whether the tests notice.

    python -m pip install coverage
    python tests/plant_faults.py cover                    # once: which tests run which line (a run of the whole suite)
    python tests/plant_faults.py plant --count 150        # resumable: faults drawn with --seed, one line printed for each
    python tests/plant_faults.py report

It is not part of the suite. A line is drawn uniformly over all lines of the maths that can hold a fault, then one fault on it. Only
tests that run the line are started, the fastest first, until the first failure, for at most 60 s. A fault that no test notices is
either a missing test or no fault; `tests/planted_faults.json` names those that are none, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The maths: what decides a number. Commands, messages and file handling have their own tests of bad input.
MATHS = (
    "fashiongen/nn/**/*.py",
    "fashiongen/metrics/**/*.py",
    "fashiongen/data/loading.py",
    "fashiongen/methods/**/*.py",
    "fashiongen/tasks/*.py",
    "fashiongen/intervals.py",
    "fashiongen/evaluation/clusters.py",
    "fashiongen/benchmark/paired.py",
    "fashiongen/closure.py",
)
SECONDS, TESTS = 60, 60
LINES = "FASHIONGEN_TEST_LINES"
"""Environment variable: where the plugin writes its data."""
HARMLESS = ROOT / "tests" / "planted_faults.json"

BINARY = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
}
COMPARED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is"}
NAMES = {
    "mean": "sum", "sum": "mean", "min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmax": "argmin", "argmin": "argmax",
    "cos": "sin", "sin": "cos", "exp": "expm1", "sqrt": "square", "softmax": "log_softmax", "any": "all", "all": "any",
    "zeros_like": "ones_like", "ones_like": "zeros_like", "zeros": "ones", "ones": "zeros", "floor": "ceil", "ceil": "floor",
    "l1_loss": "mse_loss", "mse_loss": "l1_loss", "sigmoid": "tanh", "tanh": "sigmoid", "relu": "abs",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One edit of a file: the characters from `start` to `stop` of a line become `text`."""

    file: str
    line: int
    start: int
    stop: int
    text: str
    kind: str

    @property
    def id(self) -> str:
        """Return a name that stays the same between runs."""
        return f"{self.file}:{self.line}:{self.start}:{self.kind}"


def faults_of(file: str, source: str) -> list[Fault]:
    """Return all faults that can be planted in a file, outside of docstrings, annotations and messages."""
    lines, found = source.splitlines(), []
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
            parts.append(node)
        elif isinstance(node, ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.arg):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            parts += [node.returns, *node.decorator_list]
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id[0].isupper():
            parts.append(node)
        skipped |= {id(inner) for part in parts if part is not None for inner in ast.walk(part)}

    def add(node: ast.expr, start: int, stop: int, text: str, kind: str, line: int | None = None) -> None:
        found.append(Fault(file, line or node.lineno, start, stop, text, kind))

    def between(left: ast.expr, right: ast.expr, old: str) -> int | None:
        """Return the column of an operator that lies on one line between its operands."""
        if left.end_lineno != right.lineno:
            return None
        column = lines[right.lineno - 1].encode()[left.end_col_offset or 0 : right.col_offset].decode().find(old)
        return None if column < 0 else (left.end_col_offset or 0) + column

    symbols = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.BitAnd: "&"}
    symbols |= {ast.BitOr: "|"}
    compared = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not"}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
            old = symbols[type(node.op)]
            if (column := between(node.left, node.right, old)) is not None:
                add(node.right, column, column + len(old), BINARY[type(node.op)], f"{old} -> {BINARY[type(node.op)]}")
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
            old, new = compared[type(node.ops[0])], COMPARED[type(node.ops[0])]
            if (column := between(node.left, node.comparators[0], old)) is not None:
                add(node.comparators[0], column, column + len(old), new, f"{old} -> {new}")
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            if (column := between(node.values[0], node.values[1], old)) is not None:
                add(node.values[1], column, column + len(old), new, f"{old} -> {new}")
        elif isinstance(node, ast.Constant) and node.end_lineno == node.lineno and node.end_col_offset is not None:
            value = node.value
            if isinstance(value, bool):
                add(node, node.col_offset, node.end_col_offset, str(not value), f"{value} -> {not value}")
            elif isinstance(value, int) and value < 10**6:
                add(node, node.col_offset, node.end_col_offset, str(value + 1), f"{value} -> {value + 1}")
            elif isinstance(value, float) and value:
                add(node, node.col_offset, node.end_col_offset, repr(value * 1.5), f"{value} -> {value * 1.5}")
        elif (
            isinstance(node, ast.UnaryOp)
            and isinstance(node.op, ast.USub | ast.Not | ast.Invert)
            and not isinstance(node.operand, ast.Constant)
        ):
            if node.operand.lineno == node.lineno:
                add(node, node.col_offset, node.operand.col_offset, "", f"{type(node.op).__name__} removed")
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in NAMES and node.end_col_offset is not None and node.end_lineno is not None:
                stop = node.end_col_offset
                add(node, stop - len(name), stop, NAMES[name], f"{name} -> {NAMES[name]}", node.end_lineno)
        elif isinstance(node, ast.Call):
            for keyword in node.keywords:  # a forgotten argument
                value = keyword.value
                line = lines[keyword.lineno - 1]
                if keyword.arg and keyword.lineno == value.end_lineno and value.end_col_offset is not None:
                    stop = value.end_col_offset
                    rest = line.encode()[stop:].decode()
                    if rest.startswith(", "):
                        add(value, keyword.col_offset, stop + 2, "", f"{keyword.arg}= forgotten", keyword.lineno)
            if len(node.args) >= 2 and all(argument.lineno == node.args[0].lineno == argument.end_lineno for argument in node.args[:2]):
                first, second = node.args[:2]
                if not isinstance(first, ast.Starred) and not isinstance(second, ast.Starred) and ast.dump(first) != ast.dump(second):
                    text = lines[first.lineno - 1].encode()
                    a = text[first.col_offset : first.end_col_offset].decode()
                    b = text[second.col_offset : second.end_col_offset].decode()
                    middle = text[first.end_col_offset or 0 : second.col_offset].decode()
                    add(first, first.col_offset, second.end_col_offset or 0, f"{b}{middle}{a}", f"{a}, {b} swapped")
    return found


def planted(source: str, fault: Fault) -> str | None:
    """Return the source with the fault, or None if that is no Python or changes nothing."""
    lines = source.splitlines(keepends=True)
    line = lines[fault.line - 1].encode()
    lines[fault.line - 1] = (line[: fault.start] + fault.text.encode() + line[fault.stop :]).decode()
    changed = "".join(lines)
    try:
        return changed if ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)) else None
    except SyntaxError:
        return None


def draw(count: int, seed: int) -> list[Fault]:
    """Draw faults: a line uniformly, without a line twice, then one of its faults."""
    by_line: dict[tuple[str, int], list[Fault]] = defaultdict(list)
    for pattern in MATHS:
        for path in sorted(ROOT.glob(pattern)):
            source, file = path.read_text(), path.relative_to(ROOT).as_posix()
            for fault in faults_of(file, source):
                if planted(source, fault) is not None:
                    by_line[(fault.file, fault.line)].append(fault)
    stream = random.Random(seed)
    lines = sorted(by_line)
    return [stream.choice(by_line[line]) for line in stream.sample(lines, min(count, len(lines)))]


def environment(tree: Path) -> dict[str, str]:
    """Return the variables of a test run in a copy of the project."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(tree)}
    return os.environ | offline


def copy_tree(work: Path) -> Path:
    """Copy the tracked files to a folder where faults can be planted."""
    tree = work / "tree"
    if not tree.is_dir():
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
        )
        for name in filter(None, names.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
    return tree


def cover(work: Path, jobs: int) -> None:
    """Run the suite once and keep which tests run which line, and how long each takes."""
    from coverage import Coverage

    shutil.rmtree(work / "tree", ignore_errors=True)
    shutil.rmtree(work / "lines", ignore_errors=True)
    tree = copy_tree(work)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "-p", "no:cacheprovider", "-p", "plant_faults"]
    command += [f"--junitxml={work / 'times.xml'}", "-o", "junit_family=xunit1"]
    variables = environment(tree) | {LINES: str(work / "lines" / "data"), "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}
    (work / "lines").mkdir()
    subprocess.run(command, cwd=tree, env=variables, check=False)
    (work / "coverage.sqlite").unlink(missing_ok=True)
    whole = Coverage(data_file=str(work / "coverage.sqlite"), config_file=False)
    whole.combine([str(file) for file in (work / "lines").iterdir()], strict=True)
    whole.save()


def pytest_configure(config: object) -> None:
    """Loaded as a plugin by `cover`, record the lines of each test under its name; fixtures count for the test that sets them up."""
    import pytest
    from coverage import Coverage

    if LINES not in os.environ:
        return
    lines = Coverage(data_file=os.environ[LINES], data_suffix=True, source=[str(Path("fashiongen").resolve())], config_file=False)
    lines.set_option("run:relative_files", True)

    class Recorder:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
            lines.start()
            lines.switch_context(item.nodeid)
            try:
                return (yield)
            finally:
                lines.stop()

        def pytest_sessionfinish(self) -> None:
            lines.save()

    config.pluginmanager.register(Recorder())  # type: ignore[attr-defined]


def tests_of(work: Path) -> tuple[dict[tuple[str, int], set[str]], dict[str, float]]:
    """Return the tests that run each line, and their seconds."""
    seconds = {}
    for case in ElementTree.parse(work / "times.xml").iter("testcase"):
        seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time", 0))
    running: dict[tuple[str, int], set[str]] = defaultdict(set)
    with sqlite3.connect(work / "coverage.sqlite") as database:
        query = "select path, context, numbits from line_bits join file on file.id = file_id join context on context.id = context_id"
        for path, context, bits in database.execute(query):
            for byte, value in enumerate(bits):  # line numbers as a bit field; the empty context is that of imports
                for bit in range(8):
                    if context and value >> bit & 1:
                        running[(path, 8 * byte + bit)].add(context)
    return running, seconds


def plant(work: Path, count: int, seed: int) -> None:
    """Plant the drawn faults one by one; those in the log are not repeated."""
    tree, log = copy_tree(work), work / f"seed{seed}.jsonl"
    done = {json.loads(line)["id"] for line in log.read_text().splitlines()} if log.is_file() else set()
    running, seconds = tests_of(work)
    by_file: dict[str, set[str]] = defaultdict(set)
    for (file, _), names in running.items():
        by_file[file] |= names
    for number, fault in enumerate(draw(count, seed)):
        if fault.id in done:
            continue
        path = tree / fault.file
        original = (ROOT / fault.file).read_text()
        own = sorted(running.get((fault.file, fault.line), ()), key=lambda test: seconds.get(test, 1.0))
        if not own:  # a line of an import, such as a constant: of all that run the file, the fastest of each file of tests, then the next
            own = sorted(by_file[fault.file], key=lambda test: seconds.get(test, 1.0))
            place = {test: number for number, test in enumerate(own)}
            rank: dict[str, int] = defaultdict(int)
            order = {}
            for test in own:
                order[test] = (rank[test.split("::")[0]], place[test])
                rank[test.split("::")[0]] += 1
            own.sort(key=order.__getitem__)
        # A fixture of a file is set up by one test, and other tests of the file look at it too.
        files = {test.split("::")[0] for test in own}
        others = sorted((test for test in seconds if test.split("::")[0] in files and test not in own), key=seconds.__getitem__)
        tests = [*own, *others][:TESTS]
        outcome, noticed = "not run by any test", ""
        if tests:
            changed = planted(original, fault)
            assert changed is not None
            path.write_text(changed)
            (work / "tests.txt").write_text("\n".join(tests))
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-n", "0", f"@{work / 'tests.txt'}"]
            try:
                finished = subprocess.run(
                    command, cwd=tree, env=environment(tree), capture_output=True, text=True, timeout=SECONDS, check=False
                )
                # 1: a test failed; 2 to 4: the files with the tests cannot even be imported.
                outcome = {0: "not noticed", 5: "not run by any test"}.get(finished.returncode, "noticed")
                noticed = next((line.split(" ")[1] for line in finished.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
            except subprocess.TimeoutExpired:
                outcome = "no answer in time"
            finally:
                path.write_text(original)
        entry = {
            "id": fault.id,
            "outcome": outcome,
            "by": noticed,
            "tests": len(tests),
            "text": original.splitlines()[fault.line - 1].strip(),
        }
        with log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{number + 1}/{count} {outcome}: {fault.id}", flush=True)


def report(work: Path) -> None:
    """Print for each draw how many faults were noticed, and every one that was not."""
    harmless = json.loads(HARMLESS.read_text()) if HARMLESS.is_file() else {}
    for log in sorted(work.glob("seed*.jsonl")):
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        none = [entry for entry in entries if entry["outcome"] != "noticed" and entry["id"] in harmless]
        missed = [entry for entry in entries if entry["outcome"] != "noticed" and entry["id"] not in harmless]
        real = len(entries) - len(none)
        share = (real - len(missed)) / max(real, 1)
        print(f"{log.stem}: {len(entries)} faults, {len(none)} of them none; of {real} {real - len(missed)} noticed ({share:.1%})")
        for entry in missed:
            print(f"  {entry['outcome']}: {entry['id']}\n      {entry['text']}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("cover", "plant", "report"))
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".faults", help="folder of the copy, the coverage and the logs (default: %(default)s)"
    )
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a fault that is planted at this moment is taken out again
    given.work = given.work.resolve()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.action == "cover":
        cover(given.work, given.jobs)
    elif given.action == "plant":
        plant(given.work, given.count, given.seed)
    else:
        report(given.work)


if __name__ == "__main__":
    main()
