"""A dataset in a folder of a public layout, or the embedded wardrobe in the same layout: the shared options and loaders."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.utils.data import Dataset

from fashiongen.data.base import FashionData
from fashiongen.data.embedded import EMBEDDED, embedded_folder, render_embedded
from fashiongen.data.listing import locate
from fashiongen.data.loading import EpochSampler, Loader, ResumableLoader, ShardSampler, length_of, require_at_least_one, share
from fashiongen.errors import UserError

# The splits that each of Lightning's stages reads.
STAGES: dict[str, tuple[str, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


def splits_of(stage: str | None) -> tuple[str, ...]:
    """Return the splits of a stage; None means all."""
    return STAGES[stage] if stage else ("train", "val", "test")


class FolderData(FashionData):
    """A dataset in a folder: `root`, the embedded wardrobe, batch sizes, workers, seeds, and loaders that resume.

    A subclass sets `layout`, `markers` and `name`, fills `datasets`, `split` and `offers` in `setup`, and defines the loaders.

    Attributes:
        layout: the folder layout, and by default the dataset's name.
        markers: files or folders of which a root holds at least one; `root` may also be its parent folder.
        batch_size: training samples per process and step.
        seed: seed of the training order.
    """

    markers: ClassVar[tuple[str, ...]]

    root: Path
    size: tuple[int, int]

    def __init__(
        self,
        root: str,
        *,
        people: int,
        size: tuple[int, int],
        batch_size: int,
        world_seed: int = 0,
        eval_batch_size: int | None = None,
        num_workers: int = 4,
        seed: int = 0,
        in_memory: bool = False,
    ) -> None:
        """Store the settings; nothing is read before `setup`.

        Args:
            root: the dataset's folder or its parent, or `wardrobe` for the embedded world, rendered on first use.
            people: number of people (or pairs of items) of the embedded world, all splits together.
            size: height and width that images are resized to.
            batch_size: training samples per process and step.
            world_seed: seed of the embedded world.
            eval_batch_size: samples per process and step in validation, test and prediction; by default `batch_size`.
            num_workers: worker processes per loader.
            seed: seed of the training order.
            in_memory: cache decoded images in memory, in the main process (no workers).
        """
        super().__init__()
        require_at_least_one(self.layout, size=size, batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.name = self.layout
        self.embedded = root == EMBEDDED
        self.root = embedded_folder(self.layout, people, size, world_seed) if self.embedded else Path(root).expanduser()
        self.people = people
        self.world_seed = world_seed
        self.size = size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = 0 if in_memory else num_workers
        self.seed = seed
        self.in_memory = in_memory
        self.split = "train"
        self.offers = frozenset()
        self.datasets: dict[str, Any] = {}
        # A test set smaller than the number of processes leaves some without samples.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self) -> None:
        """Render the embedded world unless it exists. Lightning calls this in one process per machine."""
        if self.embedded:
            render_embedded(self.root, self.layout, self.people, self.size, self.world_seed)

    def find_root(self) -> None:
        """Render the embedded world unless it exists, and set `root` to the folder that holds the dataset.

        Raises:
            UserError: if several folders in `root` do.
        """
        self.prepare_data()
        self.root = locate(self.root, self.markers)

    def training_loader(self, dataset: Dataset[Any], what: str = "samples", **options: Any) -> ResumableLoader:  # noqa: ANN401  DataLoader's own options
        """Return the training batches, shuffled by (seed, epoch), resumable mid-epoch; whole ones unless the method `trains_on_all`.

        Args:
            dataset: its samples are batches of one.
            what: the samples' name in errors.
            options: further options of DataLoader.

        Raises:
            UserError: if there are too few for one step.
        """
        shard, count = share(self.trainer), length_of(dataset)
        whole = not getattr(self.trainer and self.trainer.lightning_module, "trains_on_all", False)
        if whole and count < self.batch_size * shard["num_replicas"]:
            step = f"{shard['num_replicas']} x {self.batch_size}"
            raise UserError(f"{self.layout}: {count} training {what} do not fill one step of {step}; lower data.batch_size")
        sampler = EpochSampler(dataset, seed=self.seed, **shard)
        trained = self._trained if self.trainer else None
        return ResumableLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            trained=trained,
            drop_last=whole,
            **self._loader_options(),
            **options,
        )

    def evaluation_loader(self, dataset: Dataset[Any], block: int) -> Loader:
        """Return all samples in order, each once; every process gets its share, in blocks of `block` consecutive samples."""
        sampler = ShardSampler(dataset, **share(self.trainer), block=block)
        return Loader(dataset, sampler=sampler, batch_size=self.eval_batch_size, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        return {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0, "pin_memory": torch.cuda.is_available()}

    def _trained(self) -> int:
        """Return how many batches of the epoch have been trained on."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.state_dict()["processed"])
