"""Plans: a suite becomes a graph of trainings and tests, parents before children."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from fashiongen import shipped
from fashiongen.benchmark.command_info import CommandInfo, obstacle, placed
from fashiongen.benchmark.suite import read_suite
from fashiongen.errors import UserError
from fashiongen.records import CYCLE, GARMENTS

Describe = Callable[[list[list[str]]], tuple[list[CommandInfo], int]]
"""Inspects commands: returns a `CommandInfo` for each, and the number of GPUs."""

KEPT = "predictions"
"""The folder of a test's predictions that another test reads, relative to the test's own."""

LONGEST = 200
"""Maximum bytes of a node's name: file systems allow 255, and suffixes are added."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One training or one test.

    Attributes:
        id: unique name, also of its folder.
        kind: fit or test.
        method: name of its recipe.
        overlays: names of its overlays and ablations.
        seed: the random seed.
        arguments: command-line arguments, without the program and the checkpoints, which are known only when it runs.
        parents: ids of the nodes whose checkpoints it loads, by role; `checkpoint` is the one that a test evaluates, and `garments` a test
            whose predictions it reads.
        loads: what it loads of each parent, by role: the path of a checkpoint or of predictions, relative to the parent's folder.
        kept: where a test keeps its predictions for other tests, relative to its folder; None if none reads them.
        task: the task of a test.
        protocol: the protocol of a test.
        dataset: name of its data in records.
        needs: what its data must offer.
        content: hash of its settings, data, frozen weights and seed, without its parents'.
        code: hash of the modules of this package that it uses.
        libraries: versions of the libraries that it uses.
        sources: hashes of the code outside this package that it runs, by package or module.
        limit: time limit in seconds; None for no limit.
        gpus: number of GPUs.
        checkpoint: where a fit writes its last checkpoint, relative to its folder.
        best: where a fit writes its best checkpoint, if its recipe selects it.
        trust: whether its checkpoints are DeepSpeed folders.
        skipped: why it cannot run.
    """

    id: str
    kind: Literal["fit", "test"]
    method: str
    overlays: list[str]
    seed: int
    arguments: list[str]
    parents: dict[str, str] = field(default_factory=dict)
    loads: dict[str, str] = field(default_factory=dict)
    kept: str | None = None
    task: str = ""
    protocol: str = ""
    dataset: str = ""
    needs: list[str] = field(default_factory=list)
    content: str = ""
    code: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    limit: float | None = None
    gpus: int = 0
    checkpoint: str | None = None
    best: str | None = None
    trust: bool = False
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The nodes of a suite, parents before children."""

    suite: str
    file: str
    sha256: str
    nodes: list[Node]


@dataclass(kw_only=True)
class _Row:
    """A method with its overlays: trained once per seed, and tested with each entry of `tests`."""

    method: str
    recipe: Path
    overlays: list[str]
    files: list[Path]
    keys: dict[str, Any]
    run: dict[str, Any]
    parents: dict[str, str]
    tests: list[dict[str, Any]]
    seeds: list[int]

    @property
    def name(self) -> str:
        return "+".join([self.method, *self.overlays])

    def settings(self, kind: str, test: dict[str, Any] | None = None) -> tuple[list[Path], dict[str, Any]]:
        """Return the config files and extra keys of its command line."""
        test = test or {}
        configs = [self.recipe, *self.files, *test.get("files", [])]
        keys = {**self.run["keys"], **self.run[f"{kind}_keys"], **self.keys, **test.get("keys", {})}
        if "protocol" in test:
            keys["evaluate.protocol"] = test["protocol"]
        return configs, keys

    def command(self, kind: str, test: dict[str, Any] | None = None) -> list[str]:
        """Return the command line without seed, checkpoints and paths."""
        configs, keys = self.settings(kind, test)
        return [
            kind,
            *(arg for path in configs for arg in ("--config", str(path))),
            *(arg for key in keys for arg in (f"--{key}", _text(keys[key]))),
        ]


