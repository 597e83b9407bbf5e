"""A minimal method and dataset, for tests of the code around methods."""

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from fashiongen.batches import TryOffBatch, to_float
from fashiongen.data.base import FashionData
from fashiongen.errors import UserError
from fashiongen.methods.base import Method

SIZE = (16, 12)


class Painter(Method):
    """Learns the garment's image as a linear function of a frozen feature of the person's."""

    needs = frozenset({"mask"})
    frozen = ("eye",)

    def __init__(
        self,
        width: int = 8,
        refuse: str | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        """Build the frozen eye and the hand that learns.

        Args:
            width: channels between the two.
            refuse: what goes wrong in training: "user", "interrupt".
            optimizer: see Method.
            lr_scheduler: see Method.
        """
        super().__init__(optimizer, lr_scheduler)
        self.refuse = refuse
        self.parents: dict[str, str] = {}
        self.eye = nn.Conv2d(3, width, 3, padding=1).requires_grad_(False)
        self.hand = nn.Conv2d(width, 3, 3, padding=1)

    def load_parents(self, parents):
        self.parents = {role: str(path) for role, path in parents.items()}

    def take_off(self, batch: TryOffBatch) -> Tensor:
        return self.hand(self.eye(to_float(batch.person))).tanh()

    def training_step(self, batch: TryOffBatch, batch_idx: int) -> Tensor:
        if self.refuse == "user":
            raise UserError("the paint is dry: buy paint")
        if self.refuse == "interrupt":
            raise KeyboardInterrupt
        loss = mse_loss(self.take_off(batch), to_float(batch.garment))
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: TryOffBatch, batch_idx: int) -> None:
        self.log("val/loss", mse_loss(self.take_off(batch), to_float(batch.garment)), batch_size=len(batch), sync_dist=True)


class TwoPainters(Painter):
    """Has two optimizers, as adversarial methods do."""

    def __init__(self, optimizer: OptimizerCallable = torch.optim.AdamW) -> None:
        super().__init__(optimizer=optimizer)
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [self.optimizer(self.hand.parameters()), self.optimizer(self.hand.parameters())]


class Images(Dataset):
    """Deterministic random images."""

    def __init__(self, count: int, broken: int | None) -> None:
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> TryOffBatch:
        if index == self.broken:
            raise UserError(f"image {index} cannot be read: replace it")
        generator = torch.Generator().manual_seed(index)
        person, garment = (torch.randint(0, 256, (1, 3, *SIZE), generator=generator, dtype=torch.uint8) for _ in range(2))
        mask = torch.ones(1, 1, *SIZE, dtype=torch.bool)
        return TryOffBatch(ids=[f"image-{index}"], person=person, mask=mask, category=["upper"], garment=garment, garment_mask=mask)


class Gallery(FashionData):
    """Images of noise; `broken` is the index of one that cannot be read."""

    name = "gallery"
    split = "test"
    task = "vtoff"
    offers = frozenset({"mask", "garment", "garment_mask"})

    def __init__(self, count: int = 8, num_workers: int = 0, broken: int | None = None) -> None:
        super().__init__()
        self.eval_batch_size = 2
        self.images = Images(count, broken)
        self.num_workers = num_workers

    def train_dataloader(self):
        return DataLoader(self.images, batch_size=2, collate_fn=TryOffBatch.collate, num_workers=self.num_workers)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def fingerprint(self) -> str:
        return "noise"

    def images_of(self, split: str, part: str) -> "Part":
        if part not in self.offers:
            raise UserError(f"{self.name} has no {part}")
        return Part(self.images, part)


class Part(Dataset):
    """One of the images of each sample."""

    def __init__(self, images: Images, part: str) -> None:
        self.images, self.part = images, part

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return getattr(self.images[index], self.part)[0]

    def fingerprint(self) -> str:
        return f"{self.part}s of noise"
