"""A `.npy` file is read without running anything that it asks for."""

import copyreg
import io
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from fashiongen.data.object_arrays import read_npy
from fashiongen.errors import UserError


def saved(path, value):
    """Save a value as DiFashion does, in a 0-d object array."""
    array = np.empty((), dtype=object)
    array[()] = value
    np.save(path, array, allow_pickle=True)
    return path


def header_only(descr, shape):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def with_pickle(path, content):
    """Write a `.npy` file of a 0-d object array with any pickle as its content."""
    path.write_bytes(header_only("|O", ()) + content)
    return path


PLAIN = [
    {"uids": [0, 1], "outfits": [[1, 2, 0, 4], [5, 0, 7, 8]], "category": [[0, 3, 3, 1], [1, 1, 2, 0]]},
    {0: {7: [np.int64(4), 5, np.float32(0.5), np.str_("a"), np.bool_(True)]}},
    {"set": {1, 2}, "frozen": frozenset({3}), "tuple": (None, True, b"x", 1.5, 10**40, -1), "empty": [{}, [], (), set()]},
    [],
    "text",
]


@pytest.mark.parametrize("value", PLAIN)
@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_values_are_read_as_they_were(tmp_path, value, protocol):
    array = np.empty((), dtype=object)
    array[()] = value
    content = pickle.dumps(array, protocol=protocol)
    if protocol < 4:
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    read = read_npy(with_pickle(tmp_path / "a.npy", content))
    assert read == value and type(read) is type(value)


def test_arrays_within_are_read_with_their_type_and_order(tmp_path):
    inside = {
        "float": np.arange(6, dtype=">f4").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "text": np.array(["skirt", "dress"]),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "none": np.empty((0, 4), dtype=np.int8),
    }
    read = read_npy(saved(tmp_path / "a.npy", inside))
    for name, array in inside.items():
        assert read[name].dtype == array.dtype.newbyteorder("=") and read[name].shape == array.shape and (read[name] == array).all(), name


