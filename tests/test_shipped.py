"""Names of recipes, overlays, protocols and suites become paths, and a path that exists wins."""

import doctest
import shutil
from pathlib import Path

import pytest

from fashiongen import shipped
from fashiongen.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("igr", "recipes/igr.yaml"),
        ("tiny/igr", "recipes/tiny/igr.yaml"),
        ("overlays/zero2", "recipes/overlays/zero2.yaml"),
        ("zero2", "recipes/overlays/zero2.yaml"),
        ("geco-tau-0.1", "recipes/overlays/geco-tau-0.1.yaml"),
        ("tasks/strict", "recipes/tasks/strict.yaml"),
    ],
)
def test_a_name_is_found_from_any_folder(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir(parents=True)  # a folder of that name is not meant
    assert shipped.find_config(name) == ROOT / path
    assert shipped.label(shipped.find_config(name)) == path


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("igr").write_text("model: {}")
    assert shipped.find_config("igr") == Path("igr")
    Path("tiny.yaml").write_text("suite: mine")
    assert shipped.find_suite("tiny.yaml") == Path("tiny.yaml")
    assert shipped.find_suite("tiny") == ROOT / "benchmarks" / "suites" / "tiny.yaml"


def test_a_name_that_looks_like_a_path_is_left_to_its_reader():
    for given in ("lost.yaml", "./igr", "/igr", "recipes/lost.yml"):
        assert shipped.find_config(given) == Path(given)


@pytest.mark.parametrize(
    ("name", "similar"), [("igrr", "igr"), ("tiny/igrr", "tiny/igr"), ("white", "tiny/white"), ("zero-2", "overlays/zero2")]
)
def test_an_unknown_name_is_one_line_with_those_like_it(name, similar):
    with pytest.raises(UserError, match=rf"--config {name}: .*did you mean .*{similar}\b.*`fashiongen recipes` lists") as error:
        shipped.find_config(name)
    assert "\n" not in str(error.value)


def test_an_unknown_name_like_no_other():
    with pytest.raises(UserError, match="no such name; `fashiongen recipes` lists"):
        shipped.find_suite("xxxxxxxx")


def test_bare_names_are_unambiguous():
    names = [entry.name for entry in [*shipped.list_recipes(), *shipped.list_overlays()]]
    assert len(names) == len(set(names))


def test_everything_shipped_is_listed_and_described_in_a_sentence():
    entries = [*shipped.list_recipes(), *shipped.list_overlays(), *shipped.list_protocols(), *shipped.list_suites()]
    files = [*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "benchmarks" / "suites").glob("*.yaml")]
    assert sorted(entry.path for entry in entries) == sorted(files)
    assert [entry.name for entry in entries if not 15 < len(entry.description) < 250] == []


def test_protocols_and_overlays_next_to_a_users_own_recipe_come_first(tmp_path):
    recipe = tmp_path / "mine" / "toy.yaml"
    for folder, find in (("tasks", shipped.find_protocol), ("overlays", shipped.find_overlay)):
        beside = recipe if find is shipped.find_protocol else recipe.parent
        name = "strict" if folder == "tasks" else "smoke"
        assert find(name, beside) == ROOT / "recipes" / folder / f"{name}.yaml"
        (tmp_path / folder).mkdir()
        own = tmp_path / folder / f"{name}.yaml"
        own.write_text("evaluate: {}")
        assert find(name, beside) == own
        assert find("absent", beside) is None


def test_an_installed_package_has_its_own_copies(tmp_path, monkeypatch):
    package = tmp_path / "fashiongen"
    shutil.copytree(ROOT / "recipes", package / "share" / "recipes")
    monkeypatch.setattr(shipped, "__file__", str(package / "shipped.py"))
    assert shipped.find_config("tiny/igr") == package / "share" / "recipes" / "tiny" / "igr.yaml"
    assert shipped.label(shipped.find_config("tiny/igr")) == "recipes/tiny/igr.yaml"


def test_examples():
    assert doctest.testmod(shipped).failed == 0
