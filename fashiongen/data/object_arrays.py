"""Reads `.npy` files that hold pickled Python objects, as DiFashion publishes its lists, without running anything that a file asks for.

`numpy.load(allow_pickle=True)` runs any code that a file contains. Here the unpickler knows numpy's reconstruction names and plain
containers alone, and for numpy's names it calls stand-ins of our own: even `ndarray.__setstate__` and `dtype.__setstate__` trust their
arguments, and a made-up dtype makes numpy follow made-up addresses. What a file can still do is fill the memory.
"""

from __future__ import annotations

import copyreg
import gc
import math
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fashiongen.errors import UserError

MOST_DIMENSIONS = 32
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_OBJECT = np.dtype(object)
# Numbers, truth values, texts and objects; no structures, which may hide objects.
_TYPE = re.compile(r"[<>=|]?([biuf]\d|[biuf]1\d|c\d{1,2}|\?|[SU]\d{1,9}|O8?)")


class DamagedFileError(UserError):
    """A file is truncated, damaged or no `.npy` file, but asks for nothing that is refused."""


class _Refused(Exception):
    """A file asks for something that is neither a plain value nor a container."""


def read_npy(path: Path) -> Any:  # noqa: ANN401  whatever the file holds
    """Return what a `.npy` file holds: the object of a 0-d object array, else an array.

    Args:
        path: the file.

    Returns:
        Dictionaries, lists, tuples, sets, texts, bytes, numbers, truth values, None, and numpy's arrays and scalars of such.

    Raises:
        DamagedFileError: if the file is truncated, damaged or no `.npy` file.
        UserError: if it is missing, or asks for anything else than such values. Nothing of it is run.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except _Refused as error:
        remedy = "such a file may run any code when it is read; save plain dictionaries, lists and numbers, or get it from its authors"
        raise UserError(f"{path} is refused, because {error}: {remedy}") from None
    except Exception as error:  # whatever a damaged pickle makes the unpickler raise
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedFileError(f"{path} is truncated, damaged or no .npy file ({detail}); get it again from its authors") from error


def _read(file: BinaryIO, size: int) -> Any:  # noqa: ANN401  whatever the file holds
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format, of which only 1.0 and 2.0 hold plain arrays")
    shape, _, dtype = _HEADERS[version](file)
    count = _count(shape)
    if dtype.hasobject:
        if dtype != _OBJECT:
            raise _Refused(f"its header states the type {str(dtype)[:80]}, objects within a structure")
        with _without_collections():
            return _unpickle(file, shape)
    left = size - file.tell()
    if count * dtype.itemsize != left:  # before anything is allocated
        raise ValueError(f"its header states {count} values of {dtype.itemsize} bytes, and {left} bytes follow")
    file.seek(0)
    values: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return values


def _unpickle(file: BinaryIO, shape: tuple[int, ...]) -> Any:  # noqa: ANN401  whatever the file holds
    # Objects that the registered extension codes have named before would be given out without asking `find_class`.
    copyreg.clear_extension_cache()
    found = _Unpickler(file).load()
    if not isinstance(found, _Array) or found.dtype != _OBJECT or found.shape != shape:
        raise ValueError("its content is not the array that its header states")
    return found.item() if shape == () else found.view(np.ndarray)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the garbage collector: it would look at all new containers again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _count(shape: object) -> int:
    """Return the number of values of a shape.

    Raises:
        ValueError: if it is none.
    """
    plain = isinstance(shape, tuple) and len(shape) <= MOST_DIMENSIONS and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    if not isinstance(shape, tuple) or not plain:
        raise ValueError(f"{str(shape)[:80]} is no shape of an array")
    return math.prod(shape)


class _Name:
    """A stand-in for a name that a pickle may use; calling it makes a plain value, and nothing can be set on it."""

    __slots__ = ("_make",)

    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401  a pickle's own
        return self._make(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused(f"it sets the attribute {name[:40]!r}")

    def __setstate__(self, state: object) -> None:
        raise _Refused("it changes the state of what is no value")


class _Type:
    """A dtype while it is built: numpy pickles its name first, its byte order as a state."""

    __slots__ = ("_dtype",)

    _dtype: np.dtype[Any]

    def __init__(self, name: object, align: object = False, copy: object = True) -> None:
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise _Refused(f"it names the type {str(name)[:40]!r}")
        object.__setattr__(self, "_dtype", np.dtype(name))

    def __setstate__(self, state: object) -> None:
        plain = isinstance(state, tuple) and len(state) in (8, 9) and state[1] in ("<", ">", "=", "|") and state[2:5] == (None, None, None)
        if not isinstance(state, tuple) or not plain:
            raise _Refused("it holds a type that is no number, text or object")
        if state[1] in ("<", ">"):
            object.__setattr__(self, "_dtype", self._dtype.newbyteorder(state[1]))

    def __setattr__(self, name: str, value: object) -> None:
        raise _Refused(f"it sets the attribute {name[:40]!r}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The finished dtype."""
        return self._dtype


class _Array(np.ndarray[Any, Any]):
    """An array whose state is looked at before numpy takes it."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise _Refused("it holds an array with an unknown state")
        _, shape, kind, fortran, content = state
        dtype, count = kind.dtype, _count(shape)
        if dtype == _OBJECT:
            if type(content) is not list or len(content) != count:
                raise ValueError("an array's objects do not fit its shape")
        elif type(content) is not bytes or len(content) != count * dtype.itemsize:
            raise ValueError("an array's bytes do not fit its shape")
        super().__setstate__((1, shape, dtype, bool(fortran), content))  # type: ignore[arg-type]  # numpy wants a plain bool, its stubs do not


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    """Return an empty array, to be filled by its state."""
    if kind is not _NDARRAY or shape != (0,):
        raise _Refused("it builds an array that is not empty at first, or of another class")
    return np.ndarray.__new__(_Array, (0,), np.int8)


def _scalar(kind: object, content: object = b"") -> Any:  # noqa: ANN401  a numpy scalar
    """Return a scalar from its bytes."""
    if not isinstance(kind, _Type) or kind.dtype == _OBJECT or type(content) is not bytes:
        raise _Refused("it holds a scalar that is no number or text")
    dtype = kind.dtype
    if len(content) != dtype.itemsize:
        raise ValueError("a scalar's bytes do not fit its type")
    return np.frombuffer(content, dtype)[0] if content else dtype.type()


def _no_array(*arguments: object) -> None:
    raise _Refused("it calls numpy.ndarray")


_NDARRAY = _Name(_no_array)
_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NAMES: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_Type),
    **{(core, "_reconstruct"): _Name(_reconstruct) for core in _CORES},
    **{(core, "scalar"): _Name(_scalar) for core in _CORES},
    # Protocols below 4 write sets as calls.
    **{(module, cls.__name__): _Name(cls) for module in ("builtins", "__builtin__") for cls in (set, frozenset)},
}


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values, containers, and numpy's arrays and scalars of such."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:  # noqa: ANN401  a stand-in
        """Return the stand-in for a name; all names of a pickle, however written, come here."""
        try:
            return _NAMES[module_name, global_name]
        except KeyError:
            raise _Refused(f"it asks for {module_name[:60]}.{global_name[:60]}") from None

    def persistent_load(self, pid: object, /) -> Any:  # noqa: ANN401  never returns
        """Refuse references to something outside of the file."""
        raise _Refused("it refers to something outside of the file")
