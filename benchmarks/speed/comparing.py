"""What the scripts of this folder share that compare two ways of computing the same: samples, clock, rows, JSON and table."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashiongen.batches import Batch, TryOnBatch
from fashiongen.data.encoding_cache import EncodedDataset, encode
from fashiongen.data.loading import Loader
from fashiongen.evaluation.provenance import device_name, versions
from fashiongen.nn.encodings import Encoding

IMAGES = {"tiny": (64, 48), "small": (64, 48), "full": (1024, 768)}
"""Height and width of images by the size of the networks; `small` ones have random weights as the full ones, to rehearse these."""

GREY = 128
AnyBatch = TypeVar("AnyBatch", bound=Batch)


@dataclass
class Row:
    """What a dataset must know about a sample."""

    id: str


class Noise(Dataset[AnyBatch], Generic[AnyBatch]):
    """Random people and garments, each with a box as mask; drawn once, since a step that reads a sample must not pay for that."""

    def __init__(self, kind: type[AnyBatch], count: int, size: tuple[int, int]) -> None:
        """Draw `count` samples of (height, width); `kind` is `TryOffBatch` or `TryOnBatch`."""
        self.rows = [Row(f"noise-{index}") for index in range(count)]
        self.size = size
        self.samples = [self._draw(kind, index) for index in range(count)]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def __getitem__(self, index: int) -> AnyBatch:
        """Return one sample."""
        return self.samples[index]

    def _draw(self, kind: type[AnyBatch], index: int) -> AnyBatch:
        height, width = self.size
        generator = torch.Generator().manual_seed(index)
        person, garment = (torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8) for _ in range(2))
        mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
        mask[..., height // 4 : height // 2, width // 4 : 3 * width // 4] = True
        told: dict[str, Any] = {"person": person, "mask": mask, "garment": garment, "garment_mask": mask, "category": ["upper"]}
        if kind is TryOnBatch:
            told["agnostic"] = person.masked_fill(mask, GREY)
        return kind(ids=[self.rows[index].id], **told)


def moved(batch: AnyBatch, device: torch.device) -> AnyBatch:
    """Return a batch with its tensors on a device."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


class Samples(Generic[AnyBatch]):
    """A batch of noise on the device, and the cache of its encodings.

    Attributes:
        batch: B samples without encodings, so that a method runs its frozen encoders.
    """

    def __init__(self, kind: type[AnyBatch], count: int, size: tuple[int, int], device: torch.device) -> None:
        """Draw `count` samples of (height, width)."""
        self.device = device
        self.noise = Noise(kind, count, size)
        self.batch = moved(kind.collate(self.noise.samples), device)

    def cache(self, encodings: Mapping[str, Encoding], folder: Path) -> Callable[[], AnyBatch]:
        """Encode the samples into `folder`; return a function that reads and checks their encodings, as a training's worker does."""
        encode(Loader(self.noise, batch_size=len(self.noise)), encodings, folder, device=self.device)
        cached = EncodedDataset(self.noise, folder, encodings)

        def read() -> AnyBatch:
            batch = self.batch.collate([cached[index] for index in range(len(cached))])
            assert batch.encoded is not None
            return replace(self.batch, encoded={kind: value.to(self.device) for kind, value in batch.encoded.items()})

        return read


