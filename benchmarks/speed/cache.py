"""Size and speed of the encoding cache: measured on random samples at the tiny recipes' size, calculated for VITON-HD.

    python benchmarks/speed/cache.py OUT.json [--items 20000] [--image 64x48] [--dtype float32|float16] [--folder DIR]

The tiny encoders are timed on a few samples. For all others, a stand-in returns values of the same shapes at no cost, so that only the
cache is measured. Runs on one CPU core. Times are CPU times, which a busy machine changes less, unless stated as wall time.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from igr import Noise, image  # the script next to this one
from torch import Tensor

from fashiongen.data import encoding_cache
from fashiongen.data.encoding_cache import DTYPES, EncodedDataset, encode
from fashiongen.data.loading import Loader
from fashiongen.evaluation.provenance import versions
from fashiongen.methods.igr import IGR
from fashiongen.nn.encodings import Encoding

READS = 2000
ENCODED = 100
VITON_HD = {"train": 11647, "test": 2032}


def stand_in(encoding: Encoding, value: Tensor) -> Encoding:
    """Return an encoding that returns `value`, (1, ...), shifted by a pixel of the sample."""

    def compute(first: Tensor, *others: Tensor) -> Tensor:
        return value + first[:, :1, 0, 0].view(-1, *[1] * (value.ndim - 1)) / 255

    return replace(encoding, compute=compute, preprocessing="stand-in")


def viton_hd(dtype: torch.dtype) -> dict[str, int]:
    """Return the bytes of VITON-HD's training set at 1024x768: Stable Diffusion 1.5's moments twice, and CLIP ViT-H's embedding."""
    moments, embedding = 2 * 4 * (1024 // 8) * (768 // 8), 1024
    sample = (2 * moments + embedding) * dtype.itemsize
    return {"bytes of a sample": sample, "bytes of the training set": sample * VITON_HD["train"]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--image", type=image, default=(64, 48), metavar="HxW")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--folder", type=Path, help="folder for the temporary cache (default: the temporary folder)")
    parser.add_argument("--note", default="", help="stored with the conditions, such as what else the machine was doing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny, samples = IGR().encodings(), Noise(options.items, options.image)
    encodings = {kind: stand_in(encoding, encoding(samples[0])) for kind, encoding in tiny.items()}
    result: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        result[f"{name}, s"] = round(time.process_time() - started, 3)
        print(f"{name}: {result[f'{name}, s']} s", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        cache = Path(scratch) / "cache"
        started = time.process_time()
        for index in range(0, options.items, 100):
            samples[index]
        result["drawing the samples (within the next two), s"] = round((time.process_time() - started) * 100, 3)
        few = Noise(ENCODED, options.image)
        started = time.process_time()
        encode(Loader(few, batch_size=ENCODED), tiny, cache.with_name("few"), dtype=DTYPES[options.dtype])
        result["tiny encoders, cache included, ms a sample"] = round((time.process_time() - started) / ENCODED * 1e3, 3)
        wall = time.monotonic()
        for name, added in (("encode by the stand-in", options.items), ("encode again, when all is there", 0)):
            started = time.process_time()
            counts = encode(Loader(samples, batch_size=100), encodings, cache, dtype=DTYPES[options.dtype])
            timed(name, started)
            assert counts == dict.fromkeys(encodings, added)
        result["both, s on the wall"] = round(time.monotonic() - wall, 3)
        started = time.process_time()
        read = EncodedDataset(samples, cache, encodings)
        timed("open the cache", started)
        order = random.Random(0).sample(range(options.items), min(READS, options.items))
        started = time.process_time()
        for index in order:
            samples[index]
        drawn = time.process_time() - started
        started = time.process_time()
        for index in order:
            read[index]
        result["read and check a sample's three entries, ms"] = round((time.process_time() - started - drawn) / len(order) * 1e3, 3)
        parts = list(cache.rglob("*.safetensors"))
        result["parts"] = len(parts)
        result["bytes"] = sum(part.stat().st_size for part in parts)
        result["bytes of a sample"] = round(result["bytes"] / options.items)
    conditions = {
        "items": options.items,
        "image": list(options.image),
        "dtype": options.dtype,
        "bytes at which a part is closed": encoding_cache.PART_BYTES,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, 1 thread",
        "load": os.getloadavg()[0],
        "note": options.note,
        **versions(),
    }
    calculated = {name: viton_hd(dtype) for name, dtype in DTYPES.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"conditions": conditions, "measured": result, "VITON-HD at 1024x768, calculated": calculated}, indent=2) + "\n"
    )
    print("| measured | |\n| --- | ---: |")
    for name, value in result.items():
        print(f"| {name} | {value:,} |")
    print("\n| VITON-HD at 1024x768, calculated | bytes of a sample | GB of its 11,647 training samples |\n| --- | ---: | ---: |")
    for name, sizes in calculated.items():
        print(f"| {name} | {sizes['bytes of a sample']:,} | {sizes['bytes of the training set'] / 1e9:.2f} |")


if __name__ == "__main__":
    main()
