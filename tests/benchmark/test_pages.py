"""The pages of `benchmarks/results`: every generated number agrees with the committed records."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def modules():
    """The modules `pages` and `study`; studies are scripts, so they import each other by name."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "studies"))
    try:
        yield importlib.import_module("pages"), importlib.import_module("study")
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "studies"))


@pytest.fixture
def pages(modules):
    return modules[0]


def test_the_pages_are_what_their_records_say(pages):
    for page in pages.PAGES:
        assert pages.generated(page) == (ROOT / page).read_text(), f"run benchmarks/studies/pages.py: {page} differs"


def test_every_table_of_results_is_generated_from_records(pages):
    for page in sorted(RESULTS.glob("*/README.md")):
        if (page.parent / "records").is_dir():
            assert str(page.relative_to(ROOT)) in pages.PAGES


def test_another_record_is_noticed(pages, tmp_path, monkeypatch, capsys):
    page = "benchmarks/results/fashionvc-lists/README.md"
    shutil.copytree(RESULTS / "fashionvc-lists", tmp_path / "fashionvc-lists")
    packed = tmp_path / "fashionvc-lists" / "records" / "per_sample.npz"
    with np.load(packed) as file:
        arrays = dict(file)
    arrays["random-mgcm/values"] = arrays["random-mgcm/values"] + np.float32(0.01)
    np.savez_compressed(packed, **arrays)
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {page: pages.PAGES[page]})
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    before = (ROOT / page).read_text()
    assert pages.main() == 1
    assert "-| `mgcm` | random | 0.507 " in (said := capsys.readouterr().out) and "+| `mgcm` | random | 0.517 " in said
    assert (ROOT / page).read_text() == before


def test_a_page_without_its_block_is_refused(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "PAGES", {"page.md": {"table": lambda: "x", "other": lambda: "y"}})
    (tmp_path / "page.md").write_text("a\n<!-- generated: table -->\nold\n<!-- end -->\nb\n")
    with pytest.raises(SystemExit, match=r"page\.md: no block `<!-- generated: other -->`"):
        pages.generated("page.md")
    monkeypatch.setattr(pages, "PAGES", {"page.md": {"table": lambda: "x"}})
    assert pages.generated("page.md") == "a\n<!-- generated: table -->\nx\n<!-- end -->\nb\n"


def test_results_are_small_and_name_no_machine():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    for path in files:
        if path.suffix == ".png":
            assert path.stat().st_size <= 200_000, path
        if path.suffix in (".json", ".jsonl", ".md", ".csv"):
            assert not re.search(r"(/tmp|/home|/root|/work|/Users)/", path.read_text()), path


def test_records_are_kept_without_paths_and_read_again(modules, tmp_path):
    study, out = modules[1], tmp_path / "out"
    out.mkdir()
    record = {"command": f"/somewhere/else/fashiongen/__main__.py test --config /somewhere/else/recipes/a.yaml --evaluate.out {out}/a.json"}
    record |= {"data": "/data/set/files", "metrics": {"auc": {"value": 0.5}}}
    (out / "a.json").write_text(json.dumps(record))
    lines = [{"id": "1", "cluster": "t", "auc": 0.25}, {"id": "2", "cluster": "t", "auc": None}]
    (out / "a.per_sample.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "earlier.json").write_text("{}")
    with pytest.raises(SystemExit, match="names /data/set"):
        study.keep(out, tmp_path / "records")
    assert (tmp_path / "records" / "earlier.json").is_file()  # nothing is lost by a refusal
    study.keep(out, tmp_path / "records", Path("/data/set"))
    kept = json.loads((tmp_path / "records" / "a.json").read_text())
    assert (
        kept["command"] == "fashiongen/__main__.py test --config recipes/a.yaml --evaluate.out OUT/a.json" and kept["data"] == "ROOT/files"
    )
    before, after = (study.per_sample(folder, ["a"], "auc") for folder in (out, tmp_path / "records"))
    assert before.ids == after.ids == ["1", "2"] and before.clusters == after.clusters == ["t", "t"]
    np.testing.assert_array_equal(before.values, after.values)


def test_a_grid_is_cut_to_whole_rows(modules, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "grid.png")  # 180 KB
    modules[1].keep_grid(tmp_path / "grid.png", tmp_path / "kept.png", rows=6, limit=100_000)
    kept = np.asarray(Image.open(tmp_path / "kept.png"))
    np.testing.assert_array_equal(kept, noise[:300])
    with pytest.raises(SystemExit, match="one row alone"):
        modules[1].keep_grid(tmp_path / "grid.png", tmp_path / "kept.png", rows=6, limit=1000)