@pytest.mark.parametrize("array", [np.arange(12.0).reshape(3, 4), np.array(["a", "bc"]), np.zeros((0, 3)), np.array(7)])
def test_ordinary_arrays_are_read(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    read = read_npy(tmp_path / "a.npy")
    assert read.dtype == array.dtype and np.array_equal(read, array)


def planted(folder):
    """A command that creates a file, in a call of `os.system`."""
    return f"touch {folder / 'planted'}"


class Reduced:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def text(value):
    """Push a short text: SHORT_BINUNICODE."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def attacks(folder):
    """Pickles that run a command where nothing stops them, by the opcode they use."""
    command = planted(folder)
    system, call = b"cposix\nsystem\n", text(command) + b"\x85R"
    protocol = b"\x80\x04"
    state = b"}" + text("__setstate__") + system + b"s"
    return {
        "GLOBAL": b"\x80\x02" + system + call + b".",
        "STACK_GLOBAL": protocol + text("posix") + text("system") + b"\x93" + call + b".",
        "REDUCE": pickle.dumps(Reduced(command), protocol=4),
        "INST": b"(" + b"S'" + command.encode() + b"'\niposix\nsystem\n.",
        "OBJ": b"(" + system + text(command) + b"o.",
        "NEWOBJ": protocol + b"csubprocess\nPopen\n" + text("touch") + b"\x85\x81.",
        "NEWOBJ_EX": protocol + b"csubprocess\nPopen\n)}\x92.",
        "EXT1": protocol + b"\x82\xf0" + call + b".",
        "PERSID": b"P" + command.encode() + b"\n.",
        "BINPERSID": protocol + text(command) + b"Q.",
        # Giving a stand-in a method of the attacker's.
        "BUILD": protocol + b"cnumpy\nndarray\n" + state + b"b.",
        "BUILD of slots": protocol + b"cnumpy\nndarray\n" + b"N" + state + b"\x86b.",
        "BUILD of a type": protocol + b"cnumpy\ndtype\n" + text("O8") + b"\x85R" + state + b"b.",
        # A pickle in bytes, and what would read it.
        "nested": protocol + b"cpickle\nloads\n" + pickle.dumps(pickle.dumps(Reduced(command)), protocol=4)[2:-1] + b"\x85R.",
        "eval": protocol + b"cbuiltins\neval\n" + text(f"__import__('os').system('{command}')"[:250]) + b"\x85R.",
        "getattr": protocol + b"cbuiltins\ngetattr\n(cnumpy\nndarray\n" + text("__class__") + b"tR.",
        "deeper": protocol + text("numpy") + text("ndarray.__class__") + b"\x93.",
        "load of numpy": protocol + b"cnumpy\nload\n" + text(str(folder / "other.npy")) + b"\x85R.",
    }


@pytest.mark.parametrize("opcode", attacks(Path()))
def test_nothing_that_a_file_asks_for_is_run(tmp_path, monkeypatch, opcode):
    if opcode == "EXT1":
        copyreg.add_extension("posix", "system", 0xF0)
        monkeypatch.setitem(copyreg._extension_cache, 0xF0, os.system)  # another unpickler has looked it up before
    try:
        content = attacks(tmp_path)[opcode]
        wrapped = {"alone": content, "in an array": b"".join([pickle.dumps(["x"], protocol=2)[:2], b"(", content[:-1], b"t."])}
        for where, payload in wrapped.items():
            with pytest.raises(UserError) as error:
                read_npy(with_pickle(tmp_path / "a.npy", payload))
            assert "\n" not in str(error.value) and str(tmp_path / "a.npy") in str(error.value), where
            assert not (tmp_path / "planted").exists()
        assert "is refused" in str(error.value) or opcode.startswith(("NEWOBJ", "BUILD"))
    finally:
        if opcode == "EXT1":
            copyreg.remove_extension("posix", "system", 0xF0)
    assert read_npy(saved(tmp_path / "b.npy", {1: np.arange(3)}))[1].tolist() == [0, 1, 2]  # and nothing was changed for later files


@pytest.mark.parametrize("opcode", ["GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "EXT1", "nested", "eval"])
def test_the_attacks_would_work_on_an_open_unpickler(tmp_path, opcode):
    """Otherwise the test above would show nothing."""
    if opcode == "EXT1":
        copyreg.add_extension("posix", "system", 0xF0)
    try:
        pickle.loads(attacks(tmp_path)[opcode])
    finally:
        if opcode == "EXT1":
            copyreg.remove_extension("posix", "system", 0xF0)
    assert (tmp_path / "planted").exists()


def array_state(shape, dtype, content):
    """The pickle of an array with any state."""
    head = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01"
    return head + pickle.dumps(shape, protocol=4)[2:-1] + dtype + b"\x89" + pickle.dumps(content, protocol=4)[2:-1] + b"tb."


OBJECTS = b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"


def dtype_of(name, state=OBJECTS):
    return b"cnumpy\ndtype\n" + text(name) + b"\x89\x88\x87R" + state


FIELDS = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + dtype_of("O8") + b"K\x00\x86sK\x08K\x01K\x00tb"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (array_state((4,), dtype_of("O8"), [1, 2]), "do not fit its shape"),
        (array_state((10**11,), dtype_of("O8"), []), "do not fit its shape"),
        (array_state((-1,), dtype_of("O8"), []), "no shape"),
        (array_state((1,), dtype_of("i8", b""), b"1234"), "do not fit its shape"),
        (array_state((1,), dtype_of("O8", b""), b"12345678"), "do not fit its shape"),
        (array_state((1,), dtype_of("V8"), b"\x01" * 8), "refused.*type 'V8'"),
        (array_state((1,), dtype_of("i8", FIELDS), b"\x01" * 8), "refused.*no number, text or object"),
        (b"\x80\x04cnumpy.core.multiarray\nscalar\n" + dtype_of("O8") + b"C\x08aaaaaaaa\x86R.", "refused.*scalar"),
        (b"\x80\x04cnumpy.core.multiarray\nscalar\n" + dtype_of("i8", b"") + b"C\x02aa\x86R.", "do not fit"),
        (b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n\x8a\x05\x00\x00\x00\x00\x01\x85C\x01b\x87R.", "refused.*empty"),
    ],
    ids=["short list", "huge", "negative", "short bytes", "addresses", "void", "fields", "object scalar", "short scalar", "not empty"],
)
def test_states_that_numpy_would_trust_are_refused(tmp_path, content, told):
    with pytest.raises(UserError, match=told) as error:
        read_npy(with_pickle(tmp_path / "a.npy", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"no array at all, just text",
        b"\x93NUMPY\x01\x00",
        b"\x93NUMPY\x07\x00\x10\x00" + b" " * 16,
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 16,
        b"\x93NUMPY\x01\x00\x76\x00__import__('os').system('touch planted')" + b" " * 80,
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 60000) + (b"[" * 59999 + b"\n"),
        header_only("<f8", (10**12,)),
        header_only("<f8", (2**62, 2**62)),
        header_only("<f8", (-3,)) + b"\0" * 24,
        header_only("<U1000000000", (3,)),
        header_only([("a", "|O"), ("b", "<i8")], (1,)) + b"\0" * 16,
        header_only("|O", ()),
        header_only("|O", ()) + pickle.dumps({"a": 1}),
        header_only("|O", (2,)) + pickle.dumps(np.array([1, 2, 3], dtype=object)),
    ],
)
def test_what_is_no_sound_file_is_told_in_one_line(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npy").write_bytes(content)
    began = time.process_time()
    with pytest.raises(UserError) as error:
        read_npy(tmp_path / "a.npy")
    assert "\n" not in str(error.value) and "a.npy" in str(error.value)
    assert time.process_time() - began < 2 and not (tmp_path / "planted").exists()


def test_a_header_that_states_more_than_follows_allocates_nothing(tmp_path):
    """Numpy itself would first ask for all the memory that the header states."""
    (tmp_path / "a.npy").write_bytes(header_only("<f8", (10**9,)) + b"\0" * 8)
    with pytest.raises(UserError, match="its header states 1000000000 values of 8 bytes, and 8 bytes follow"):
        read_npy(tmp_path / "a.npy")


def test_a_file_cut_anywhere_is_told_in_one_line(tmp_path):
    whole = saved(tmp_path / "a.npy", PLAIN[1]).read_bytes()
    for end in range(len(whole) - 1):
        (tmp_path / "a.npy").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"truncated, damaged or no \.npy file"):
            read_npy(tmp_path / "a.npy")
    with pytest.raises(UserError, match="is missing"):
        read_npy(tmp_path / "b.npy")
