"""What nodes can import."""

import os

from fashiongen.benchmark import program


def test_nodes_find_what_a_relative_pythonpath_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"mine{os.pathsep}/elsewhere")
    assert program.python_path().split(os.pathsep)[1:] == [str(tmp_path / "mine"), "/elsewhere"]
