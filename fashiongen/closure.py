"""The code that decides a number: the modules of this package that given modules import, directly or not.

Found by reading syntax trees: nothing is imported or run. Imports inside functions count, those for type checkers alone do not. A package
whose `__init__.py` only re-exports names does not count as a whole: `from fashiongen.nn.parts import ddim` needs the module that defines
`ddim`, and a new module beside it changes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "fashiongen"
ROOT = Path(__file__).parent
COMMAND = "fashiongen.cli.lightning"
"""The module that runs `fit` and `test`."""

Name = tuple[str, str | None]
"""A module and a name in it; None for the whole module."""


@dataclass(frozen=True)
class Source:
    """What one file says.

    Attributes:
        sha256: of the file.
        whole: the modules that it imports by `import`.
        bound: what it imports by `from`, by the name that it is bound to; two functions may bind one name to different things.
        attributes: what it uses of a bound name, where it uses nothing but attributes.
        reexports: whether it is an `__init__.py` that does nothing but import names.
        shipped: the parts of the shipped tiny weights that it names, relative to their folder; "" for one that depends on the settings.
    """

    sha256: str
    whole: frozenset[str]
    bound: dict[str, set[tuple[str, str]]]
    attributes: dict[str, frozenset[str]]
    reexports: bool
    shipped: frozenset[str]


@dataclass(frozen=True)
class Closure:
    """The modules that some modules import, directly or not, themselves included.

    Attributes:
        sources: what they say, by name.
        libraries: the top-level packages outside this one that they import.
    """

    sources: dict[str, Source]
    libraries: frozenset[str]

    @property
    def sha256(self) -> str:
        """Return a sha256 over names and contents."""
        return hashlib.sha256("".join(f"{name} {source.sha256}\n" for name, source in sorted(self.sources.items())).encode()).hexdigest()

    @property
    def shipped(self) -> set[str]:
        """Return the parts of the shipped tiny weights that the modules name; "" for one that depends on the settings."""
        return {part for source in self.sources.values() for part in source.shipped}


def closure(names: Iterable[Name], root: Path = ROOT) -> Closure:
    """Return the modules below `root` that are needed for some names: those that define them, and what these import, directly or not.

    Args:
        names: modules, or names in them, of this package or of another; those of another count as libraries.
        root: the package's folder.
    """
    sources: dict[str, Source] = {}
    libraries: set[str] = set()
    waiting: list[Name] = list(names)
    seen: set[Name] = set()
    while waiting:
        name = waiting.pop()
        module = name[0]
        if name in seen:
            continue
        seen.add(name)
        if module.partition(".")[0] != PACKAGE:
            libraries.add(module.partition(".")[0])
            continue
        for needed, path in _executed(module, root):
            source = read(path, needed)
            if source.reexports:
                waiting += _reexported(source, name, root) if needed == module else []
            elif needed not in sources:
                sources[needed] = source
                waiting += _imports(source, root)
    return Closure(sources, frozenset(libraries))


def of_objects(*objects: object, names: Iterable[Name] = ()) -> Closure:
    """Return the modules needed for some objects' classes, with their base classes, and for further names."""
    classes = {ancestor for value in objects for ancestor in type(value).__mro__}
    return closure([*names, *((cls.__module__, cls.__name__) for cls in classes if cls.__module__.partition(".")[0] == PACKAGE)])


def names_in(path: Path) -> list[Name]:
    """Return what a file of another package imports: names of this package, and those of libraries."""
    source = read(path, path.stem)
    found: list[Name] = [(module, None) for module in source.whole]
    return found + [name for alias in source.bound for name in _targets(source, alias, ROOT)]


