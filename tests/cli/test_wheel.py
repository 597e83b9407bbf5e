"""The wheel, installed without its dependencies into a separate folder and used from an empty one: names, recipes and types."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """from pathlib import Path

from fashiongen.shipped import find_config

right: Path = find_config("igr")
wrong: int = find_config("igr")
"""

pytest.importorskip("hatchling", reason="the wheel is built without the network, by the hatchling of the extra `test`")


def pip(*args):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, args)]
    subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    return next(folder.glob("fashiongen-*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


@pytest.fixture
def run(site, tmp_path, monkeypatch):
    """Runs the installed package in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*command, status=0):
        done = subprocess.run(
            [sys.executable, *command], env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout

    return run


def test_it_contains_everything_that_commands_read(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("recipes", "benchmarks/suites", "benchmarks/published"):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert files
        assert [path for path in files if f"fashiongen/share/{path.relative_to(ROOT).as_posix()}" not in names] == []
    held = [path for path in (ROOT / "fashiongen").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path for path in held if path.relative_to(ROOT).as_posix() not in names] == []
    assert "fashiongen/py.typed" in names
    assert not {name.split("/")[0] for name in names} - {"fashiongen", Path(wheel).name.rpartition("-py3")[0] + ".dist-info"}


def test_it_knows_its_recipes_and_suites_by_name_in_any_folder(run, site):
    program = "from fashiongen import shipped; print(shipped.find_config('tiny/igr'), shipped.find_suite('tiny-smoke'))"
    share = site / "fashiongen" / "share"
    assert run("-c", program).split() == [str(share / "recipes/tiny/igr.yaml"), str(share / "benchmarks/suites/tiny-smoke.yaml")]
    assert "  tiny/igr " in run("-m", "fashiongen", "recipes")


def test_it_trains_by_name_and_its_record_names_the_recipe(run, tmp_path):
    """The method without training that is fastest to test."""
    run("-m", "fashiongen", "test", "--config", "tiny/white", "--data.init_args.people", "24", "--evaluate.out", "test.json")
    text = (tmp_path / "test.json").read_text()
    assert '"recipe": "recipes/tiny/white.yaml"' in text and '"protocol": "vtoff-tiny"' in text


@pytest.mark.slow
def test_it_lists_a_suite_by_name(run, site):
    listing = run("-m", "fashiongen", "bench", "run", "tiny-smoke", "--dry-run")
    assert "fit--igr+smoke--seed0" in listing and str(site / "fashiongen" / "share" / "recipes" / "tiny" / "igr.yaml") in listing


def test_its_types_are_exported(run, site, tmp_path):
    """Without py.typed, mypy would report missing stubs and find no errors."""
    pytest.importorskip("mypy", reason="mypy is of the extra `dev`")
    (tmp_path / "script.py").write_text(SCRIPT)
    told = run("-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "script.py", status=1)
    errors = [line for line in told.splitlines() if "error:" in line]
    assert len(errors) == 1 and errors[0].startswith('script.py:6: error: Incompatible types in assignment (expression has type "Path"')
