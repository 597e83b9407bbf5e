"""The cache of frozen encoders' outputs: correct values, stale ones refused, intact under kills and two writers."""

import errno
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fashiongen.batches import TryOffBatch
from fashiongen.data import encoding_cache
from fashiongen.data.encoding_cache import EncodedDataset, Entries, encode, fingerprints, shapes
from fashiongen.data.loading import Loader
from fashiongen.data.reframe import reframe
from fashiongen.errors import UserError
from fashiongen.nn.encodings import Encoding, identities

SIZE = (16, 12)


@dataclass
class Row:
    id: str


def person(index: int, size: tuple[int, int] = SIZE) -> TryOffBatch:
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 256, (1, 3, *size), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[..., 4:8, 3:6] = True
    return TryOffBatch(ids=[f"person-{index}"], person=image, mask=mask, category=["upper"], garment=image.flip(-1))


class People(torch.utils.data.Dataset):
    """Images of noise."""

    def __init__(self, count: int = 10, size: tuple[int, int] = SIZE) -> None:
        self.rows = [Row(f"person-{index}") for index in range(count)]
        self.samples = [person(index, size) for index in range(count)]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.samples[index]


def encodings(seed: int = 0, preprocessing: str = "plain", scale: float = 1.0) -> dict[str, Encoding]:
    """Return two kinds by a tiny frozen encoder, one of which reads two fields."""
    torch.manual_seed(seed)
    eye = nn.Conv2d(3, 2, 4, stride=4).requires_grad_(False)
    return {
        "whole": Encoding(reads=("person",), compute=lambda x: eye(x / 255) * scale, encoder=eye, preprocessing=preprocessing),
        "masked": Encoding(reads=("person", "mask"), compute=lambda x, m: eye(x / 255 * m), encoder=eye, preprocessing=preprocessing),
    }


def fill(folder: Path, people: torch.utils.data.Dataset, made: dict[str, Encoding], **options) -> dict[str, int]:
    return encode(Loader(people, batch_size=4), made, folder, **options)


def counting(made: dict[str, Encoding], calls: list[int]) -> dict[str, Encoding]:
    """Count the samples that each encoder gets."""

    def watched(encoding):
        return replace(encoding, compute=lambda *fields: (calls.append(len(fields[0])), encoding.compute(*fields))[1])

    return {kind: watched(encoding) for kind, encoding in made.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2**-11)])
def test_cached_values_are_the_encoders(tmp_path, dtype, tolerance):
    people, made = People(), encodings()
    assert fill(tmp_path / "cache", people, made, dtype=dtype) == {"whole": 10, "masked": 10}
    read = EncodedDataset(people, tmp_path / "cache", made)
    batch = TryOffBatch.collate([read[index] for index in range(10)])
    assert batch.ids == [row.id for row in people.rows]
    for kind, encoding in made.items():
        assert batch.encoded[kind].dtype == dtype
        torch.testing.assert_close(batch.encoded[kind].float(), encoding(batch), rtol=tolerance, atol=1e-6)
    assert not torch.equal(batch.encoded["whole"], batch.encoded["masked"])