def _executed(module: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the modules that importing one executes (its packages and itself), and their files."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        if (path := _file(".".join(parts[:count]), root)) is not None:
            yield ".".join(parts[:count]), path


@functools.cache
def _file(module: str, root: Path) -> Path | None:
    package, *inner = module.split(".")
    place = root.joinpath(*inner)
    if package != PACKAGE:
        return None
    files = [place / "__init__.py", *([place.with_suffix(".py")] if inner else [])]
    return next((file for file in files if file.is_file()), None)


def forget() -> None:
    """Read all files anew from now on: each is read once per process otherwise."""
    _file.cache_clear()
    read.cache_clear()


def _imports(source: Source, root: Path) -> Iterator[Name]:
    """Yield what a file imports; of a package that it imports as such, only what it uses, if that can be told."""
    yield from ((module, None) for module in source.whole)
    for alias in source.bound:
        for module, name in _targets(source, alias, root):
            if name is None and (used := source.attributes.get(alias)):
                yield from ((module, attribute) for attribute in used)
            else:
                yield module, name


def _targets(source: Source, alias: str, root: Path) -> Iterator[Name]:
    """Yield what a name is bound to: modules, or names in them."""
    for base, name in source.bound[alias]:
        whole = base if name == "*" else f"{base}.{name}"
        yield (whole, None) if name == "*" or _file(whole, root) is not None else (base, name)


def _reexported(source: Source, name: Name, root: Path) -> Iterable[Name]:
    """Return what a name of a package stands for: what its `__init__.py` binds to it, or the module of that name, or else everything."""
    module, wanted = name
    if wanted in source.bound:
        return _targets(source, wanted, root)
    if wanted is not None and _file(f"{module}.{wanted}", root) is not None:
        return [(f"{module}.{wanted}", None)]
    return [] if wanted is not None and wanted.startswith("__") else list(_imports(source, root))


@functools.cache
def read(path: Path, module: str) -> Source:
    """Read the file of a module, once per process. A file that Python cannot parse imports nothing."""
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        tree = ast.Module([], [])
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    nodes = list(_run(tree))
    bound: dict[str, set[tuple[str, str]]] = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                bound.setdefault(alias.asname or (alias.name if alias.name != "*" else f"{base}.*"), set()).add((base, alias.name))
    return Source(
        sha256=hashlib.sha256(content).hexdigest(),
        whole=frozenset(alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names),
        bound=bound,
        attributes=_attributes(nodes, bound),
        reexports=path.name == "__init__.py" and all(_only_binds(statement) for statement in tree.body),
        shipped=frozenset(_shipped(nodes, bound)),
    )


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, except what is for type checkers alone."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _run(other)
        else:
            yield from _run(child)


def _name(node: ast.AST | None) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _attributes(nodes: list[ast.AST], bound: dict[str, set[tuple[str, str]]]) -> dict[str, frozenset[str]]:
    """Return the attributes used of each bound name that is used in no other way."""
    used: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in bound:
            counts[node.id] = counts.get(node.id, 0) + 1
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in bound:
            used.setdefault(node.value.id, set()).add(node.attr)
            counts[node.value.id] = counts.get(node.value.id, 0) - 1
    return {alias: frozenset(names) for alias, names in used.items() if counts[alias] == 0}


def _only_binds(statement: ast.stmt) -> bool:
    """Return whether a statement of an `__init__.py` does nothing: docstrings, imports, `__all__`, `__version__`, a `__getattr__`."""
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=targets):
            return all((_name(target) or "").startswith("__") for target in targets)
        case ast.FunctionDef(name=name):
            return name in ("__getattr__", "__dir__")
        case ast.If(test=test, body=body, orelse=orelse):
            checked = _name(test.operand if isinstance(test, ast.UnaryOp) else test) == "TYPE_CHECKING"
            return checked and all(_only_binds(inner) for inner in [*body, *orelse])
    return False


def _shipped(nodes: list[ast.AST], bound: dict[str, set[tuple[str, str]]]) -> Iterator[str]:
    """Yield the parts that a file names, as in `locate(value, PART)`, `locate_file(value, PART)`, `tiny_weights() / PART`."""
    from_here = {alias: name for alias, places in bound.items() for base, name in places if base == f"{PACKAGE}.checkpoints"}
    for node in nodes:
        if isinstance(node, ast.Call) and (function := from_here.get(_name(node.func) or "")) in ("locate", "locate_file"):
            given = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg in ("part", "tiny"))]
            if given:
                yield _constant(given[0])
            elif function == "locate":  # whose default is `sd`; `locate_file` has none
                yield "sd"
        elif (
            isinstance(node, ast.BinOp) and isinstance(node.left, ast.Call) and from_here.get(_name(node.left.func) or "") == "tiny_weights"
        ):
            yield _constant(node.right)


def _constant(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
