"""`benchmarks/speed`: rows are written as they are measured, and try-on's plain ways repeat what they say and give the same images."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fashiongen.nn.attention import KeyValue, Memory

SPEED = Path(__file__).parents[1] / "benchmarks" / "speed"
sys.path += [str(SPEED)]

import comparing  # noqa: E402  from benchmarks/speed
import tryon  # noqa: E402

STEPS = 2
SIZE = (32, 24)
CPU = torch.device("cpu")
CASES = [(name, kind) for name, (_, kinds) in tryon.SUBJECTS.items() for kind in kinds]


def comparison(out, *options):
    parser = comparing.parser_of("", steps="")
    return comparing.Comparison(parser, parser.parse_args([str(out), "--repeats", "1", *options]), 1e-4)


def ones():
    return torch.ones(2)


def test_each_row_is_written_when_it_is_measured(tmp_path):
    out, told = tmp_path / "new" / "out.json", []
    compare = comparison(out)
    compare.written = told.append
    compare("first", ones, ones)
    with pytest.raises(ZeroDivisionError):
        compare("second", ones, lambda: torch.tensor(1 / 0))
    assert [list(content["rows"]) for content in (json.loads(out.read_text()), *told)] == [["first"]] * 2
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]


def test_different_results_fail_at_the_end(tmp_path, capsys):
    compare = comparison(tmp_path / "out.json")
    compare("equal", ones, lambda: ones() + 1e-5)
    compare("absolute", lambda: 4 * ones(), lambda: 2 * ones(), relative=False)
    compare("relative", lambda: 4 * ones(), lambda: 2 * ones())
    with pytest.raises(AssertionError, match=r"'absolute': 2\.0, 'relative': 1\.0") as told:
        compare.end("difference")
    assert "'equal'" not in str(told.value) and "| relative |" in capsys.readouterr().out


def test_a_resumed_run_measures_what_is_missing_under_the_same_conditions(tmp_path, capsys):
    out = tmp_path / "out.json"
    comparison(out)("first", ones, ones)
    compare = comparison(out, "--resume", "--note", "later")
    compare("first", lambda: pytest.fail("measured again"), ones)
    compare("second", ones, ones)
    assert list(json.loads(out.read_text())["rows"]) == ["first", "second"]
    with pytest.raises(SystemExit):
        comparison(out, "--resume", "--steps", "3")
    assert f"--resume: {out} was measured with another steps" in capsys.readouterr().err
    assert comparison(out, "--steps", "3").rows == {}


def test_the_table_of_a_file_is_printed_without_measuring(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out.json"
    comparison(out)("a row", ones, ones)
    monkeypatch.setattr(tryon, "measure", lambda *_: pytest.fail("measured"))
    tryon.main([str(out), "--table"])
    assert "| a row |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        tryon.main([str(tmp_path / "none.json"), "--table"])
    assert "does not exist" in capsys.readouterr().err


def test_peaks_have_columns_where_they_were_measured():
    row = {"short": 1.0, "long": 2.0, "ratio": 2.0, "difference": 0.0}
    assert "GB" not in comparing.table({"a": row}, "difference")
    lines = comparing.table({"a": row | {"short peak": 3.25, "long peak": 4.5}, "b": row}, "difference").splitlines()
    assert lines[0].endswith("| peak of the optimised, GB | peak of the plain, GB |")
    assert lines[2].endswith("| 3.25 | 4.5 |") and lines[3].endswith("| 0 |  |  |")


def test_half_of_what_was_doubled():
    rows = torch.arange(4)
    doubled = ({"layer": Memory(KeyValue(rows, rows + 10))}, None, rows)
    memory, nothing, tensor = comparing.half(doubled, 1)
    assert nothing is None and tensor.tolist() == [2, 3]
    assert isinstance(memory["layer"], Memory) and memory["layer"].first.value.tolist() == [12, 13] and memory["layer"].second is None


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    return {name: tryon.build(name, "tiny", STEPS, tmp_path_factory.mktemp("weights"), "cpu").eval() for name in tryon.SUBJECTS}


@pytest.fixture
def subject(methods, request):
    name, kind = request.param
    people = comparing.Samples(kind, 2, SIZE, CPU).batch.without_target()
    return [tryon.SUBJECTS[name][0](methods[name], people.select([index])) for index in (0, 1)]


def named(case):
    return f"{case[0]}-{tryon.DIRECTIONS[case[1]]}"


@pytest.mark.parametrize("subject", CASES, ids=named, indirect=True)
def test_the_plain_ways_repeat_what_they_say_and_give_the_same_images(subject, monkeypatch):
    one, other = subject
    method, seen = one.method, []
    encoder = getattr(method, "siglip", method.codec.vae.encoder)
    hooks = [
        encoder.register_forward_pre_hook(lambda *_: seen.append("encoder")),
        method.network.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0]))),
    ]
    if one.projects:
        memory = method.network.memory
        monkeypatch.setattr(method.network, "memory", lambda reference: seen.append("memory") or memory(reference))

    def counted(way, **repeated):
        seen.clear()
        return way(**repeated), {what: seen.count(what) for what in ("encoder", "memory", 2, 1)}

    expected, ours = counted(one.ours)
    predictions = ours[2]  # both halves of guidance of one person
    assert predictions >= STEPS and ours[1] == 0
    for repeated, factors in (
        ({"encode": True}, {"encoder": predictions, "memory": predictions, 2: 1}),
        ({"project": True}, {"encoder": 1, "memory": predictions, 2: 1}),
        ({"two_passes": True}, {"encoder": 1, "memory": 1, 2: 0}),
    ):
        images, counts = counted(one.plain, **repeated)
        assert (images - expected).abs().max() < 1e-4, repeated
        assert {what: counts[what] for what in factors} == {what: factor * ours[what] for what, factor in factors.items()}, repeated
    assert counts[1] == 2 * predictions
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr(one, "encode", other.encode)
    assert (one.plain() - expected).abs().max() > 1e-3, "the images do not depend on what is encoded"


@torch.no_grad()
@pytest.mark.parametrize("subject", [case for case in CASES if case[0] == "twgtm"], ids=named, indirect=True)
def test_spatial_features_reach_the_images_of_an_untrained_twgtm(subject, monkeypatch):
    one, _ = subject
    expected, (painting, reference) = one.ours(), one.encode()
    bare = reference._replace(spatial=[torch.zeros_like(part) for part in reference.spatial])
    monkeypatch.setattr(one, "encode", lambda: (painting, bare))
    assert (one.plain() - expected).abs().max() > 1e-3


def test_a_reference_read_once_gives_the_same_loss_and_gradients(methods, monkeypatch):
    method = methods["twgtm"].train()
    monkeypatch.setattr(
        method, "snr_gamma", None
    )  # the paper's loss, whatever weights the tiny recipe gives: the bounds below are of its size
    batch = comparing.Samples(tryon.SUBJECTS["twgtm"][1][0], 2, SIZE, CPU).batch
    losses, gradients = [], []
    for way in (tryon.read_once, tryon.read_each_time):
        losses.append(way(method, batch, 3)[0])
        gradients.append({name: part.grad.clone() for name, part in method.named_parameters() if part.grad is not None})
    method.eval()
    assert method.noises_per_sample == 1
    torch.testing.assert_close(*losses)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 100
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-5, msg=name)
    one_noise = tryon.train(tryon.TWGTM, method, batch)[0]
    assert (losses[0] - one_noise).abs() > 1e-3, "more noises are no other loss"


def test_a_run_measures_every_row_of_a_method(tmp_path):
    out, told = tmp_path / "out.json", []
    tryon.main([str(out), "--methods", "tryoffanyone", "--steps", "1", "--repeats", "1", "--batch", "1", "--image", "32x24"], told.append)
    content = json.loads(out.read_text())
    assert len(content["rows"]) == len(told) == 3 and content["conditions"]["image"] == [32, 24]
    assert all(row["difference"] < 1e-4 and row["ratio"] > 0 for row in content["rows"].values())


def test_the_readmes_table_is_that_of_its_file():
    rows = json.loads((SPEED / "tryon-tiny-cpu.json").read_text(encoding="utf-8"))["rows"]
    assert comparing.table(rows, tryon.DIFFERENCE) in (SPEED / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 17 and all(row["difference"] < 1e-4 for row in rows.values())
