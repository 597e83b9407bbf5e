"""`fashiongen data encode`: builds the method like `fit`, but runs its frozen encoders over the data."""

from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset

from fashiongen.cli.cache import encodings_of
from fashiongen.cli.lightning import FashionCLI, run
from fashiongen.cli.protocols import CommandLine
from fashiongen.data.base import FashionData
from fashiongen.data.encoding_cache import DTYPES, encode
from fashiongen.data.loading import Loader


class EncodeCLI(FashionCLI):
    """Fills a cache instead of training."""

    def __init__(self, line: CommandLine, out: Path, splits: list[str], dtype: str) -> None:
        """Fill the cache `out` with the encodings of `splits`, in `dtype`."""
        self.out, self.splits, self.dtype = out, splits, dtype
        super().__init__(line)

    def _parse_ckpt_path(self) -> None:
        """Frozen encoders depend on no checkpoint or parent."""

    def _run_subcommand(self, subcommand: str) -> None:
        encodings = encodings_of(self.model)
        data: FashionData = self.datamodule
        data.prepare_data()
        data.setup("fit")
        samples: ConcatDataset[Any] = ConcatDataset([data.datasets[split] for split in self.splits if len(data.datasets[split])])
        loader = Loader(samples, batch_size=data.eval_batch_size, num_workers=data.num_workers)
        device = self.trainer.strategy.root_device
        added = encode(loader, encodings, self.out, device=device, dtype=DTYPES[self.dtype])
        for kind, count in added.items():
            print(f"{kind}: {count} encoded, {len(samples) - count} already cached")
        size = sum(part.stat().st_size for part in self.out.rglob("*.safetensors"))
        print(f"{self.out} holds {size / 1e6:.1f} MB; train with --cache {self.out}")


def encode_data(args: list[str], out: Path, splits: list[str], dtype: str, *, debug: bool = False) -> None:
    """Fill the cache `out` for the recipe and keys in `args`, the arguments of `fit`."""
    run(["fit", *args], lambda line: EncodeCLI(line, out.expanduser(), splits, dtype), debug=debug)
