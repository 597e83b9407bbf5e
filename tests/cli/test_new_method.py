"""`fashiongen new method` writes a method whose test passes and which the benchmark runs from the user's own package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fashiongen import shipped
from fashiongen.cli import main, new_method
from fashiongen.records import Record

ROOT = Path(__file__).parents[2]


def complaint(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(["new", "method", *map(str, args)])
    text = capsys.readouterr().err
    assert stop.value.code == 2 and text.count("\n") == 1
    return text


def run(folder, *args):
    """Run a module in a folder, like a user who has fashiongen installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", *args], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder outside of the tree with a new method in it."""
    folder = tmp_path_factory.mktemp("research")
    main(["new", "method", "garment_painter", "--out", str(folder)])
    return folder


def test_its_own_test_passes(mine):
    done = run(mine, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_garment_painter.py")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.mark.slow  # four processes; tests/benchmark/test_plugins.py runs the like with toys
def test_the_benchmark_runs_it_by_its_class_path(mine):
    """A suite next to the user's own recipes: its nodes run in separate folders and still find the package."""
    suite = {
        "suite": "mine",
        "recipes": "recipes/tiny",
        "keys": {"data.init_args.people": 24, "data.init_args.validation": 2, "data.init_args.eval_batch_size": 8},
        "fit_keys": {
            "trainer.max_steps": 2,
            "trainer.val_check_interval": 1,
            "trainer.callbacks.init_args.every_n_train_steps": 2,
        },
        "runs": [{"methods": ["garment_painter"]}],
    }
    (mine / "mine.yaml").write_text(yaml.safe_dump(suite))
    done = run(mine, "fashiongen", "bench", "run", "mine.yaml", "--out", "results")
    records = {path.parent.name: Record.read(path) for path in (mine / "results" / "nodes").glob("*/record.json")}
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert sorted((record.kind, record.status, record.method) for record in records.values()) == [
        ("fit", "ok", "garment_painter"),
        ("test", "ok", "garment_painter"),
    ]


def test_inside_a_package_it_becomes_part_of_it(tmp_path):
    package = tmp_path / "lab" / "methods"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    main(["new", "method", "one", "--out", str(package)])
    recipe = yaml.safe_load((tmp_path / "recipes" / "tiny" / "one.yaml").read_text())
    assert recipe["model"]["class_path"] == "lab.methods.one.One"
    assert "from lab.methods.one.network import" in (package / "one" / "module.py").read_text()
    assert (tmp_path / "tests" / "test_one.py").is_file()


def test_in_a_checkout_it_is_written_next_to_the_others(tmp_path, monkeypatch, capsys):
    checkout = tmp_path / "checkout"
    for name in ("pyproject.toml", "recipes/igr.yaml"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(new_method, "__file__", str(checkout / "fashiongen" / "cli" / "new_method.py"))
    monkeypatch.setattr(shipped, "__file__", str(checkout / "fashiongen" / "shipped.py"))
    main(["new", "method", "two_words"])
    assert "fashiongen fit --config tiny/two_words" in capsys.readouterr().out
    written = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    folder = "fashiongen/methods/two_words"
    assert written - {"pyproject.toml", "recipes/igr.yaml"} == {
        *(f"{folder}/{name}" for name in ("__init__.py", "module.py", "network.py", "README.md")),
        *("recipes/two_words.yaml", "recipes/tiny/two_words.yaml", "tests/methods/test_two_words.py"),
    }
    for path in sorted(path for name in written for path in [checkout / name] if path.suffix == ".py"):
        compile(path.read_text(), path, "exec")
        assert "$" not in path.read_text()
    for recipe in ("recipes/two_words.yaml", "recipes/tiny/two_words.yaml"):
        class_path = yaml.safe_load((checkout / recipe).read_text())["model"]["class_path"]
        assert class_path == "fashiongen.methods.two_words.TwoWords"
    assert "the name igr is taken by the recipe igr" in complaint(capsys, "igr")


@pytest.mark.parametrize("name", ["Painter", "two-words", "1st", "class", "a.b", "../up", ""])
def test_invalid_names_are_refused(name, tmp_path, capsys):
    assert "cannot be a method's name" in complaint(capsys, name, "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_that_would_hide_a_package(tmp_path, capsys):
    assert "a module called numpy is installed already" in complaint(capsys, "numpy", "--out", tmp_path)


def test_a_folder_that_is_no_package_cannot_hold_it(tmp_path, capsys):
    folder = tmp_path / "my-lab"
    folder.mkdir()
    (folder / "__init__.py").touch()
    assert "'my-lab'" in (line := complaint(capsys, "one", "--out", folder)) and "cannot import it" in line
    assert [path.name for path in tmp_path.rglob("*")] == ["my-lab", "__init__.py"]


# A folder one/ would hide the module one.py.
@pytest.mark.parametrize("there", ["tests/test_one.py", "one/notes.txt", "recipes/tiny/one.yaml", "one.py"])
def test_nothing_is_overwritten(there, tmp_path, capsys):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("precious")
    assert "exists, and nothing is overwritten" in complaint(capsys, "one", "--out", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / there]


def test_without_a_checkout_a_folder_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(new_method, "__file__", str(tmp_path / "site-packages" / "fashiongen" / "cli" / "new_method.py"))
    assert "give the folder of your own code by --out DIR" in complaint(capsys, "one")
