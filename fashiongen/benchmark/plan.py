"""Plans: a suite, a YAML file, selects recipes, seeds, overlays, ablations and tests, and becomes a graph of trainings and tests.

suite: tiny                          # its name
recipes: ../../recipes/tiny          # the folder of the recipes, relative to this file
seeds: [0]
overlays: [bf16]                     # for every command; names of files in `overlays/` in that folder or beside it
limits: {fit: 3600, test: 600}       # seconds a node
keys: {}                             # further keys of every command; fit_keys and test_keys for one kind
tests: [{}]                          # what every method is tested on; {} is the recipe's own protocol and data
runs:                                # each may set anew all of the above but `recipes`, whose keys are joined
  - methods: [igr, "geco*"]          # names of recipes, or patterns
    ablations:                       # further rows: an overlay, several of them, or keys with a name
      - igr-no-garmnet
      - {name: tau-0.1, keys: {model.init_args.tau: 0.1}}
    tests:
      - {protocol: vtoff-tiny}
      - {protocol: vtoff-igr-street, overlays: [street], data: StreetTryOn, keys: {}}
      - {name: guidance-2.0, keys: {model.init_args.guidance_scale: 2.0}}   # a further row of the same training
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fashiongen.benchmark.facts import Facts, obstacle, placed
from fashiongen.errors import UserError

Describe = Callable[[list[list[str]]], tuple[list[Facts], int]]
"""Returns the facts of commands and how many GPUs there are."""

KINDS = ("fit", "test")
KEYS: dict[str, type] = {"limits": dict, "keys": dict, "fit_keys": dict, "test_keys": dict}
SHARED: dict[str, type] = {"seeds": list, "overlays": list, "tests": list, **KEYS}
SUITE: dict[str, type] = {"suite": str, "recipes": str, "runs": list, **SHARED}
RUN: dict[str, type] = {"methods": list, "ablations": list, **SHARED}
TEST: dict[str, type] = {"name": str, "protocol": str, "data": str, "overlays": list, "keys": dict}
ABLATION: dict[str, type] = {"name": str, "overlays": list, "keys": dict}
LONGEST = 200
"""Bytes of a node's name: file systems allow 255, and some are added."""
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One training or one test.

    Attributes:
        id: names it, and its folder.
        kind: fit or test.
        method: name of its recipe.
        overlays: names of its overlays and ablations.
        seed: of everything that is drawn.
        arguments: of the command line, without the program and what is known only when it runs: checkpoints.
        parents: ids of the nodes whose checkpoints it takes, by role; `checkpoint` is what a test judges.
        task: of a test.
        protocol: of a test.
        dataset: what records call its data.
        needs: what its data must offer.
        content: hash of its settings, data and seed, without its parents'.
        limit: seconds that it may take; None: any.
        gpus: how many it takes.
        checkpoint: where a fit writes its last checkpoint, relative to its folder.
        trust: whether checkpoints are DeepSpeed's folders.
        skipped: why it cannot run.
    """

    id: str
    kind: Literal["fit", "test"]
    method: str
    overlays: list[str]
    seed: int
    arguments: list[str]
    parents: dict[str, str] = field(default_factory=dict)
    task: str = ""
    protocol: str = ""
    dataset: str = ""
    needs: list[str] = field(default_factory=list)
    content: str = ""
    limit: float | None = None
    gpus: int = 0
    checkpoint: str | None = None
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
    """A method with its overlays: what is trained once a seed and tested by each of `tests`."""

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
        """Return the files and further keys of its command line."""
        test = test or {}
        configs = [self.recipe, *self.files, *test.get("files", [])]
        keys = {**self.run["keys"], **self.run[f"{kind}_keys"], **self.keys, **test.get("keys", {})}
        if "protocol" in test:
            keys["evaluate.protocol"] = test["protocol"]
        return configs, keys

    def command(self, kind: str, test: dict[str, Any] | None = None) -> list[str]:
        """Return what describes the row: its command line without seed, checkpoints and place."""
        configs, keys = self.settings(kind, test)
        return [
            kind,
            *(arg for path in configs for arg in ("--config", str(path))),
            *(arg for key in keys for arg in (f"--{key}", _text(keys[key]))),
        ]


def read_suite(path: Path) -> dict[str, Any]:
    """Read a suite and check its keys.

    Raises:
        UserError: if it cannot be read, or a key is unknown, missing or of another type.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the YAML file of a suite, such as benchmarks/suites/tiny-smoke.yaml") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    suite = _checked(content, SUITE, str(path), required=("suite", "recipes", "runs"))
    if not SAFE.fullmatch(suite["suite"]):
        raise UserError(f"{path}: suite: {suite['suite']!r} must be letters, digits, `.`, `_` and `-`")
    suite = _with_defaults(suite, {"seeds": [0], "tests": [{}]})
    runs = []
    for number, entry in enumerate(suite["runs"], start=1):
        place = f"{path}: run {number}"
        run = _checked(entry, RUN, place, required=("methods",))
        merged = {**{key: suite[key] for key in SHARED}, **run}
        for keys in KEYS:
            merged[keys] = {**suite[keys], **run.get(keys, {})}
        merged["ablations"] = [_ablation(ablation, place) for ablation in run.get("ablations", [])]
        merged["tests"] = [_checked(test, TEST, f"{place}: tests") for test in merged["tests"]]
        for name in [name for test in merged["tests"] for name in (test.get("name"), test.get("data")) if name is not None]:
            if not SAFE.fullmatch(name):
                raise UserError(f"{place}: tests: {name!r} must be letters, digits, `.`, `_` and `-`")
        if not merged["seeds"] or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in merged["seeds"]):
            raise UserError(f"{place}: seeds: {merged['seeds']} must be whole numbers from 0")
        for key, value in merged["limits"].items():
            if key not in KINDS or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise UserError(f"{place}: limits: {key}: {value}: must be fit or test with a number of seconds above 0")
        runs.append({**merged, "place": place})
    return {**suite, "runs": runs}