def make_plan(file: Path, describe: Describe, *, available: Callable[[int], int | None] = lambda gpus: gpus) -> Plan:
    """Return the graph of a suite.

    Args:
        file: the suite.
        describe: inspects command lines.
        available: maximum number of GPUs per node, given this machine's number of GPUs; None if unknown.

    Raises:
        UserError: if the suite is wrong, or names something that does not exist.
    """
    suite = read_suite(file)
    folder = (file.parent / suite["recipes"]).resolve()
    if not folder.is_dir():
        raise UserError(f"{file}: recipes: {folder}: no such folder; the path is relative to the suite's folder")
    rows: dict[str, _Row] = {}
    for run in suite["runs"]:
        base = _overlay_files(run["overlays"], folder, file)
        for method in _methods(run["methods"], folder, run["place"]):
            rows_of = [({"overlays": [], "keys": {}}), *run["ablations"]]
            for ablation in rows_of:
                files = _overlay_files(ablation["overlays"], folder, file)
                names = [ablation["name"]] if "name" in ablation else ablation["overlays"]
                row = _row(folder / f"{method}.yaml", run, [*run["overlays"], *names], [*base, *files], ablation["keys"])
                row.tests = [{**test, "files": _overlay_files(test.get("overlays", []), folder, file)} for test in run["tests"]]
                if row.name in rows:
                    raise UserError(
                        f"{run['place']}: {row.name}: the suite has this row twice: remove one, or give its overlays another name"
                    )
                rows[row.name] = row
    for row in list(rows.values()):
        _add_parents(row, rows, _overlay_files(row.run["overlays"], folder, file))
    commands = {f"fit {row.name}": row.command("fit") for row in rows.values()}
    commands |= {f"test {row.name} {number}": row.command("test", test) for row in rows.values() for number, test in enumerate(row.tests)}
    found, there = describe(list(commands.values()))
    gpus = available(there)
    infos = dict(zip(commands, (placed(one, gpus) for one in found), strict=True))
    nodes: dict[str, Node] = {}
    reading: list[tuple[_Row, str, Node]] = []
    for row in rows.values():
        for seed in row.seeds:
            _add_fit(row, seed, rows, infos, nodes, gpus)
            for number, test in enumerate(row.tests):
                node = _test_node(row, seed, test, infos[f"test {row.name} {number}"], infos[f"fit {row.name}"], gpus)
                if node.id in nodes or node.id in {other.id for _, _, other in reading}:
                    raise UserError(f"{row.run['place']}: two tests would have the id {node.id}: give one of them a name by `name: NAME`")
                if "garments" in test:
                    reading.append((row, test["garments"], node))
                else:
                    nodes[node.id] = node
    _add_readers(reading, nodes)
    for name in nodes:
        if len(name.encode()) > LONGEST:
            raise UserError(f"{file}: {name} is too long for a folder name: shorten the names of overlays, ablations, tests or data")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Plan(suite=suite["suite"], file=str(file.resolve()), sha256=sha256, nodes=list(nodes.values()))


def _add_parents(row: _Row, rows: dict[str, _Row], files: list[Path]) -> None:
    """Add the rows that a row starts from.

    They get the overlays and keys of its run, without keys of the model. They have neither its ablation nor tests, unless the suite lists
    them as rows.
    """
    own = {name: {key: value for key, value in row.run[name].items() if not key.startswith("model.")} for name in ("keys", "fit_keys")}
    for parent in row.parents.values():
        path = row.recipe.with_name(f"{parent}.yaml")
        if not path.is_file():
            raise UserError(f"{row.recipe}: parents: {parent}: {path} does not exist")
        found = _row(path, {**row.run, **own}, row.run["overlays"], files, {})
        known = rows.setdefault(found.name, found)
        if known is found:
            _add_parents(found, rows, files)
        elif known.settings("fit") != found.settings("fit"):
            raise UserError(
                f"{row.run['place']}: {row.name} starts from {found.name}, which the suite trains with other overlays or keys "
                f"({known.run['place']}): give both the same ones, or rename an overlay of one"
            )


def _add_fit(row: _Row, seed: int, rows: dict[str, _Row], infos: dict[str, CommandInfo], nodes: dict[str, Node], gpus: int | None) -> None:
    """Add the training of a row, after those of its parents; a method that does not learn has none."""
    found, name = infos[f"fit {row.name}"], f"fit--{row.name}--seed{seed}"
    if name in nodes or not found.learns:
        return
    parents, loads = {}, {}
    for role, parent in row.parents.items():
        above = rows["+".join([parent, *_names(row.run["overlays"])])]
        _add_fit(above, seed, rows, infos, nodes, gpus)
        parents[role] = f"fit--{above.name}--seed{seed}"
        if parents[role] not in nodes:
            raise UserError(f"{row.recipe}: parents: {parent} does not learn, so there is no checkpoint to start from")
        loads[role] = _selected(above, infos[f"fit {above.name}"].selects, infos[f"fit {above.name}"])
    if found.checkpoint is None:
        raise UserError(f"{row.recipe}: its ModelCheckpoint must have a dirpath and save_last: true, otherwise no checkpoint is found")
    arguments = [*row.command("fit"), *_where(found), "--seed_everything", str(seed)]
    nodes[name] = Node(
        id=name,
        kind="fit",
        arguments=[*arguments, *(["--data.init_args.seed", str(seed)] if found.seeded_data else [])],
        parents=parents,
        loads=loads,
        checkpoint=found.checkpoint,
        best=_selected(row, "best", found) if found.selects == "best" else None,
        skipped=obstacle(found, "fit", gpus),
        **_common(row, seed, found),
    )


