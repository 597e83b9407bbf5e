"""A hash of all files of this repository that a check uses: a record is valid as long as it stays the same."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"fashiongen": ROOT / "fashiongen", "gpu": ROOT / "benchmarks" / "gpu"}
SCRIPTS = (ROOT / "benchmarks" / "speed", ROOT / "tests")
"""Folders whose files import each other by their bare names."""

RECIPES = ROOT / "recipes"
COMMANDS = ROOT / "fashiongen" / "cli" / "commands.py"
"""Imports within its functions what each command needs, the whole package together; a check imports the parts of the one that it runs."""

WEIGHTS = ROOT / "fashiongen" / "tiny" / "weights"


def closure(sources: Iterable[Path]) -> str:
    """Return a sha256 over `sources` and all files of this repository that they import, directly or not.

    A Python file counts with what it imports from the package, these checks, and the scripts and tests beside it; a recipe with the
    classes, parents and protocol that it names, and with the tiny checkpoints if it starts from them.
    """
    digest = hashlib.sha256()
    for path in sorted(used_by(sources)):
        digest.update(f"{path.relative_to(ROOT).as_posix()} {_sha256(path)}\n".encode())
    return digest.hexdigest()


def used_by(sources: Iterable[Path]) -> set[Path]:
    """Return `sources` and all files that they import or name, directly or not."""
    found: set[Path] = set()
    waiting = [path.resolve() for path in sources]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _used(path)
    return found


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _used(path: Path) -> list[Path]:
    """Return the files that one file imports or names."""
    if path.suffix not in (".py", ".yaml"):
        return []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return list(_named(path, text))
    names = set()
    tree = ast.parse(text)
    for node in tree.body if path == COMMANDS else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.relative_to(ROOT).with_suffix("").parts[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (package, node.module)))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return [file for name in sorted(names) for file in files_of(name)]


def files_of(name: str) -> Iterator[Path]:
    """Yield the files that importing a dotted name runs: the package's, its inner packages', the module's."""
    first, *rest = name.split(".")
    if first not in PACKAGES:
        yield from (file for folder in SCRIPTS if (file := folder / f"{first}.py").is_file())
        return
    place = PACKAGES[first]
    for part in ["", *rest]:
        place = place / part
        if (file := place / "__init__.py").is_file():
            yield file
        elif (file := place.with_suffix(".py")).is_file():
            yield file
            return
        else:
            return


def _named(recipe: Path, text: str) -> Iterator[Path]:
    """Yield the files that a recipe or protocol names."""
    for name in re.findall(r"fashiongen(?:\.\w+)+", text):
        yield from files_of(name)
    parents = re.search(r"^parents: \{(.*)\}", text, re.MULTILINE)
    near = [recipe.with_name(f"{name}.yaml") for name in re.findall(r": ([\w-]+)", parents[1] if parents else "")]
    protocols = [RECIPES / "tasks" / f"{name}.yaml" for name in re.findall(r"protocol: ([\w-]+)", text)]
    yield from (path for path in [*near, *protocols] if path.is_file())
    if re.search(r": tiny\b", text):
        yield from sorted(path for path in WEIGHTS.rglob("*") if path.is_file())