def half(value: Any, which: int) -> Any:  # noqa: ANN401  of the same kind
    """Return one half of the batch, 0 or 1, of what was doubled for guidance: tensors, or tuples and dictionaries of such, at any depth."""
    if isinstance(value, Tensor):
        return value.chunk(2)[which]
    if isinstance(value, dict):
        return {key: half(part, which) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [half(part, which) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def size_of(text: str) -> tuple[int, int]:
    """Parse HEIGHTxWIDTH."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def parser_of(description: str | None, *, steps: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all scripts have; `steps` describes --steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file, written after each row")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(IMAGES), default="tiny")
    parser.add_argument("--image", type=size_of, metavar="HxW", help="default: 1024x768 for full, else 64x48")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=25, help=steps)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, as the recipes train; otherwise float32")
    parser.add_argument("--weights", type=Path, help="folder to keep the random weights of the full size in (default: temporary)")
    parser.add_argument("--note", default="", help="stored with the conditions, such as what else the machine was doing")
    parser.add_argument("--resume", action="store_true", help="do not measure the rows again that OUT holds, if its conditions are these")
    parser.add_argument("--table", action="store_true", help="measure nothing: print the table of OUT")
    return parser


class Comparison:
    """The rows of one run of a script, written after each.

    Attributes:
        rows: by name: seconds of the `short` and the `long` way, their `ratio`, the `difference` of their results, and on a GPU the
            peak memory of both in GB.
        peak: bytes that were allocated at most on the GPU since this object was made.
    """

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        options: argparse.Namespace,
        tolerance: float,
        written: Callable[[dict[str, Any]], None] | None = None,
        **more: object,
    ) -> None:
        """Start without rows, or with those of OUT for --resume.

        Args:
            parser: tells of mistakes.
            options: as `parser_of` defines them.
            tolerance: what the results of two ways may differ by.
            written: called with the content of the JSON file after each row.
            more: further conditions.
        """
        self.options, self.tolerance, self.written = options, tolerance, written
        self.device = torch.device(options.device)
        self.size: tuple[int, int] = options.image or IMAGES[options.size]
        self.load = os.getloadavg()[0]
        self.more = more
        self.rows: dict[str, dict[str, float]] = {}
        self.peak = 0
        if options.resume and options.out.is_file():
            before = json.loads(options.out.read_text())
            now = json.loads(json.dumps(self.conditions()))  # with lists for pairs
            if other := [key for key in now if key not in ("load", "note") and before["conditions"].get(key) != now[key]]:
                parser.error(f"--resume: {options.out} was measured with another {', '.join(other)}: choose another file")
            self.rows = before["rows"]

    def conditions(self) -> dict[str, Any]:
        """Return under what all rows are measured."""
        return {
            "device": device_name(self.device, 1),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
            "load": [self.load, os.getloadavg()[0]],
            "seconds": "of the processor" if self.device.type == "cpu" else "on the wall",
            "precision": "bf16 autocast" if self.options.bf16 else "float32",
            **{name: getattr(self.options, name) for name in ("size", "batch", "steps", "repeats", "note")},
            "image": list(self.size),
            **self.more,
            **versions(),
        }

    def precision(self) -> AbstractContextManager[None]:
        """Return the context of one measurement: entered anew for each, since within one autocast casts the weights only once."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16)

    def clock(self) -> float:
        """Return seconds: of the wall with a GPU, of the processor without one, which a busy machine changes less."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, name: str, short: Callable[[], Tensor], long: Callable[[], Tensor], *, relative: bool = True) -> None:
        """Measure a row: both ways alternately, once to warm up and then --repeats times; write the medians.

        Args:
            name: of the row.
            short: the optimised way.
            long: the plain way, which must return the same.
            relative: whether the largest absolute difference of the results is divided by their root mean square.
        """
        if name in self.rows:
            return
        print(name, file=sys.stderr, flush=True)
        ways = {"short": short, "long": long}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        results, peaks = dict[str, Tensor](), dict.fromkeys(ways, 0)
        for repeat in range(1 + self.options.repeats):
            for way, compute in ways.items():
                self._forget_peak()
                started = self.clock()
                with self.precision():
                    results[way] = compute()
                took = self.clock() - started
                peaks[way] = max(peaks[way], self._forget_peak())
                if repeat:
                    seconds[way].append(took)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        found, expected = results["short"].float(), results["long"].float()
        scale = float(expected.square().mean().sqrt()) if relative else 1.0
        difference = float((found - expected).abs().max()) / scale
        row = {**medians, "ratio": medians["long"] / medians["short"], "difference": difference}
        if self.device.type == "cuda":
            row |= {f"{way} peak": peak / 1e9 for way, peak in peaks.items()}
        self.rows[name] = row
        self.write()

    def _forget_peak(self) -> int:
        """Return the bytes that were allocated at most since the last call, and start anew."""
        if self.device.type != "cuda":
            return 0
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.peak = max(self.peak, peak)
        return peak

    def content(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {"conditions": self.conditions(), "rows": self.rows}

    def write(self) -> None:
        """Write the JSON file; a run that is stopped loses no row that it has measured, and no file is ever half a file."""
        self.options.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.options.out.with_name(f".{self.options.out.name}.part")
        part.write_text(json.dumps(self.content(), indent=2) + "\n")
        part.replace(self.options.out)
        if self.written is not None:
            self.written(self.content())

    def end(self, difference: str) -> None:
        """Print the table, whose last column is headed `difference`; fail if two ways gave different results."""
        print(page(self.content(), difference))
        unequal = {name: row["difference"] for name, row in self.rows.items() if not row.get("difference", 0.0) < self.tolerance}
        assert not unequal, f"results differ by more than {self.tolerance}: {unequal}"


def page(content: dict[str, Any], difference: str) -> str:
    """Return the conditions and the table of a JSON file as Markdown."""
    told = ", ".join(f"{key}: {value}" for key, value in content["conditions"].items())
    return f"{told}\n\n{table(content['rows'], difference)}"


def show_table(parser: argparse.ArgumentParser, out: Path, difference: str) -> None:
    """Print the conditions and the table of a JSON file."""
    if not out.is_file():
        parser.error(f"--table: {out} does not exist: measure first, without --table")
    print(page(json.loads(out.read_text()), difference))


def table(rows: dict[str, dict[str, float]], difference: str) -> str:
    """Return rows as a Markdown table, with peak memory if it was measured."""
    columns = {"short": "optimised, s", "long": "plain, s", "ratio": "plain / optimised", "difference": difference}
    if any("long peak" in row for row in rows.values()):
        columns |= {"short peak": "peak of the optimised, GB", "long peak": "peak of the plain, GB"}
    lines = [f"| | {' | '.join(columns.values())} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{row[key]:.3g}' if key in row else '' for key in columns)} |")
    return "\n".join(lines)
