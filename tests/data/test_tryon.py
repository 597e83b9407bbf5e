"""One Dataset of the try-on data for several tasks, and the user's own datasets."""

from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fashiongen import tasks
from fashiongen.batches import Batch, TryOffBatch, TryOnBatch
from fashiongen.data import VITONHD, DressCode, FashionData, Photos, StreetTryOn, layouts
from fashiongen.data.quality import QualityFilter
from fashiongen.data.reframe import reframe
from fashiongen.data.tryon import TryOnData
from fashiongen.errors import UserError

SIZE = (128, 96)
READERS = {"viton_hd": VITONHD, "dress_code": DressCode, "street_tryon": StreetTryOn}


@dataclass(kw_only=True)
class DressBatch(Batch):
    """What another task might read: the garment is an input, the person the target, no parse and no shop image's mask."""

    TARGETS = ("person",)

    mask: Tensor
    garment: Tensor
    pose: Tensor | None = None
    depth: Tensor | None = None
    person: Tensor | None = None


@dataclass(kw_only=True)
class DepthBatch(Batch):
    """Asks for something that no reader knows."""

    person: Tensor
    depth: Tensor


@dataclass(kw_only=True)
class BareBatch(Batch):
    """Needs only a person."""

    person: Tensor


@pytest.fixture
def other_tasks(monkeypatch):
    """Three tasks more."""
    batches = {"dress": DressBatch, "depth": DepthBatch, "bare": BareBatch}
    find = tasks.find
    monkeypatch.setattr(tasks, "find", lambda name: SimpleNamespace(batch=batches[name]) if name in batches else find(name))


def data(layout, root, stage="test", **options):
    module = READERS[layout](str(root), **{"size": SIZE, "batch_size": 4, "num_workers": 0, "validation": 2, **options})
    module.setup(stage)
    return module


@pytest.mark.parametrize("layout", ["viton_hd", "dress_code"])
def test_another_task_reads_the_same_samples_as_its_own_batches(layout, rendered, other_tasks):
    plain, other = data(layout, rendered(layout)), data(layout, rendered(layout), task="dress")
    assert (plain.task, other.task) == ("vtoff", "dress")
    # The person, which the batch may lack, is the target of such a task.
    assert other.offers == {"mask", "garment", "pose", "person"} and plain.offers == {"mask", "garment", "garment_mask", "parse", "pose"}
    for one, two in zip(plain.test_dataloader(), other.test_dataloader(), strict=True):
        assert type(one) is TryOffBatch and type(two) is DressBatch and one.ids == two.ids and two.depth is None
        assert all(torch.equal(getattr(one, part), getattr(two, part)) for part in ("person", "mask", "garment", "pose"))
    assert plain.fingerprint() == other.fingerprint()


def test_only_what_the_task_has_fields_for_is_read(copied, other_tasks):
    root = copied("viton_hd")
    for path in [*root.glob("test/image-parse-v3/*"), *root.glob("test/cloth-mask/*")]:
        path.write_text("no image")
    assert len(list(data("viton_hd", root, task="dress").test_dataloader())) == 2
    for path in root.glob("test/agnostic-mask/*"):
        path.write_text("no image")
    assert sum(map(len, data("viton_hd", root, task="bare").test_dataloader())) == 6
    with pytest.raises(UserError, match="truncated, damaged or not an image"):
        list(data("viton_hd", root, task="dress").test_dataloader())


def test_a_task_that_needs_what_is_not_there_is_refused_in_one_line(rendered, tmp_path, other_tasks):
    reads = r"\(it reads agnostic, category, garment, "
    with pytest.raises(UserError, match=rf"viton_hd: a DepthBatch needs depth, which this dataset's reader does not know {reads}"):
        data("viton_hd", rendered("viton_hd"), task="depth")
    with pytest.raises(UserError, match=r"street_tryon: .* lacks the garment of some samples, which the task dress needs"):
        data("street_tryon", rendered("street_tryon"), task="dress")
    with pytest.raises(UserError, match="nonsense: unknown task"):
        data("viton_hd", rendered("viton_hd"), task="nonsense")
    with pytest.raises(UserError, match="photos: a DressBatch needs garment"):
        Photos(str(tmp_path), task="dress")
    assert Photos(str(tmp_path), task="bare").batch_type is BareBatch


def test_any_batch_of_a_person_can_be_reframed(rendered, other_tasks):
    plain, other = (data("viton_hd", rendered("viton_hd"), task=task).datasets["test"][0] for task in ("vtoff", "dress"))
    for zoom in (0.7, 1.6):
        one, two = reframe(plain, zoom), reframe(other, zoom)
        assert type(two) is DressBatch and not torch.equal(two.person, other.person)
        assert all(torch.equal(getattr(one, part), getattr(two, part)) for part in ("person", "mask", "garment", "pose"))


@pytest.mark.parametrize("layout", READERS)
@pytest.mark.parametrize("quality", [False, True])
def test_a_users_own_dataset_class_is_used(layout, quality, rendered, tmp_path):
    """VITON-HD ignored `dataset_class` and built its own class."""

    class Dark(READERS[layout].dataset_class):
        def read(self, row):
            sample = super().read(row)
            sample.person.zero_()
            return sample

    class Mine(READERS[layout]):
        dataset_class = Dark

    options = {"quality": QualityFilter(keep=0.5, decisions=str(tmp_path / "decisions.csv"))} if quality and layout == "viton_hd" else {}
    module = Mine(str(rendered(layout)), size=SIZE, batch_size=2, num_workers=0, validation=2, **options)
    module.setup("fit" if options else "test")
    loader = module.train_dataloader() if options else module.test_dataloader()
    assert all(not batch.person.any() for batch in loader)
    assert layouts()[layout] is READERS[layout]  # a variant of a dataset is not another layout


def test_a_dataset_of_another_package_is_known_once_it_is_imported():
    class Elsewhere(TryOnData):
        """A user's own layout."""

        layout = "elsewhere"

    try:
        assert layouts()["elsewhere"] is Elsewhere
        with pytest.raises(UserError, match="wardrobe has no writer of layout 'elsewhere'; it has: dress_code, "):
            Elsewhere("wardrobe").prepare_data()
    finally:
        Elsewhere.layout = ""  # it lives as long as anything refers to it


def test_a_minimal_dataset_works():
    class Numbers(FashionData):
        name, split, task, eval_batch_size = "numbers", "test", "vtoff", 1

    data = Numbers()
    assert data.describe() == {"name": "numbers", "root": None, "size": None, "offers": []}
    with pytest.raises(UserError, match="numbers has no true images"):
        data.images_of("test", "garment")
    with pytest.raises(UserError, match="has no check"):
        Numbers.check(".")


def test_the_fields_of_both_tasks_are_all_read():
    """A field that no reader fills would always be None, unnoticed."""
    from fashiongen.data.tryon_dataset import PARTS

    known = {field.name for batch in (TryOffBatch, TryOnBatch) for field in fields(batch)}
    assert known - {"ids", "encoded", "skipped"} == PARTS.keys()
