import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from fashiongen.batches import to_float
from fashiongen.cli import main
from fashiongen.errors import UserError
from fashiongen.methods.base import Method
from fashiongen.retrieval.search import page, retrieve, run

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "dark red": (150, 0, 0)}


class Colours(Method):
    """Prefers the top's colour, and draws it as the template."""

    name: ClassVar[str] = "colours"
    draws_templates: ClassVar[bool] = True
    inner_product: ClassVar[bool] = False

    def __init__(self):
        super().__init__()
        self.embedded = []

    def embed_query(self, batch):
        return to_float(batch.top).mean(dim=(2, 3))

    def embed_candidate(self, batch):
        self.embedded += batch.ids
        return to_float(batch.bottom).mean(dim=(2, 3))

    def score(self, query, candidate):
        return -torch.cdist(query, candidate)

    def draw_template(self, batch):
        return to_float(batch.top)


class Products(Colours):
    inner_product: ClassVar[bool] = True

    def score(self, query, candidate):
        return query @ candidate.T


class Data:
    size = (8, 8)
    eval_batch_size = 3


@pytest.fixture
def place(tmp_path):
    """A catalogue with a damaged image and one in a folder below, and a query."""
    (tmp_path / "catalogue" / "more").mkdir(parents=True)
    for name, colour in COLOURS.items():
        folder = tmp_path / "catalogue" / ("more" if name == "red" else "")
        Image.new("RGB", (20, 30), colour).save(folder / f"{name}.png")
    (tmp_path / "catalogue" / "broken.jpg").write_text("no image")
    Image.new("RGB", (20, 30), (250, 10, 10)).save(tmp_path / "<top>.jpg")
    return tmp_path


def rank(method, place, **options):
    options = {"size": (8, 8), "batch_size": 3, **options}  # four images: a whole batch and a part
    return retrieve(method, [place / "<top>.jpg"], place / "catalogue", cache=place / "cache", **options)


def test_the_nearest_come_first_and_damage_is_reported(place):
    with pytest.warns(UserWarning, match=r"left out of the catalogue.*broken\.jpg"):
        found = rank(Colours(), place, top=3)
    assert [hit.path.stem for hit in found.hits[0]] == ["red", "dark red", "green"]
    assert found.hits[0][0].score > found.hits[0][1].score > found.hits[0][2].score
    assert found.templates.shape == (1, 3, 8, 8) and (found.size, found.recall) == (4, None)


@pytest.mark.filterwarnings("ignore:left out")
def test_each_image_is_encoded_once_until_it_changes(place):
    method, folder = Colours(), place / "catalogue"
    first = rank(method, place)
    assert sorted(method.embedded) == sorted(COLOURS) and len(first.hits[0]) == 4
    assert rank(method, place).hits == first.hits
    assert len(method.embedded) == 4
    method.embedded.clear()
    Image.new("RGB", (20, 30), (255, 0, 0)).save(folder / "blue.png")
    (folder / "green.png").rename(folder / "more" / "green.png")
    Image.new("RGB", (20, 30), (9, 9, 9)).save(folder / "black.png")
    (folder / "dark red.png").unlink()
    second = rank(method, place)
    assert sorted(method.embedded) == ["black", "blue"]
    assert {hit.path.stem for hit in second.hits[0][:2]} == {"red", "blue"}
    assert second.hits[0][0].score == second.hits[0][1].score
    assert second.hits[0][-1].path == folder / "more" / "green.png" and second.size == 4


@pytest.mark.filterwarnings("ignore:left out")
def test_an_index_says_what_it_misses(place):
    pytest.importorskip("faiss")
    found = rank(Products(), place, index="hnsw", top=2)
    assert [hit.path.stem for hit in found.hits[0]] == [hit.path.stem for hit in rank(Products(), place, top=2).hits[0]]
    assert (found.recall, found.judged) == (1.0, 1)


def test_an_index_that_does_not_suit_the_method_is_refused_before_any_work(place):
    method = Colours()
    with pytest.raises(UserError, match=r"--index ivf needs a score that is an inner product, and colours's is not: use --index exact"):
        rank(method, place, index="ivf")
    assert not method.embedded and not (place / "cache").exists()


@pytest.mark.filterwarnings("ignore:left out")
def test_the_page_contains_query_template_and_hits(place, capsys):
    run(Colours(), Data(), place / "<top>.jpg", place / "catalogue", 10, place / "page.html")
    text = (place / "page.html").read_text()
    assert re.findall(r'<figure class="(\w+)">', text) == ["query", "template", "hit", "hit", "hit", "hit"]
    assert "&lt;top&gt;.jpg" in text and "<top>" not in text
    assert not re.search(r'src="(?!data:image/png;base64,)', text)
    assert "1. red.png" in text
    assert "wrote" in capsys.readouterr().out


def test_mistakes_are_user_errors_in_one_line(place, tmp_path):
    with pytest.raises(UserError, match=r"no image in this folder"):
        run(Colours(), Data(), place / "<top>.jpg", tmp_path / "nothing", 10, place / "page.html")
    with pytest.raises(UserError, match="cannot rank bottoms"):
        run(Method(), Data(), place / "<top>.jpg", place / "catalogue", 10, place / "page.html")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no image")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="cannot read any of its 1 images"):
        run(Colours(), Data(), place / "<top>.jpg", tmp_path / "bad", 10, place / "page.html")
    assert not (place / "page.html").exists()
    assert page([], [], None, "a < b").count("a &lt; b") == 2


def test_the_command_ranks_with_a_recipe(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "catalogue" / "broken.jpg").unlink()
    monkeypatch.setenv("FASHIONGEN_CACHE", str(place / "own"))
    recipe = str(Path(__file__).parents[2] / "recipes" / "tiny" / "colour_neighbour.yaml")
    wanted = ["retrieve", "--config", recipe, "--query", "<top>.jpg", "--catalogue", "catalogue", "--out", "page.html"]
    assert main([*wanted, "--top", "2"]) is None
    assert (place / "page.html").read_text().count('class="hit"') == 2
    assert "1. red.png" in (place / "page.html").read_text()
    assert main([*wanted, "--index", "hnsw", "--cache", "elsewhere"]) is None
    assert "hnsw: recall@10 1.000 against exact, over 1 queries" in capsys.readouterr().out
    assert len(list((place / "elsewhere").iterdir())) == len(list((place / "own" / "catalogues").iterdir())) == 1
    assert main([*wanted, "--model.bins", "3"]) is None
    assert len(list((place / "own" / "catalogues").iterdir())) == 2
    for extra, told in (
        (["--top", "0"], "--top 0"),
        (["--effort", "0"], "--effort 0"),
        (["--index", "best"], "invalid choice: 'best'"),
        (["--model.none", "1"], "unknown key 'none'"),
        (["--ckpt_path", "x.ckpt"], "x.ckpt: no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*wanted, *extra])
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
