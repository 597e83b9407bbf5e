"""Suites: a YAML file that selects recipes, seeds, overlays, ablations and tests.

suite: tiny                          # its name
recipes: ../../recipes/tiny          # the folder of recipes, relative to this file
seeds: [0]
overlays: [bf16]                     # added to every command; found in `overlays/` inside or next to that folder, or shipped
limits: {fit: 3600, test: 600}       # seconds per node
keys: {}                             # extra keys for every command; fit_keys and test_keys for one kind
tests: [{}]                          # what every method is tested on; {} is the recipe's own protocol and data
runs:                                # each may override all of the above except `recipes`; its keys are added to those above
  - methods: [igr, "geco*"]          # names of recipes, or patterns
    ablations:                       # extra rows: an overlay, a list of overlays, or named keys
      - igr-no-garmnet
      - {name: tau-0.1, keys: {model.init_args.tau: 0.1}}
    tests:
      - {protocol: strict}
      - {protocol: other, overlays: [street], data: StreetTryOn, keys: {}}
      - {name: guidance-2.0, keys: {model.init_args.guidance_scale: 2.0}}   # an extra row for the same trained model
      - {protocol: vton-cycle, garments: [igr, igr+no-garmnet]}   # a try-on test for each of these rows of the suite, after its first test
                                                                  # of another task, data and seed alike: it puts on what that took off
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from fashiongen.errors import UserError

KINDS = ("fit", "test")
KEYS: dict[str, type] = {"limits": dict, "keys": dict, "fit_keys": dict, "test_keys": dict}
SHARED: dict[str, type] = {"seeds": list, "overlays": list, "tests": list, **KEYS}
SUITE: dict[str, type] = {"suite": str, "recipes": str, "runs": list, **SHARED}
RUN: dict[str, type] = {"methods": list, "ablations": list, **SHARED}
TEST: dict[str, type] = {"name": str, "protocol": str, "data": str, "overlays": list, "keys": dict, "garments": list}
ABLATION: dict[str, type] = {"name": str, "overlays": list, "keys": dict}
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read_suite(path: Path) -> dict[str, Any]:
    """Read a suite and check its keys.

    Raises:
        UserError: if the file cannot be read, or a key is unknown, missing or of the wrong type.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the YAML file of a suite, such as benchmarks/suites/tiny-smoke.yaml") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    suite = _checked(content, SUITE, str(path), required=("suite", "recipes", "runs"))
    if not SAFE.fullmatch(suite["suite"]):
        raise UserError(f"{path}: suite: {suite['suite']!r} may only contain letters, digits, `.`, `_` and `-`")
    suite = _with_defaults(suite, {"seeds": [0], "tests": [{}]})
    runs = []
    for number, entry in enumerate(suite["runs"], start=1):
        place = f"{path}: run {number}"
        run = _checked(entry, RUN, place, required=("methods",))
        merged = {**{key: suite[key] for key in SHARED}, **run}
        for keys in KEYS:
            merged[keys] = {**suite[keys], **run.get(keys, {})}
        merged["ablations"] = [_ablation(ablation, place) for ablation in run.get("ablations", [])]
        merged["tests"] = [one for test in merged["tests"] for one in _tests(_checked(test, TEST, f"{place}: tests"), place)]
        for name in [name for test in merged["tests"] for name in (test.get("name"), test.get("data")) if name is not None]:
            if not SAFE.fullmatch(name):
                raise UserError(f"{place}: tests: {name!r} may only contain letters, digits, `.`, `_` and `-`")
        if not merged["seeds"] or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in merged["seeds"]):
            raise UserError(f"{place}: seeds: {merged['seeds']} must be non-negative integers")
        for key, value in merged["limits"].items():
            if key not in KINDS or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise UserError(f"{place}: limits: {key}: {value}: must be fit or test with a number of seconds above 0")
        runs.append({**merged, "place": place})
    return {**suite, "runs": runs}


def _ablation(entry: object, place: str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"overlays": [entry], "keys": {}}
    if isinstance(entry, list) and entry and all(isinstance(name, str) for name in entry):
        return {"overlays": entry, "keys": {}}
    found = _checked(entry, ABLATION, f"{place}: ablations", required=("name",))
    if not SAFE.fullmatch(found["name"]):
        raise UserError(f"{place}: ablations: name: {found['name']!r} may only contain letters, digits, `.`, `_` and `-`")
    return {"name": found["name"], "overlays": found.get("overlays", []), "keys": found.get("keys", {})}


def _tests(entry: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Return a test for each row whose garments it puts on, under `garments`; the test itself without any."""
    names = entry.get("garments")
    if names is None:
        return [entry]
    if not names or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise UserError(f"{place}: tests: garments: {names!r} must be names of try-off rows, each once, such as [igr]")
    return [{**entry, "garments": name} for name in names]


def _checked(content: object, known: dict[str, type], place: str, required: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{place}: has no keys; it may have: {', '.join(known)}")
    for key, value in content.items():
        if key not in known:
            raise UserError(f"{place}: unknown key {key!r}; it may have: {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise UserError(f"{place}: {key}: {value!r} must be a {_WORDS[known[key]]}")
    for key in required:
        if not content.get(key):
            raise UserError(f"{place}: the key {key!r} is missing")
    if not all(isinstance(name, str) for name in [*content.get("overlays", []), *content.get("methods", [])]):
        raise UserError(f"{place}: overlays and methods must be lists of names")
    return content


_WORDS: dict[type, str] = {str: "string", list: "list", dict: "mapping"}


def _with_defaults(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {**{key: kind() for key, kind in SHARED.items()}, **defaults, **content}
