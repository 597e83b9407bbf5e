"""The numbers of groups of samples (`evaluate.by`): those of a test of the group alone, beside those of all samples."""

import json

import pytest
import torch
from judged import Broken, Copier, Gallery, judge, metrics, trainer

from fashiongen.batches import to_float
from fashiongen.errors import UserError
from fashiongen.evaluation import Evaluate, Reference
from fashiongen.metrics import AgreementByChance
from fashiongen.records import Record

GROUPS = ("upper", "full", "upper", "lower", "upper", "full", "upper")  # by index; "lower" has one sample alone


def gallery(*keep, batch_size=3):
    """Samples of several categories, with one whose foreground is empty; `keep` leaves some categories."""
    data = Gallery(batch_size)
    for one, group in zip(data.samples, GROUPS, strict=True):
        one.category = [group]
    data.samples[4].garment_mask = torch.zeros_like(data.samples[4].garment_mask)
    data.samples = [one for one in data.samples if not keep or one.category[0] in keep]
    return data


def same(value):
    return pytest.approx(value, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("method", [Copier, Broken])
def test_a_group_has_the_numbers_of_a_test_of_its_samples_alone(tmp_path, method):
    judge(tmp_path, method(), gallery(batch_size=7), by="category")
    whole = Record.read(tmp_path / "out.json")
    assert whole.by == "category" and list(whole.groups) == ["full", "lower", "upper"]
    broken = "id3" if method is Broken else None  # the second sample of a batch of all
    for group, found in whole.groups.items():
        data = gallery(group, batch_size=7)
        judge(tmp_path / group, Copier(), data)
        alone = Record.read(tmp_path / group / "out.json")
        assert found["n_samples"] == alone.n_samples == GROUPS.count(group)
        for name, entry in found["metrics"].items():
            assert entry["higher_is_better"] == alone.metrics[name]["higher_is_better"]
            expected = alone.metrics[name]
            if broken is not None and broken in [id_ for one in data.samples for id_ in one.ids]:
                expected = {"value": None, "ci95": None}
            assert entry["value"] == (expected["value"] and same(expected["value"])), (group, name)
            assert entry["ci95"] == (expected["ci95"] and same(expected["ci95"])), (group, name)
    assert whole.groups["lower"]["metrics"]["gap"]["value"] is None  # of a single image
    rows = [json.loads(line) for line in (tmp_path / "out.per_sample.jsonl").read_text().splitlines()]
    assert {row["id"]: row["group"] for row in rows} == {one.ids[0]: one.category[0] for one in gallery().samples}


def test_the_number_of_all_is_over_the_union_and_no_mean_of_the_groups(tmp_path):
    """Too dark by as much in one category as too light in the other: over all the gap is small, in each it is large."""

    def biased():
        data = gallery("upper", "full")
        for one in data.samples:
            one.garment = torch.full_like(one.garment, {"upper": 60, "full": 200}[one.category[0]])
        return data

    evaluate, _ = judge(tmp_path, data=biased(), by="category")
    plain, _ = judge(tmp_path / "plain", data=biased())
    assert evaluate.results == plain.results
    groups = Record.read(tmp_path / "out.json").groups
    each = [groups[group]["metrics"]["gap"]["value"] for group in ("upper", "full")]
    assert evaluate.results["gap"]["value"] < 0.5 * min(each)


def test_two_processes_give_the_groups_of_one(tmp_path):
    judge(tmp_path / "one", data=gallery(batch_size=2), by="category", images=2)
    evaluate = Evaluate(protocol="toy", metrics=metrics(), out=str(tmp_path / "two" / "out.json"), images=2, by="category")
    trainer(tmp_path, evaluate, devices=2, strategy="ddp_fork").test(Copier(), datamodule=gallery(batch_size=2), verbose=False)
    one, two = (Record.read(tmp_path / folder / "out.json") for folder in ("one", "two"))
    assert two.device.startswith("2 x cpu")
    for group, found in one.groups.items():
        for name, entry in found["metrics"].items():
            assert two.groups[group]["metrics"][name]["value"] == (entry["value"] and same(entry["value"]))
            assert two.groups[group]["metrics"][name]["ci95"] == (entry["ci95"] and same(entry["ci95"]))
    assert (tmp_path / "one" / "out.per_sample.jsonl").read_text() == (tmp_path / "two" / "out.per_sample.jsonl").read_text()


class Shop(Gallery):
    """Another dataset, of garments of three categories in another order and number."""

    order = ("lower", "upper", "full", "lower", "upper", "upper", "full", "lower", "full")

    def __init__(self):
        super().__init__(2, count=len(self.order))
        self.eval_batch_size = 2

    def images_of(self, split, field):
        return Garments([one.garment[0] for one in self.samples])


class Garments(list):
    def groups(self, by):
        return list(Shop.order)

    def fingerprint(self):
        return "garments"


def test_each_group_is_compared_with_the_reference_images_of_its_own(tmp_path):
    settings = {"metrics": {"gap": metrics()["gap"]}, "reference": Reference(data=Shop()), "by": "category"}
    judge(tmp_path / "one", data=gallery(batch_size=2), **settings)
    found = Record.read(tmp_path / "one" / "out.json").groups
    for group in ("upper", "full"):
        predictions = torch.cat([to_float(one.person) * 0.9 for one in gallery(group).samples])
        targets = torch.stack([one.garment[0] for one, kind in zip(Shop().samples, Shop.order, strict=True) if kind == group]).float() / 255
        gap = ((predictions + 1) / 2).mean(dim=(0, 2, 3)) - targets.mean(dim=(0, 2, 3))
        assert found[group]["metrics"]["gap"]["value"] == pytest.approx(gap.norm().item(), abs=1e-3)
    evaluate = Evaluate(protocol="toy", out=str(tmp_path / "two" / "out.json"), images=2, **settings)
    trainer(tmp_path, evaluate, devices=2, strategy="ddp_fork").test(Copier(), datamodule=gallery(batch_size=2), verbose=False)
    both = Record.read(tmp_path / "two" / "out.json").groups
    for group in ("upper", "full"):
        assert both[group]["metrics"]["gap"]["value"] == same(found[group]["metrics"]["gap"]["value"])


def test_metrics_of_pairs_in_sets_stay_paired_within_a_group(tmp_path):
    class Read(torch.nn.Module):
        """Reads one attribute: whether the image is red."""

        def read(self, images):
            return {"red": (images[:, 0].mean(dim=(1, 2)) > 0.48).long()}

    chance = AgreementByChance(network=Read())
    judge(tmp_path, data=gallery(), by="category", metrics={"chance": chance})
    found = Record.read(tmp_path / "out.json").groups["upper"]["metrics"]["chance[custom]"]["value"]
    judge(tmp_path / "alone", data=gallery("upper"), metrics={"chance": chance})
    assert found == same(Record.read(tmp_path / "alone" / "out.json").metrics["chance[custom]"]["value"]) and 0 < found < 1


def test_one_group_alone_is_none(tmp_path):
    judge(tmp_path, data=gallery("upper"), by="category")
    record = Record.read(tmp_path / "out.json")
    assert (record.by, record.groups) == (None, {}) and "group" not in (tmp_path / "out.per_sample.jsonl").read_text()


def test_the_groups_are_printed(tmp_path, capsys):
    judge(tmp_path, data=gallery(), by="category")
    told = capsys.readouterr().out
    titles = [line.strip() for line in told.splitlines() if "samples" in line]
    assert titles == ["category full, 2 samples", "category lower, 1 samples", "category upper, 4 samples", titles[-1]]
    assert titles[-1] == "copier: vtoff on gallery (test), 7 samples" and told.count("inside[tiny]") == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"by": "colour"}, "evaluate.by=colour: samples of vtoff can be grouped by category"),
        ({"by": "ids"}, "evaluate.by=ids: samples of vtoff can be grouped by category"),
        ({"unpaired": ["gap"]}, "evaluate.unpaired: a vtoff has no unpaired test: leave it out"),
    ],
)
def test_what_cannot_be_grouped_is_told_before_any_sampling(tmp_path, options, says):
    method = Copier()
    with pytest.raises(UserError, match=rf"\A{says}\Z"):
        judge(tmp_path, method, **options)
    assert not method.sampled and not (tmp_path / "out.json").exists()


def test_a_record_from_before_there_were_groups_is_read(tmp_path):
    judge(tmp_path, data=gallery(), by="category")
    content = json.loads((tmp_path / "out.json").read_text())
    assert Record.read(tmp_path / "out.json").groups == content["groups"]
    del content["groups"], content["by"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert Record.read(tmp_path / "old.json").groups == {}
    (tmp_path / "old.json").write_text(json.dumps(content | {"groups": {"upper": {"metrics": {}}}}))
    with pytest.raises(UserError, match=r"groups: .* is not of type .*GroupEntry"):
        Record.read(tmp_path / "old.json")