def _add_readers(reading: list[tuple[_Row, str, Node]], nodes: dict[str, Node]) -> None:
    """Add the tests that put on the garments that others took off, after these, which then keep their predictions.

    A row may do both: of its tests those of another task than the reader's take off.
    """
    for row, name, node in reading:
        tests = [test for test in nodes.values() if test.kind == "test" and test.task != node.task]
        where = f"{row.run['place']}: tests: garments: {name}"
        of_row = [test for test in tests if "+".join([test.method, *test.overlays]) == name]
        dataset = node.dataset.removesuffix(CYCLE)
        found = [test for test in of_row if (test.seed, test.dataset) == (node.seed, dataset)]
        if not of_row:
            rows = ", ".join(dict.fromkeys("+".join([test.method, *test.overlays]) for test in tests))
            raise UserError(f"{where}: the suite has no such row with a test of another task; it has: {rows or 'none'}")
        if not found:
            raise UserError(f"{where}: it takes nothing off with seed {node.seed} on {dataset}: add the seed or the data to its run")
        nodes[found[0].id] = replace(nodes[found[0].id], kept=KEPT)
        parents, loads = {**node.parents, "garments": found[0].id}, {**node.loads, "garments": KEPT}
        nodes[node.id] = replace(node, parents=parents, loads=loads)


def _test_node(row: _Row, seed: int, test: dict[str, Any], found: CommandInfo, fit: CommandInfo, gpus: int | None) -> Node:
    data, named = test.get("data", found.dataset), [test["name"]] if "name" in test else []
    common = _common(row, seed, found)
    if "garments" in test:
        named = [*named, f"{GARMENTS}{test['garments']}"]
        common["dataset"] += CYCLE
    return Node(
        id=f"test--{'+'.join([row.name, *named])}--seed{seed}--{found.protocol or found.task}--{data}",
        kind="test",
        arguments=[*row.command("test", test), *_where(found), "--seed_everything", str(seed)],
        parents={"checkpoint": f"fit--{row.name}--seed{seed}"} if fit.learns else {},
        loads={"checkpoint": _selected(row, found.selects, fit)} if fit.learns else {},
        task=found.task,
        protocol=found.protocol,
        skipped=obstacle(found, "test", gpus),
        **{**common, "overlays": [*row.overlays, *named]},
    )


def _selected(row: _Row, selects: str, fit: CommandInfo) -> str:
    """Return the checkpoint of a row's training that `evaluate.checkpoint` selects, relative to its folder."""
    file = fit.best if selects == "best" else fit.checkpoint
    if file is None:
        raise UserError(
            f"{row.recipe}: evaluate.checkpoint: {selects}, but the training leaves no such file under a fixed name: its ModelCheckpoint "
            "must have a dirpath and "
            + ("monitor, filename: best, save_top_k: 1 and enable_version_counter: false" if selects == "best" else "save_last: true")
        )
    return file


def _common(row: _Row, seed: int, found: CommandInfo) -> dict[str, Any]:
    kind = "test" if found.task else "fit"
    return {
        "method": row.method,
        "overlays": row.overlays,
        "seed": seed,
        "dataset": found.data_name,
        "needs": found.needs,
        "content": hashlib.sha256(f"{found.content} {seed}".encode()).hexdigest(),
        "code": found.code,
        "libraries": found.libraries,
        "sources": found.sources,
        "limit": row.run["limits"].get(kind),
        "gpus": found.gpus,
        "trust": found.deepspeed,
    }


def _where(found: CommandInfo) -> list[str]:
    return [arg for key, path in found.absolute.items() for arg in (f"--{key}", path)]


def _row(recipe: Path, run: dict[str, Any], overlays: list[str], files: list[Path], keys: dict[str, Any]) -> _Row:
    parents: dict[str, str] = {}
    for path in (recipe, *files):  # the last file wins, as on the command line
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
        if isinstance(content, dict) and isinstance(content.get("parents"), dict):
            parents = content["parents"]
    return _Row(
        method=recipe.stem,
        recipe=recipe,
        overlays=_names(overlays),
        files=files,
        keys=keys,
        run=run,
        parents=parents,
        tests=[],
        seeds=list(run["seeds"]),
    )


def _names(overlays: list[str]) -> list[str]:
    return [Path(name).stem if "/" in name else name for name in overlays]


def _methods(patterns: list[str], folder: Path, place: str) -> list[str]:
    there = sorted(path.stem for path in folder.glob("*.yaml"))
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(there, str(pattern))
        if not matching:
            raise UserError(f"{place}: methods: {pattern}: no such recipe; {folder} holds: {', '.join(there) or 'none'}")
        found |= dict.fromkeys(matching)
    return list(found)


def _overlay_files(names: Iterable[str], folder: Path, suite: Path) -> list[Path]:
    files = []
    for name in names:
        file = suite.parent / name if "/" in name else shipped.find_overlay(name, folder)
        if file is None or not file.is_file():
            raise UserError(f"{suite}: overlays: {name}: {file or folder.parent / 'overlays' / f'{name}.yaml'} does not exist")
        files.append(file.resolve())
    return files


def _text(value: Any) -> str:  # noqa: ANN401  any YAML value
    return value if isinstance(value, str) else json.dumps(value)