def make_plan(file: Path, describe: Describe, *, available: Callable[[int], int | None] = lambda gpus: gpus) -> Plan:
    """Return the graph of a suite.

    Args:
        file: the suite.
        describe: tells the facts of command lines.
        available: how many GPUs a node may have, given how many this machine has; None: not known.

    Raises:
        UserError: if the suite is wrong, or names what is not there.
    """
    suite = read_suite(file)
    folder = (file.parent / suite["recipes"]).resolve()
    if not folder.is_dir():
        raise UserError(f"{file}: recipes: {folder}: no such folder; it is taken relative to the suite's own")
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
                    raise UserError(f"{run['place']}: {row.name}: the suite has this row twice: take one out, or name its overlays apart")
                rows[row.name] = row
    for row in list(rows.values()):
        _add_parents(row, rows, _overlay_files(row.run["overlays"], folder, file))
    commands = {f"fit {row.name}": row.command("fit") for row in rows.values()}
    commands |= {f"test {row.name} {number}": row.command("test", test) for row in rows.values() for number, test in enumerate(row.tests)}
    found, there = describe(list(commands.values()))
    gpus = available(there)
    facts = dict(zip(commands, (placed(one, gpus) for one in found), strict=True))
    nodes: dict[str, Node] = {}
    for row in rows.values():
        for seed in row.seeds:
            _add_fit(row, seed, rows, facts, nodes, gpus)
            for number, test in enumerate(row.tests):
                node = _test_node(row, seed, test, facts[f"test {row.name} {number}"], facts[f"fit {row.name}"], gpus)
                if node.id in nodes:
                    raise UserError(f"{row.run['place']}: two tests would be {node.id}: tell them apart by `name: NAME`")
                nodes[node.id] = node
    for name in nodes:
        if len(name.encode()) > LONGEST:
            raise UserError(f"{file}: {name} is too long for the name of a folder: shorten the names of overlays, ablations, tests or data")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Plan(suite=suite["suite"], file=str(file.resolve()), sha256=sha256, nodes=list(nodes.values()))


def _add_parents(row: _Row, rows: dict[str, _Row], files: list[Path]) -> None:
    """Add the rows that a row starts from.

    They have the overlays and keys of its run, but for the method's own keys, and neither its ablation nor tests unless they are listed.
    """
    own = {name: {key: value for key, value in row.run[name].items() if not key.startswith("model.")} for name in ("keys", "fit_keys")}
    for parent in row.parents.values():
        path = row.recipe.with_name(f"{parent}.yaml")
        if not path.is_file():
            raise UserError(f"{row.recipe}: parents: {parent}: there is no {path}")
        found = _row(path, {**row.run, **own}, row.run["overlays"], files, {})
        known = rows.setdefault(found.name, found)
        if known is found:
            _add_parents(found, rows, files)
        elif known.settings("fit") != found.settings("fit"):
            raise UserError(
                f"{row.run['place']}: {row.name} starts from {found.name}, which the suite trains with other overlays or keys "
                f"({known.run['place']}): give both the same, or one an overlay of another name"
            )


