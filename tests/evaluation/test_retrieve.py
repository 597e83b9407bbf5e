import re
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from fashiongen.batches import to_float
from fashiongen.cli import main
from fashiongen.errors import UserError
from fashiongen.evaluation.retrieve import page, retrieve, run
from fashiongen.methods.base import Method

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "dark red": (150, 0, 0)}


class Colours(Method):
    """Likes what has the top's colour, and draws it as the template."""

    name: ClassVar[str] = "colours"
    generator: ClassVar[bool] = True
    inner_product: ClassVar[bool] = False

    def embed_query(self, batch):
        return to_float(batch.top).mean(dim=(2, 3))

    def embed_candidate(self, batch):
        return to_float(batch.bottom).mean(dim=(2, 3))

    def score(self, query, candidate):
        return -torch.cdist(query, candidate)

    def draw_template(self, batch):
        return to_float(batch.top)


class Data:
    size = (8, 8)
    eval_batch_size = 3


@pytest.fixture
def place(tmp_path):
    """A catalogue with a damaged picture and one in a folder below, and a query."""
    (tmp_path / "catalogue" / "more").mkdir(parents=True)
    for name, colour in COLOURS.items():
        folder = tmp_path / "catalogue" / ("more" if name == "red" else "")
        Image.new("RGB", (20, 30), colour).save(folder / f"{name}.png")
    (tmp_path / "catalogue" / "broken.jpg").write_text("no picture")
    Image.new("RGB", (20, 30), (250, 10, 10)).save(tmp_path / "<top>.jpg")
    return tmp_path


def test_the_nearest_come_first_and_what_is_damaged_is_told(place):
    with pytest.warns(UserWarning, match=r"left out of the catalogue.*broken\.jpg"):
        found, templates = retrieve(Colours(), [place / "<top>.jpg"], place / "catalogue", size=(8, 8), top=3, batch_size=2)
    assert [hit.path.stem for hit in found[0]] == ["red", "dark red", "green"]
    assert found[0][0].score > found[0][1].score > found[0][2].score
    assert templates.shape == (1, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:left out")
def test_the_page_holds_query_template_and_hits_in_itself(place, capsys):
    run(Colours(), Data(), place / "<top>.jpg", place / "catalogue", 10, place / "page.html")
    text = (place / "page.html").read_text()
    assert re.findall(r'<figure class="(\w+)">', text) == ["query", "template", "hit", "hit", "hit", "hit"]
    assert "&lt;top&gt;.jpg" in text and "<top>" not in text
    assert not re.search(r'src="(?!data:image/png;base64,)', text)
    assert "1. red.png" in text
    assert "wrote" in capsys.readouterr().out


def test_mistakes_are_told(place, tmp_path):
    with pytest.raises(UserError, match=r"no picture there"):
        run(Colours(), Data(), place / "<top>.jpg", tmp_path / "nothing", 10, place / "page.html")
    with pytest.raises(UserError, match="cannot rank bottoms"):
        run(Method(), Data(), place / "<top>.jpg", place / "catalogue", 10, place / "page.html")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no picture")
    with pytest.warns(UserWarning), pytest.raises(UserError, match="none of its 1 pictures"):
        run(Colours(), Data(), place / "<top>.jpg", tmp_path / "bad", 10, place / "page.html")
    assert not (place / "page.html").exists()
    assert page([], [], None, "a < b").count("a &lt; b") == 2


def test_the_command_ranks_with_a_recipe(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    (place / "catalogue" / "broken.jpg").unlink()
    recipe = str(Path(__file__).parents[2] / "recipes" / "tiny" / "colour_neighbour.yaml")
    wanted = ["retrieve", "--config", recipe, "--query", "<top>.jpg", "--catalogue", "catalogue", "--out", "page.html"]
    assert main([*wanted, "--top", "2"]) is None
    assert (place / "page.html").read_text().count('class="hit"') == 2
    assert "1. red.png" in (place / "page.html").read_text()
    for extra, told in (
        (["--top", "0"], "--top 0"),
        (["--model.none", "1"], "unknown key 'none'"),
        (["--ckpt_path", "x.ckpt"], "x.ckpt: no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*wanted, *extra])
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
