"""Code outside this package that affects a result: a user's own method, dataset, task or metric, named in a recipe by its class path.

Like the modules of this package that a node uses (`fashiongen.closure`), this code is part of its key: after an edit, the nodes that depend
on it run again. The hash covers the source files of the whole top-level package or module that a class path begins with, and of the user's
own modules that it imports. For an installed package, the hash covers its version and its list of files. Libraries whose versions are in
the key anyway are skipped.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fashiongen.closure import PACKAGE
from fashiongen.records import file_sha256

LIBRARIES = ("torch", "torchvision", "lightning", "diffusers", "transformers", "torchmetrics", "numpy", "scipy", "pillow")
"""Distributions whose versions are part of every key and every record."""

COUNTED = ("fashiongen", *(name for name in LIBRARIES if name != "pillow"), "PIL")
"""Their import names, and this package, whose source is part of every key."""

IDLE = ("fashiongen", "rich", "yaml", "jsonargparse", "huggingface_hub")
"""Imports whose versions decide no number."""

SOURCE = "source "
"""Prefix of the entries in a record's `versions` for code outside this package."""

SUFFIXES = (".py", ".pyd", ".so")
INSTALLED = ("site-packages", "dist-packages")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def own_sources(settings: object) -> dict[str, str]:
    """Return hashes of the code outside this package that settings name, by top-level package or module.

    Args:
        settings: settings of a command, as plain values; the classes that they name are already imported.
    """
    found: dict[str, str] = {}
    waiting = sorted({name for path in dotted(settings) if (name := path.partition(".")[0]) in sys.modules})
    while waiting:
        name = waiting.pop()
        if name in found or name in COUNTED or name in sys.stdlib_module_names:
            continue
        identity, imports = _identify(name)
        if identity is not None:
            found[name] = identity
            waiting += imports
    return dict(sorted(found.items()))


def own_files(names: Iterable[str]) -> list[Path]:
    """Return the Python files of the user's own packages and modules (the keys of `own_sources`) that mention this package."""
    files = [file for name in names for root in _roots(name) for file in _files(root) if file.suffix == ".py"]
    return [file for file in files if PACKAGE.encode() in file.read_bytes()]


def versions_of(imported: Iterable[str]) -> dict[str, str]:
    """Return the versions of `LIBRARIES`, and of the distributions of other packages that are imported, without importing them."""
    distributions = _distributions()
    outside = {name for name in imported if name not in sys.stdlib_module_names and name not in IDLE}
    found = {}
    for distribution in sorted({*LIBRARIES, *(owner for name in outside for owner in distributions.get(name, []))}):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[distribution] = importlib.metadata.version(distribution)
    return found


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def dotted(value: object) -> Iterator[str]:
    """Yield the strings that may be import paths of classes or functions."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from dotted(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from dotted(inner)
    elif isinstance(value, str) and DOTTED.fullmatch(value):
        yield value


@functools.cache
def _identify(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the hash of a top-level package or module (None if it has no files), and the user's own modules that it imports."""
    roots = _roots(name)
    if any(part in INSTALLED for root in roots for part in root.parts):
        return _installed(name), ()
    files = sorted({file for root in roots for file in _files(root)})
    if not files:
        return None, ()
    listing = "".join(f"{_place(file, roots)} {file_sha256(file)}\n" for file in files)
    imported = sorted({module for file in files if file.suffix == ".py" for module in _imports(file)})
    own = tuple(module for module in imported if not _installed_or_builtin(module))
    return f"{SOURCE}{hashlib.sha256(listing.encode()).hexdigest()[:16]}", own


def _roots(name: str) -> list[Path]:
    """Return the file of a module, or the folders of a package; a package without `__init__.py` may have several."""
    try:
        spec: Any = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module created by hand, without a spec
        return []
    if spec is None:
        return []
    places = spec.submodule_search_locations or [spec.origin]
    return [path for place in places if place and (path := Path(place).resolve()).exists()]


def _files(root: Path) -> Iterator[Path]:
    """Yield the source files of a package's folder, or the file of a module; skip virtual environments and hidden folders."""
    if root.is_file():
        yield root
        return
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith((".", "__pycache__")) and not Path(folder, name, "pyvenv.cfg").is_file()]
        yield from (Path(folder, name) for name in names if name.endswith(SUFFIXES))


def _place(file: Path, roots: list[Path]) -> str:
    """Return the path of a file relative to its package."""
    return next((file.relative_to(root).as_posix() for root in roots if root != file and file.is_relative_to(root)), file.name)


def _imports(file: Path) -> set[str]:
    """Return the top-level names that a file imports, also inside functions; empty if Python cannot parse the file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _installed_or_builtin(name: str) -> bool:
    if name in COUNTED or name in sys.stdlib_module_names:
        return True
    roots = _roots(name)
    return not roots or any(part in INSTALLED for root in roots for part in root.parts)


def _installed(name: str) -> str:
    """Return the version of an installed package and a hash of its list of files."""
    versions = []
    for distribution in sorted(set(_distributions().get(name, []))):
        files = importlib.metadata.distribution(distribution).read_text("RECORD") or ""
        version = importlib.metadata.version(distribution)
        versions.append(f"{version} {hashlib.sha256(files.encode()).hexdigest()[:16]}")
    return SOURCE + (", ".join(versions) or "unknown")
