"""The modules that a number depends on: found by reading, without those that only stand beside them."""

import shutil
from pathlib import Path

import pytest

from fashiongen import closure as module
from fashiongen.closure import closure, forget, of_objects, read
from fashiongen.methods.baselines import White

FILES = {
    "__init__": "__version__ = '1'",
    "errors": "",
    "nn/__init__": "from fashiongen.nn.one import One\nfrom fashiongen.nn.two import Two, helper\n__all__ = ['One']",
    "nn/one": "import torch\nfrom .deep import x",
    "nn/two": "import numpy.linalg as la",
    "nn/deep": "def f():\n    import json\n    from fashiongen import errors",
    "data/__init__": "from fashiongen.data.a import A\nif not TYPE_CHECKING:\n    def __getattr__(name): ...",
    "data/a": "import typing\nif typing.TYPE_CHECKING:\n    from fashiongen.data.b import B\nelse:\n    from fashiongen.errors import E",
    "data/b": "",
    "does/__init__": "from fashiongen.nn import helper\nREGISTRY = {}",
    "does/part": "",
    "by_name": "from fashiongen.nn import One",
    "by_attribute": "from fashiongen import nn\nnn.Two()",
    "by_both": "from fashiongen import nn\nnn.Two()\nprint(nn)",
    "by_module": "import fashiongen.nn",
    "by_star": "from fashiongen.nn import *",
    "by_child": "from fashiongen.does.part import y",
    "by_itself": "from fashiongen.data.a import A",
    "by_turns": "def f():\n  from fashiongen.data import b as x\n  x.B()\ndef g():\n  from fashiongen.nn import two as x\n  x.Two()",
    "broken": "def (",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    yield tmp_path
    forget()


@pytest.mark.parametrize(
    ("name", "modules", "libraries"),
    [
        ("by_name", {"by_name", "nn.one", "nn.deep", "errors"}, {"torch", "json"}),
        ("by_attribute", {"by_attribute", "nn.two"}, {"numpy"}),
        ("by_both", {"by_both", "nn.one", "nn.two", "nn.deep", "errors"}, {"torch", "json", "numpy"}),
        ("by_module", {"by_module", "nn.one", "nn.two", "nn.deep", "errors"}, {"torch", "json", "numpy"}),
        ("by_star", {"by_star", "nn.one", "nn.two", "nn.deep", "errors"}, {"torch", "json", "numpy"}),
        ("by_child", {"by_child", "does", "does.part", "nn.two"}, {"numpy"}),
        ("by_itself", {"by_itself", "data.a", "errors"}, {"typing"}),
        ("by_turns", {"by_turns", "data.b", "nn.two"}, {"numpy"}),
        ("broken", {"broken"}, set()),
    ],
)
def test_what_is_imported_counts_and_nothing_else(package, name, modules, libraries):
    found = closure([(f"fashiongen.{name}", None)], package)
    assert {source.removeprefix("fashiongen.") for source in found.sources} == modules
    assert found.libraries == libraries


def test_a_name_is_found_where_it_is_defined(package):
    assert set(closure([("fashiongen.nn", "Two")], package).sources) == {"fashiongen.nn.two"}
    assert set(closure([("fashiongen.nn", "deep")], package).sources) == {"fashiongen.nn.deep", "fashiongen.errors"}
    assert closure([("torch.nn", "Linear")], package).libraries == {"torch"}


def test_base_classes_count():
    assert {"fashiongen.methods.baselines.try_off", "fashiongen.methods.base"} <= set(of_objects(White()).sources)


@pytest.fixture
def copy(tmp_path):
    """A copy of this package's code, to be edited."""
    shutil.copytree(module.ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    yield tmp_path / "copy"
    forget()


IGR = [("fashiongen.methods.igr", "IGR"), ("fashiongen.data", "VITONHD"), ("fashiongen.cli.lightning", None)]


def igr(root: Path) -> str:
    forget()
    return closure(IGR, root).sha256


def test_what_stands_beside_changes_no_key_and_an_edit_of_what_is_used_does(copy):
    before = igr(copy)
    assert before == closure(IGR).sha256  # wherever the package lies
    shutil.copytree(copy / "methods" / "bpr_dae", copy / "methods" / "mine")
    for file in ("data/mine.py", "metrics/mine.py", "tasks/mine.py", "wardrobe/mine.py", "nn/parts/mine.py", "methods/igr/README.md"):
        (copy / file).write_text("from fashiongen.errors import UserError\n")
    exports = {"data": "Mine", "metrics": "Mine", "nn/parts": "mine", "evaluation": "Mine"}
    for folder, name in exports.items():
        file = copy / folder / "__init__.py"
        file.write_text(f"{file.read_text()}\nfrom fashiongen.{folder.replace('/', '.')}.mine import {name}\n")
    for file in ("methods/bpr_dae/module.py", "benchmark/leaderboard.py", "cli/arguments.py", "cli/commands.py", "retrieval/search.py"):
        (copy / file).write_text((copy / file).read_text() + "\nX = 1\n")
    assert igr(copy) == before
    (copy / "nn" / "noise.py").write_text((copy / "nn" / "noise.py").read_text() + "\n")
    assert igr(copy) != before


def test_what_is_used_is_known():
    used = {name.removeprefix("fashiongen.") for name in closure(IGR).sources}
    parts = {
        "methods.igr.network",
        "methods.base",
        "nn.noise",
        "nn.parts.schedule",
        "data.vitonhd",
        "data.loading",
        "data.quality",
        "records",
    }
    assert parts | {"evaluation.evaluate", "intervals", "cli.saving"} <= used


def test_the_shipped_weights_that_a_file_names_are_known(tmp_path):
    text = """
from fashiongen.checkpoints import locate, locate_file as find, tiny_weights
from fashiongen.data.listing import locate as other
def f(value, name):
    locate(value); locate(value, "clip"); find(value)
    find(value, tiny="ip/x.safetensors"); find(value, f"{name}/y"); tiny_weights() / "judge"
    other(value, "no")
"""
    (tmp_path / "a.py").write_text(text)
    assert read(tmp_path / "a.py", "a").shipped == {"sd", "clip", "ip/x.safetensors", "", "judge"}
    (tmp_path / "b.py").write_text("from fashiongen.checkpoints import locate_file\nlocate_file(given)\n")
    assert read(tmp_path / "b.py", "b").shipped == set(), "a file that has no tiny one"
