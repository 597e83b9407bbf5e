"""A toy dataset, method and metrics, for tests of evaluation and prediction."""

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.data.base import FashionData
from fashiongen.data.loading import Loader, ShardSampler, share
from fashiongen.evaluation import Evaluate
from fashiongen.methods.base import Method
from fashiongen.metrics.base import PairMetric, SetMetric

N, SIZE = 7, (12, 8)


def sample(index):
    generator = torch.Generator().manual_seed(index)
    person, garment = (torch.randint(0, 256, (1, 3, *SIZE), generator=generator, dtype=torch.uint8) for _ in range(2))
    mask = torch.zeros(1, 1, *SIZE, dtype=torch.bool)
    mask[..., 3:9, 2:6] = True
    # Ids in another order than the samples: reports must not depend on the order of loading.
    return TryOffBatch(ids=[f"id{(index * 3) % N}"], person=person, mask=mask, category=["upper"], garment=garment, garment_mask=mask)


class Gallery(FashionData):
    name, split, task = "gallery", "test", "vtoff"

    def __init__(self, batch_size=3, offers=("mask", "garment", "garment_mask"), count=N):
        super().__init__()
        self.samples, self.batch_size, self.offers = [sample(index) for index in range(count)], batch_size, frozenset(offers)

    def test_dataloader(self):
        return Loader(self.samples, sampler=ShardSampler(self.samples, **share(self.trainer)), batch_size=self.batch_size)

    val_dataloader = predict_dataloader = test_dataloader

    def train_dataloader(self):
        return DataLoader(self.samples, batch_size=2, collate_fn=TryOffBatch.collate)

    def fingerprint(self):
        return "f" * 64


class Copier(Method):
    """Returns the person, a little darker, as the garment; remembers whether it saw a target."""

    needs = frozenset({"mask"})

    def __init__(self):
        super().__init__()
        self.shade = nn.Parameter(torch.tensor(0.9))
        self.frozen_part = nn.Parameter(torch.zeros(5), requires_grad=False)
        self.saw_target, self.sampled, self.devices, self.random = False, False, [], []

    def take_off(self, batch) -> Tensor:
        self.sampled = True
        self.saw_target |= batch.garment is not None or batch.garment_mask is not None
        torch.rand(3)
        return to_float(batch.person) * self.shade

    def training_step(self, batch, batch_idx):
        self.random.append(torch.rand(()).item())
        return (to_float(batch.garment) - self.take_off(batch)).square().mean()

    def validation_step(self, batch, batch_idx):
        pass


class Restless(L.LightningModule):
    """Has no task's interface."""

    def test_step(self, batch, batch_idx):
        pass


class Broken(Copier):
    """Returns NaN for the second image of each batch."""

    def take_off(self, batch):
        images = super().take_off(batch).clone()
        images[1:2, 0, 0, 0] = torch.nan
        return images


class Distance(PairMetric):
    higher_is_better = False

    def score(self, prediction, target, mask):
        return (prediction - target).abs().mean(dim=(1, 2, 3))


class Inside(Distance):
    region = "foreground"
    extractor = "tiny"
    prepared = False

    def prepare(self):
        self.prepared = True
        self.network = nn.Linear(2, 2)

    def score(self, prediction, target, mask):
        return ((prediction - target).abs().mean(dim=1) * mask[:, 0]).sum(dim=(1, 2)) / mask.sum(dim=(1, 2, 3))


class MeanGap(SetMetric):
    higher_is_better = False

    def features(self, images):
        return images.mean(dim=(2, 3))

    def distance(self, predictions, targets):
        return (predictions.mean(dim=0) - targets.mean(dim=0)).norm()


def metrics():
    return {"distance": Distance(), "inside": Inside(), "gap": MeanGap()}


def trainer(tmp_path, *callbacks, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    settings = {"accelerator": "cpu", "default_root_dir": tmp_path, "enable_checkpointing": keeps, **quiet, **options}
    return L.Trainer(callbacks=list(callbacks), **settings)


def judge(tmp_path, method=None, data=None, **options):
    evaluate = Evaluate(**{"protocol": "toy", "metrics": metrics(), "out": str(tmp_path / "out.json"), **options})
    method = method or Copier()
    trainer(tmp_path, evaluate).test(method, datamodule=data or Gallery(), verbose=False)
    return evaluate, method
