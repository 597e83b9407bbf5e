"""What nodes can import."""

import os
import sys
from pathlib import Path

from fashiongen.benchmark import program

ROOT = Path(__file__).parents[2]


def test_nodes_find_the_entries_of_a_relative_pythonpath(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}/elsewhere")
    assert program.python_path().split(os.pathsep)[1:] == [str(tmp_path / "mine"), "/elsewhere"]


def test_nodes_import_from_the_current_folder_where_this_process_does(tmp_path, monkeypatch):
    """As with `python -m fashiongen`: nodes run in other folders, where the current folder is not the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    package, elsewhere = str(ROOT), [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    for path, expected in ((["", *elsewhere], [package, str(tmp_path)]), ([str(tmp_path), *elsewhere], [package, str(tmp_path)])):
        monkeypatch.setattr(sys, "path", path)
        assert program.python_path().split(os.pathsep) == expected
    monkeypatch.setattr(sys, "path", elsewhere)
    assert program.python_path() == package


def test_an_installed_package_needs_no_extra_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "__file__", str(tmp_path / "site-packages" / "fashiongen" / "benchmark" / "program.py"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert program.python_path() is None
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert program.python_path() == str(tmp_path / "mine")
