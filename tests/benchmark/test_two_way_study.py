"""What two networks have in common: shares of alike weights, and features at the same place of the same images."""

import copy
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
KEYS = {"data.init_args.people": 24, "data.init_args.num_workers": 0}


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(STUDIES))
    try:
        yield importlib.import_module("two_way_tiny")
    finally:
        sys.path.remove(str(STUDIES))


@pytest.fixture(scope="module")
def loaded(study, cache):
    """Both methods with the starting weights, and their data."""
    return {name: study.load(study.TINY / f"{name}.yaml", keys=KEYS) for name in (study.ON, study.OFF)}


@pytest.fixture(scope="module")
def batches(study, loaded):
    return {name: study.pairs(data, 3) for name, (_, data) in loaded.items()}


def moved(method, by=0.05):
    """Another network: the weights of a copy, moved at random."""
    other = copy.deepcopy(method)
    with torch.no_grad():
        for parameter in other.network.unet.parameters():
            parameter += by * torch.randn_like(parameter)
    return other


def test_the_share_of_alike_weights_by_threshold(study, monkeypatch):
    monkeypatch.setattr(study, "THRESHOLDS", (0.001, 0.1, 0.2))
    one, other = {"a": torch.tensor([1.0, 0.001, 0.0, -2.0])}, {"a": torch.tensor([1.105, 0.0015, 0.0, 2.0])}
    found = study.shares(one, other)
    assert found == {"absolute": [0.5, 0.5, 0.75], "relative": [0.25, 0.5, 0.5]}
    assert study.shares(other, one) == found  # symmetric
    for wrong in ({"b": one["a"]}, {"a": one["a"][:3]}):
        with pytest.raises(SystemExit, match="do not have the same parameters"):
            study.shares(one, wrong)


def test_each_group_is_compared_with_the_start_and_in_random_order(study):
    names = ("x.attn1.w", "x.ff.w", "x.norm.w")
    start = {name: torch.randn(50, 20) for name in names}
    on = {**start, "x.attn1.w": start["x.attn1.w"] + 1.0}
    off = {**start, "x.attn1.w": start["x.attn1.w"] - 1.0, "x.ff.w": start["x.ff.w"] + 1.0}
    found = study.compare_parameters(start, {study.ON: on, study.OFF: off, "catvton (another training)": on})
    assert {name: of["weights"] for name, of in found.items()} == dict(zip(study.GROUPS, (1000, 1000, 2000, 3000), strict=True))
    attention, whole = found["self-attention"], found["all"]
    assert attention["updates"]["cosine"]["catvton, tryoffanyone"] == pytest.approx(-1.0)
    assert attention["updates"]["cosine"]["catvton, catvton (another training)"] == pytest.approx(1.0)
    assert whole["updates"]["relative size"]["catvton"] == pytest.approx(float(1000**0.5 / study.flat(start).norm()))
    alike = {pair: of["absolute"][0] for pair, of in whole["shares"].items()}
    assert alike["on, off"] == alike["off, start"] == pytest.approx(1 / 3) and alike["on, start"] == pytest.approx(2 / 3)
    assert alike["on, off in random order"] < 0.01 and alike["catvton, catvton (another training)"] == 1.0
    shuffled = study.shuffled(on)
    assert all(torch.equal(shuffled[name].flatten().sort().values, on[name].flatten().sort().values) for name in names)


def test_both_tasks_get_the_same_images_with_the_halves_exchanged(study, loaded, batches, monkeypatch):
    inputs = {}
    for name, (method, _) in loaded.items():

        def forward(noisy, timestep, conditions, name=name):
            inputs[name] = noisy

        monkeypatch.setattr(method.network, "forward", forward)
        study.features(method, method, batches[name][0], 600)
    on, off = inputs[study.ON], inputs[study.OFF]
    assert torch.equal(study.exchange(on), off) and not torch.allclose(on, off)
    assert torch.equal(study.exchange(off), on)


def test_features_of_equal_networks_differ_no_more_than_those_of_the_start(study, loaded, batches):
    methods = {name: method for name, (method, _) in loaded.items()}
    equal = study.compare_features(methods, methods[study.ON], batches, 400)
    assert len(equal["layers"]) == 15 and all("resnets" in name or "attentions" in name for name in equal["layers"])
    found = {name: torch.tensor(of["layers"]) for name, of in equal["cosines"].items()}
    for way in ("plain", "centred"):
        assert torch.equal(found[f"{way} matched"], found[f"{way} start"])
        assert found[f"{way} matched"].mean() > found[f"{way} other pair"].mean()
    assert found["centred matched"].mean() > found["centred in place"].mean()
    assert all(of.abs().max() <= 1.0 for of in found.values())
    assert torch.tensor(equal["cosines"]["plain matched"]["pairs"]).mean() == pytest.approx(float(found["plain matched"].mean()), abs=1e-5)
    other = study.compare_features({**methods, study.OFF: moved(methods[study.OFF])}, methods[study.ON], batches, 400)["cosines"]
    assert other["centred start"] == equal["cosines"]["centred start"]
    assert torch.tensor(other["centred matched"]["layers"]).mean() < found["centred matched"].mean()


def test_what_was_measured_is_not_repeated_and_another_checkpoint_starts_anew(study, loaded, tmp_path, monkeypatch, capsys):
    paths = {name: tmp_path / "ck" / name / "last.ckpt" for name in loaded}
    for name, path in paths.items():
        path.parent.mkdir(parents=True)
        path.write_text(name)
    monkeypatch.setattr(study, "load", lambda recipe, checkpoint=None, keys=None: loaded[recipe.stem])
    monkeypatch.setattr(study, "TIMESTEPS", (30, 800))
    steps, compare = [], study.compare_features
    monkeypatch.setattr(study, "compare_features", lambda *args: steps.append(args[-1]) or compare(*args))
    argv = ["two_way_tiny.py", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "ck"), "--pairs", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    study.main()
    said = capsys.readouterr().out
    assert steps == [30, 800] and "| centred matched | " in said and "| all (" in said and " 100.0 % |" in said
    with Image.open(tmp_path / "out" / "two-way.png") as image:
        assert image.width > 400 and (tmp_path / "out" / "two-way.png").stat().st_size < 200_000
    file = tmp_path / "out" / "two-way.json"
    part = json.loads(file.read_text())
    del part["features"]["800"]
    file.write_text(json.dumps(part))
    study.main()
    assert steps == [30, 800, 800]
    paths[study.ON].write_text("trained longer")
    study.main()
    assert steps == [30, 800, 800, 30, 800]
    monkeypatch.setattr(sys, "argv", [*argv, "--other", "igr=x"])
    with pytest.raises(SystemExit, match=r"--other igr=x: give catvton=CKPT or tryoffanyone=CKPT"):
        study.main()


def test_networks_that_started_from_other_weights_are_refused(study, loaded, tmp_path, monkeypatch):
    paths = {name: tmp_path / name for name in loaded}
    for path in paths.values():
        path.write_text("trained")
    method, data = loaded[study.OFF]
    starts = {**loaded, study.OFF: (moved(method), data)}
    monkeypatch.setattr(study, "load", lambda recipe, checkpoint=None, keys=None: (starts if checkpoint is None else loaded)[recipe.stem])
    with pytest.raises(SystemExit, match="do not start from the same weights"):
        study.measure(tmp_path / "out", paths, 2, {})
    assert not (tmp_path / "out" / study.RESULT).exists()