def _add_fit(row: _Row, seed: int, rows: dict[str, _Row], facts: dict[str, Facts], nodes: dict[str, Node], gpus: int | None) -> None:
    """Add the training of a row, its parents' first; a method that does not learn has none."""
    found, name = facts[f"fit {row.name}"], f"fit--{row.name}--seed{seed}"
    if name in nodes or not found.learns:
        return
    parents = {}
    for role, parent in row.parents.items():
        above = rows["+".join([parent, *_names(row.run["overlays"])])]
        _add_fit(above, seed, rows, facts, nodes, gpus)
        parents[role] = f"fit--{above.name}--seed{seed}"
        if parents[role] not in nodes:
            raise UserError(f"{row.recipe}: parents: {parent} does not learn, so that there is no checkpoint to start from")
    if found.checkpoint is None:
        raise UserError(f"{row.recipe}: its ModelCheckpoint must have a dirpath and save_last: true, else no checkpoint is found")
    arguments = [*row.command("fit"), *_where(found), "--seed_everything", str(seed)]
    nodes[name] = Node(
        id=name,
        kind="fit",
        arguments=[*arguments, *(["--data.init_args.seed", str(seed)] if found.seeded_data else [])],
        parents=parents,
        checkpoint=found.checkpoint,
        skipped=obstacle(found, "fit", gpus),
        **_common(row, seed, found),
    )


def _test_node(row: _Row, seed: int, test: dict[str, Any], found: Facts, fit: Facts, gpus: int | None) -> Node:
    data, named = test.get("data", found.dataset), [test["name"]] if "name" in test else []
    return Node(
        id=f"test--{'+'.join([row.name, *named])}--seed{seed}--{found.protocol or found.task}--{data}",
        kind="test",
        arguments=[*row.command("test", test), *_where(found), "--seed_everything", str(seed)],
        parents={"checkpoint": f"fit--{row.name}--seed{seed}"} if fit.learns else {},
        task=found.task,
        protocol=found.protocol,
        skipped=obstacle(found, "test", gpus),
        **{**_common(row, seed, found), "overlays": [*row.overlays, *named]},
    )


def _common(row: _Row, seed: int, found: Facts) -> dict[str, Any]:
    kind = "test" if found.task else "fit"
    return {
        "method": row.method,
        "overlays": row.overlays,
        "seed": seed,
        "dataset": found.data_name,
        "needs": found.needs,
        "content": hashlib.sha256(f"{found.content} {seed}".encode()).hexdigest(),
        "limit": row.run["limits"].get(kind),
        "gpus": found.gpus,
        "trust": found.deepspeed,
    }


def _where(found: Facts) -> list[str]:
    return [arg for key, path in found.absolute.items() for arg in (f"--{key}", path)]


def _row(recipe: Path, run: dict[str, Any], overlays: list[str], files: list[Path], keys: dict[str, Any]) -> _Row:
    parents: dict[str, str] = {}
    for path in (recipe, *files):  # the last one that says so wins, as in the command line
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
        places = [suite.parent / name] if "/" in name else [place / "overlays" / f"{name}.yaml" for place in (folder, folder.parent)]
        file = next((place.resolve() for place in places if place.is_file()), None)
        if file is None:
            raise UserError(f"{suite}: overlays: {name}: there is no {places[-1]}")
        files.append(file)
    return files


def _ablation(entry: object, place: str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"overlays": [entry], "keys": {}}
    if isinstance(entry, list) and entry and all(isinstance(name, str) for name in entry):
        return {"overlays": entry, "keys": {}}
    found = _checked(entry, ABLATION, f"{place}: ablations", required=("name",))
    if not SAFE.fullmatch(found["name"]):
        raise UserError(f"{place}: ablations: name: {found['name']!r} must be letters, digits, `.`, `_` and `-`")
    return {"name": found["name"], "overlays": found.get("overlays", []), "keys": found.get("keys", {})}


def _checked(content: object, known: dict[str, type], place: str, required: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{place}: holds no keys; it may have: {', '.join(known)}")
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}; it may have: {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise UserError(f"{place}: {key}: {value!r} must be a {_WORDS[known[key]]}")
    for key in required:
        if not content.get(key):
            raise UserError(f"{place}: lacks the key {key!r}")
    if not all(isinstance(name, str) for name in [*content.get("overlays", []), *content.get("methods", [])]):
        raise UserError(f"{place}: overlays and methods must be lists of names")
    return content


_WORDS: dict[type, str] = {str: "text", list: "list", dict: "mapping"}


def _with_defaults(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {**{key: kind() for key, kind in SHARED.items()}, **defaults, **content}


def _text(value: Any) -> str:  # noqa: ANN401  any YAML value
    return value if isinstance(value, str) else json.dumps(value)