def test_autocast_changes_nothing(tmp_path):
    """Training under bf16-mixed without a cache sees what it would read from one, which is filled outside of any trainer's context."""
    people, made = People(), encodings()
    fill(tmp_path, people, made)
    batch = TryOffBatch.collate([EncodedDataset(people, tmp_path, made)[index] for index in range(4)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for kind, encoding in made.items():
            assert encoding(batch).dtype == torch.float32
            assert torch.equal(encoding(batch), batch.encoded[kind])


@pytest.mark.parametrize(("first", "second"), [("float32", "float16"), ("float16", "float32")])
def test_entries_of_another_type_are_refused(tmp_path, first, second):
    people, made = People(), encodings()
    fill(tmp_path, people, made, dtype=encoding_cache.DTYPES[first])
    calls = []
    with pytest.raises(UserError, match=f"cache {tmp_path} holds its whole as {first}: add --dtype {first}, or choose another --out"):
        fill(tmp_path, People(count=12), counting(made, calls), dtype=encoding_cache.DTYPES[second])
    assert calls == []
    assert fill(tmp_path, people, encodings(seed=1), dtype=encoding_cache.DTYPES[second])["whole"] == 10, (
        "another encoder's entries do not count"
    )
    assert fill(tmp_path, People(count=12), made, dtype=encoding_cache.DTYPES[first]) == {"whole": 2, "masked": 2}


def test_only_missing_samples_are_encoded(tmp_path):
    people, made, calls = People(), encodings(), []
    fill(tmp_path, people, made)
    assert fill(tmp_path, people, counting(made, calls)) == {"whole": 0, "masked": 0}
    assert calls == []
    people.samples[3] = replace(people.samples[3], mask=~people.samples[3].mask)
    assert fill(tmp_path, people, counting(made, calls)) == {"whole": 0, "masked": 1}
    assert calls == [1]
    assert torch.equal(EncodedDataset(people, tmp_path, made)[3].encoded["masked"], made["masked"](people[3]))


def test_a_reframed_sample_does_not_take_the_plain_ones_entry(tmp_path):
    plain, moved, made = People(), People(), encodings()
    moved.samples = [reframe(sample, 0.6) for sample in plain.samples]
    fill(tmp_path, plain, made)
    with pytest.raises(UserError, match="reframed"):
        EncodedDataset(moved, tmp_path, made)
    fill(tmp_path, moved, made)
    for people in (plain, moved):
        read = EncodedDataset(people, tmp_path, made)
        for index in range(10):
            torch.testing.assert_close(read[index].encoded["whole"], made["whole"](people[index]))


def test_everything_that_decides_a_value_is_in_its_encoders_hash():
    class Configured(nn.Conv2d):
        def __init__(self, **config):
            super().__init__(1, 1, 1)
            nn.init.ones_(self.weight)
            nn.init.ones_(self.bias)
            self.config = config

    def identity(encoder, reads=("person",), preprocessing="plain"):
        one = Encoding(reads=reads, compute=lambda x: x, encoder=encoder, preprocessing=preprocessing)
        return identities({"one": one})["one"]

    plain = identity(Configured(heads=1, _name_or_path="here", transformers_version="5.0"))
    assert identity(Configured(heads=1, _name_or_path="there", transformers_version="5.1")) == plain, "where it came from decides nothing"
    changed = Configured(heads=1)
    nn.init.constant_(changed.bias, 1.0 + 2**-20)
    others = [
        identity(changed),
        identity(Configured(heads=2)),
        identity(Configured(heads=1), preprocessing="other"),
        identity(Configured(heads=1), reads=("garment",)),
    ]
    assert len({plain, *others}) == 5


def changed_image():
    people = People()
    people.samples[0].person[0, 0, 0, 0] ^= 1
    return people


REFUSED = {
    "no folder": (lambda folder: (folder / "absent", People(), encodings()), "absent does not exist"),
    "other weights": (lambda folder: (folder, People(), encodings(seed=1)), "whole comes from another encoder"),
    "other preprocessing": (lambda folder: (folder, People(), encodings(preprocessing="squared")), "whole comes from another encoder"),
    "other size": (
        lambda folder: (folder, People(size=(24, 12)), encodings()),
        "whole: sample person-0 is 16x12 in the cache .*, but 24x12 in",
    ),
    "more samples": (lambda folder: (folder, People(count=13), encodings()), "lacks the whole of 3 of 13 samples, first person-10"),
    "a changed image": (
        lambda folder: (folder, changed_image(), encodings()),
        "does not fit sample person-0: its images differ from those",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_stale_cache_is_refused_with_the_remedy(tmp_path, case):
    fill(tmp_path / "cache", People(), encodings())
    given, line = REFUSED[case]
    folder, people, made = given(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"{line}.* run `fashiongen data encode --config RECIPE --out {folder}`"):
        EncodedDataset(people, folder, made)
    fill(folder, people, made)
    EncodedDataset(people, folder, made)


def test_an_image_that_changes_later_is_refused_when_it_is_read(tmp_path):
    people, made = People(), encodings()
    fill(tmp_path, people, made)
    read = EncodedDataset(people, tmp_path, made)
    people.samples[7] = replace(people.samples[7], person=255 - people.samples[7].person)
    assert read[6].encoded
    with pytest.raises(UserError, match="does not fit sample person-7"):
        read[7]


def test_a_sample_without_the_field_is_named(tmp_path):
    people, made = People(), {"garment": replace(encodings()["whole"], reads=("garment_mask",))}
    with pytest.raises(UserError, match="sample person-0 has no garment_mask"):
        fill(tmp_path, people, made)


@pytest.mark.parametrize("wrong", ["a number flipped", "cut off", "no header", "a pickle", "empty"])
def test_a_damaged_part_is_never_taken_for_right(tmp_path, wrong):
    people, made = People(), encodings()
    fill(tmp_path, people, made)
    part = next(tmp_path.glob("masked-*/*.safetensors"))
    content = bytearray(part.read_bytes())
    if wrong == "a number flipped":
        content[-(10 - 6) * 24 * 4] ^= 1  # in the last bit of some number of the seventh of ten entries of 24 float32
    part.write_bytes(
        {"a number flipped": content, "cut off": content[:-1], "no header": content[100:], "a pickle": pickle.dumps(print), "empty": b""}[
            wrong
        ]
    )
    with pytest.raises(UserError, match=rf"{part} is damaged: delete it, then run"):
        read = EncodedDataset(people, tmp_path, made)
        for index in range(10):
            if wrong == "a number flipped":
                assert index < 7, "the seventh entry was taken for right"
            read[index]
    part.unlink()
    assert fill(tmp_path, people, made) == {"whole": 0, "masked": 10}


def test_numbers_too_large_for_float16_are_refused(tmp_path):
    made = encodings(scale=1e7)
    with pytest.raises(UserError, match="the whole of sample person-0 cannot be stored as float16: add --dtype float32, with a new --out"):
        fill(tmp_path, People(), made, dtype=torch.float16)
    assert fill(tmp_path, People(), made) == {"whole": 10, "masked": 10}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_ends_in_one_line_and_keeps_what_was_written(tmp_path, monkeypatch, number):
    people, made = People(), encodings()
    monkeypatch.setattr(encoding_cache, "PART_BYTES", 1)
    synced = []

    def fsync(handle, real=os.fsync):
        synced.append(handle)
        if len(synced) > 4:  # a part is synced, then its folder: the third part fails
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match=rf"cannot write to the cache .*{os.strerror(number)}.*what is written is kept"):
            fill(tmp_path, people, made)
    assert not list(tmp_path.glob("*/.*")), "half a part was left"
    assert sum(fill(tmp_path, people, made).values()) == 20 - 2 * 4


def test_old_leftovers_of_killed_writers_are_removed(tmp_path):
    people, made = People(), encodings()
    fill(tmp_path, people, made)
    folder = next(tmp_path.glob("whole-*"))
    old, young = folder / ".old.safetensors", folder / ".young.safetensors"
    for path in (old, young):
        path.write_bytes(b"half a part")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    fill(tmp_path, people, made)
    assert young.exists() and not old.exists()
    EncodedDataset(people, tmp_path, made)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_an_entry_reads_no_whole_part(tmp_path):
    """A part of 64 MB, of which one entry of 1 MB is touched; a worker process gets the index, not the values."""
    entries = Entries(tmp_path, "whole", "0" * 64)
    value = torch.rand(1, 512, 512)
    entries.write([(f"person-{index}", "x", value + index) for index in range(64)], ((3, 16, 12),))
    content = next(tmp_path.rglob("*.safetensors"))
    assert content.stat().st_size > 64 * 2**20

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    fresh = Entries(tmp_path, "whole", "0" * 64)
    before = resident()
    found = fresh.read("person-40", "x", ((3, 16, 12),))
    assert resident() - before < 8 * 2**20
    assert torch.equal(found, value + 40)
    pickled = pickle.dumps(fresh)
    assert len(pickled) < 2**20
    assert torch.equal(pickle.loads(pickled).read("person-63", "x", ((3, 16, 12),)), value + 63)


def endless(start: int):
    """Batches of two, from the sample `start` on."""
    for index in itertools.count(start, 2):
        yield TryOffBatch.collate([person(index), person(index + 1)])


def right_entries(folder: Path, made: dict[str, Encoding]) -> int:
    """Read every readable entry, compare it with the encoder's output, and return how many there are."""
    count = 0
    reads = {kind: encoding.reads for kind, encoding in made.items()}
    for kind, identity in identities(made).items():
        entries = Entries(folder, kind, identity)
        for id_ in entries.ids():
            sample = person(int(id_.removeprefix("person-")))
            value = entries.read(id_, fingerprints(sample, reads)[kind], shapes(sample, reads[kind]))
            torch.testing.assert_close(value, made[kind](sample))
            count += 1
    return count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_writers_killed_at_ten_random_moments_leave_only_right_entries(tmp_path, monkeypatch):
    """Two writers at a time on the same samples, each killed while it writes; then the rest is encoded."""
    monkeypatch.setattr(encoding_cache, "PART_BYTES", 200)  # parts of two or three samples: nearly all the time is spent on writing
    made, moments, context = encodings(), random.Random(0), multiprocessing.get_context("fork")
    counts = [0]
    for _ in range(5):
        before = len(list(tmp_path.rglob("*")))
        writers = [context.Process(target=encode, args=(endless(start), made, tmp_path)) for start in (0, 1)]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob("*"))) < before + 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        for writer in writers:
            time.sleep(moments.uniform(0, 0.05))
            os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            writer.join()
        assert [writer.exitcode for writer in writers] == [-signal.SIGKILL] * 2
        counts.append(right_entries(tmp_path, made))
    assert all(later >= earlier for earlier, later in itertools.pairwise(counts)) and counts[-1] > 0

    people = People(count=counts[-1] // 2 + 20)
    monkeypatch.setattr(encoding_cache, "PART_BYTES", 2**20)
    assert sum(fill(tmp_path, people, made).values()) > 0
    read = EncodedDataset(people, tmp_path, made)
    for index in range(len(people)):
        for kind, encoding in made.items():
            torch.testing.assert_close(read[index].encoded[kind], encoding(people[index]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_entries_read_while_two_writers_run_are_complete(tmp_path, monkeypatch):
    """Two processes fill the cache with the same samples in parts of some 200 kB, while this one reads whatever it finds."""
    monkeypatch.setattr(encoding_cache, "PART_BYTES", 200_000)
    eye = encodings()["whole"]
    made = {"whole": replace(eye, compute=lambda x: eye.compute(x).repeat(1, 500, 1, 1))}
    reads, identity, context = {"whole": ("person",)}, identities(made)["whole"], multiprocessing.get_context("fork")
    writers = [context.Process(target=encode, args=(itertools.islice(endless(start), 150), made, tmp_path)) for start in (0, 1)]
    for writer in writers:
        writer.start()
    known, meanwhile, at_work = set(), 0, True
    try:
        while at_work:
            at_work = any(writer.is_alive() for writer in writers)
            entries = Entries(tmp_path, "whole", identity)
            for id_ in entries.ids() - known:
                sample = person(int(id_.removeprefix("person-")))
                value = entries.read(id_, fingerprints(sample, reads)["whole"], shapes(sample, reads["whole"]))
                torch.testing.assert_close(value, made["whole"](sample))
            meanwhile += at_work and entries.ids() > known
            known = entries.ids()
    finally:
        for writer in writers:
            writer.kill()
            writer.join()
    assert meanwhile >= 3, "nothing was read while the writers wrote"
    assert [writer.exitcode for writer in writers] == [0, 0] and len(known) == 301
