"""The study of samplers: which cost its table names, and the overlay that uses it."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import t

from fashiongen.cli import load
from fashiongen.cli.settings import resolve
from fashiongen.nn.sampling import KARRAS_SAMPLERS

ROOT = Path(__file__).parents[2]
REFERENCE = np.random.default_rng(0).gamma(9.0, 0.1, 60)
NOISE = np.random.default_rng(1).normal(0.0, 1.0, 60)
NOISE -= NOISE.mean() + (NOISE - NOISE.mean()) @ (REFERENCE - REFERENCE.mean()) / (60 * REFERENCE.var()) * (REFERENCE - REFERENCE.mean())


@pytest.fixture(scope="module")
def study():
    """The script `samplers_tiny`; studies import each other by name."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "studies"))
    try:
        yield importlib.import_module("samplers_tiny")
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "studies"))


def worse(share, spread):
    """Return LPIPS of the 60 samples, in the mean `share` above the reference's; `spread` makes the interval wide."""
    return REFERENCE * (1 + share) + spread * NOISE


def write(study, out, run, values):
    """Write a made-up record of a run."""
    method = study.METHODS[run.method]
    (out / f"{run.name}.json").write_text(json.dumps({"metrics": {study.FID: {"value": 10.0 + run.steps}}}))
    rows = [
        {"id": f"{index:02d}", "cluster": str(index), method.lpips: value, method.attributes: index % 6 / 5}
        for index, value in enumerate(values.tolist())
    ]
    (out / f"{run.name}.per_sample.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_method(study, out, method, quality):
    """Write records of a method: `quality` by (label, steps) is `worse`'s arguments, all other runs are far worse."""
    for run in study.runs_of(method):
        values = REFERENCE if run == study.METHODS[method].paper else worse(*quality.get((run.label, run.steps), (0.5, 0.05)))
        write(study, out, run, values)


def test_the_interval_of_the_ratio_is_fiellers(study):
    """The roots of (x - r y)^2 = t^2 (s_xx - 2 r s_xy + r^2 s_yy) / N, for samples that are their own clusters."""
    values, count = worse(0.03, 0.2) + np.random.default_rng(2).normal(0, 0.1, 60), 60
    (xx, xy), (_, yy) = np.cov(values, REFERENCE) / count * t.ppf(0.975, count - 1) ** 2
    x, y = values.mean(), REFERENCE.mean()
    low, high = np.sort(np.roots([y**2 - yy, -2 * (x * y - xy), x**2 - xx]))
    alone = [str(index) for index in range(count)]
    np.testing.assert_allclose(study.ratio(values, REFERENCE, alone), (x / y, low, high), atol=1e-5)
    # A sample given twice, as one cluster, tells nothing new.
    np.testing.assert_allclose(study.ratio(values.repeat(2), REFERENCE.repeat(2), [*np.repeat(alone, 2)]), (x / y, low, high), atol=1e-5)
    np.testing.assert_allclose(study.ratio(1.1 * REFERENCE, REFERENCE, alone), (1.1, 1.1, 1.1), atol=1e-6)
    with pytest.raises(SystemExit, match="not told from 0"):
        study.ratio(values, REFERENCE - REFERENCE.mean() + 1e-4, alone)


def test_the_smallest_cost_has_its_interval_wholly_below_the_margin(study, tmp_path):
    quality = {
        ("dpm++", 4): (0.03, 0.0),  # certain, and too much
        ("unipc", 8): (-0.01, 0.3),  # better in the mean, but that is not certain
        ("euler", 8): (0.019, 0.02),  # the same for a mean just below the margin
        ("unipc", 12): (0.01, 0.005),
        ("dpm++-karras", 12): (0.005, 0.005),  # as cheap, and better
        ("ddim", 25): (-0.2, 0.0),  # better, but dearer
    }
    write_method(study, tmp_path, "catvton", quality)
    found = study.read(tmp_path, "catvton")
    good = {(one.run.label, one.run.steps) for one in found if one.good}
    assert good == {("unipc", 12), ("dpm++-karras", 12), ("ddim", 25), ("ddim-eta1", 50)}
    best = study.cheapest(found)
    assert (best.run.label, best.run.steps, best.evaluations) == ("dpm++-karras", 12, 24)
    text = study.table(tmp_path)
    assert "- Smallest cost for CatVTON (try-on): **dpm++-karras, 12 steps, 24 evaluations** (the paper's: 100)." in text
    assert "| ddim-eta1 | 50 | 100 |" in text and text.count("the paper's |") == 1 and text.count("✓ |") == 3
    assert "for all of them" not in text  # the other methods have no records


def test_the_overlay_is_compared_with_what_all_methods_allow(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "STEPS", (4, 12))
    fast = tmp_path / "fast.yaml"
    fast.write_text("model: {init_args: {sampler: unipc, steps: 12, eta: 0.0, karras: false}}")
    monkeypatch.setattr(study, "FAST", fast)
    good = {("unipc", 12): (0.01, 0.0), ("dpm++", 12): (0.0, 0.0)}
    write_method(study, tmp_path, "igr", good | {("ddim", 4): (0.0, 0.0)})  # good enough for IGR alone
    write_method(study, tmp_path, "catvton", good)
    write_method(study, tmp_path, "twgtm", good | {("dpm++", 12): (0.015, 0.0)})
    text = study.table(tmp_path)
    words = "- Smallest cost that is good enough for all of them: `sampler: unipc`, `steps: 12`, `eta: 0.0`, `karras: False`."
    assert words in text and text.endswith("- The overlay `fast` uses it.")  # the other's worst difference is larger
    fast.write_text("model: {init_args: {sampler: dpm++, steps: 12, eta: 0.0, karras: false}}")
    assert study.CHANGE in study.table(tmp_path)
    write_method(study, tmp_path, "igr", {})
    text = study.table(tmp_path)
    assert "good enough for all of them: none." in text and study.CHANGE in text


def test_the_overlay_is_that_of_the_committed_records(study):
    assert study.CHANGE not in (ROOT / "benchmarks" / "results" / "samplers-tiny" / "README.md").read_text(encoding="utf-8")


def test_the_papers_samplers_are_those_of_the_full_recipes(study):
    methods = list(study.METHODS)
    commands = [["test", "--config", str(ROOT / "recipes" / f"{method}.yaml")] for method in methods]
    commands += [study.command(study.Run(method, "dpm++", 8, karras=True), ROOT, ROOT / "lost.ckpt", 128) for method in methods]
    settings = resolve(commands)
    for method, full, run in zip(methods, settings[: len(methods)], settings[len(methods) :], strict=True):
        given, own = full["model"]["init_args"], run["model"]["init_args"]
        assert study.METHODS[method].paper == study.Run(method, *(given[key] for key in study.Run._fields[1:]))
        assert [own[key] for key in study.Run._fields[1:]] == ["dpm++", 8, 0.0, True]
        assert own["guidance_scale"] != 1.0  # or a step would cost one evaluation
        assert run["data"]["init_args"]["eval_batch_size"] * run["trainer"]["limit_test_batches"] == 128
        columns = {name for name in run["evaluate"]["metrics"]}
        measured = {column.partition("[")[0] for column in (study.METHODS[method].lpips, study.METHODS[method].attributes, study.FID)}
        assert measured <= columns


@pytest.mark.parametrize("method", ["igr", "catvton", "twgtm"])
def test_the_overlay_fast_loads_on_its_recipes(study, method):
    karras = study.overlay()["sampler"] in KARRAS_SAMPLERS  # the other value than the default where there is a choice: it arrives too
    sampling = load(f"tiny/{method}", "fast", keys={"model.init_args.karras": karras})[0].sampling
    assert {key: getattr(sampling, key) for key in study.Run._fields[1:]} == study.overlay() | {"karras": karras}


def test_the_plot_is_small_and_has_every_line(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "STEPS", (4, 12, 50))
    for method in study.METHODS:
        write_method(study, tmp_path, method, {(label, 12): (0.05 * place, 0.1) for place, label in enumerate(study.SAMPLERS)})
    study.plot(tmp_path, tmp_path / "quality.png")
    assert (tmp_path / "quality.png").stat().st_size <= 200_000
    pixels = np.asarray(Image.open(tmp_path / "quality.png").convert("RGB"), dtype=int)
    width = pixels.shape[1]
    for colour in importlib.import_module("plot").COLOURS:
        near = np.abs(pixels - [int(colour[place : place + 2], 16) for place in (1, 3, 5)]).sum(axis=2) < 40
        for column in range(3):  # each method's panels have it
            assert near[40:, column * width // 3 : (column + 1) * width // 3].sum() > 20, colour


def test_a_point_above_the_plot_tells_its_value(study, tmp_path):
    plot = importlib.import_module("plot")
    drawn = []
    for value in (50.0, 60.0):  # both lie at the upper edge
        points = [plot.Point(8, 1.0, 1.0, 1.0), plot.Point(16, value, value, value)]
        lines = [plot.Line("one", points), plot.Line("last", points[:1])]
        plot.draw(tmp_path / f"{value}.png", [[plot.Panel("title", lines, top=30.0)]], "cost")
        drawn.append(np.asarray(Image.open(tmp_path / f"{value}.png").convert("RGB")))
    assert (drawn[0] != drawn[1]).any()
