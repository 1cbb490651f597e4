"""Read MXNet's `.params` files (a list of named arrays) without MXNet."""

from __future__ import annotations

import math
import struct
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FILE_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MOST_DIMS = 32
"""Arrays of more dimensions do not exist; a larger number is no number of dimensions."""
_LEAST_ARRAY = 24
"""Bytes of the smallest array: one dimension, device, type and one value; bounds the count of arrays."""
_TYPES = {0: "float32", 1: "float64", 2: "float16", 3: "uint8", 4: "int32", 5: "int8", 6: "int64"}
_STORAGES = {-1: "undefined", 1: "row sparse", 2: "compressed sparse rows"}


def is_mxnet(path: Path) -> bool:
    """Whether a file begins as MXNet's lists of arrays do."""
    with path.open("rb") as file:
        return file.read(8) == struct.pack("<Q", FILE_MAGIC)


def read_mxnet_params(path: Path) -> dict[str, Tensor]:
    """The arrays of an MXNet `.params` file, by name (`arg:` and `aux:` are kept), as float32 on the CPU.

    Layout, little endian (method 1.3; the three forms of arrays are those of MXNet 0.9, 0.11 and 1.9, of which
    tests/golden has a file each): u64 0x112, u64 reserved, u64 count, the arrays, u64 count, the names as u64 length
    and UTF-8. An array is u32 dimensions and u32 each (old), u32 0xF993FAC8, u32 dimensions and i64 each (V1), or
    u32 0xF993FAC9, i32 storage and on as V1 (V2); then i32 device, i32 its number, i32 type and the values.

    Every size is held against the bytes that are left before anything is read, so that a damaged or forged file is
    never given more memory than its own size.

    Raises:
        ValueError: another or a damaged file, or arrays that are not dense float32; names the place.
    """
    with path.open("rb") as file:
        source = _Source(file, path)
        if (magic := source.u64("the file's magic number")) != FILE_MAGIC:
            raise ValueError(f"{path} is no MXNet .params file: it begins with {magic:#x}, needed {FILE_MAGIC:#x}")
        source.u64("the reserved number")
        count = source.count("arrays", least=_LEAST_ARRAY)
        arrays = [_array(source, f"array {i + 1} of {count}") for i in range(count)]
        named = source.count("names", least=8)
        if named != count:
            raise source.error(f"{count} arrays but {named} names; needed: a name for each array, as a model is saved")
        names = [source.text(f"name {i + 1} of {count}") for i in range(count)]
        if source.left:
            raise source.error(f"{source.left} bytes follow the last name")
    if len(set(names)) != count:
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{path} holds arrays of the same name: {', '.join(twice[:5])}")
    return dict(zip(names, arrays, strict=True))


class _Source:
    """A file that knows how many bytes are left and never reads or allocates beyond them."""

    def __init__(self, file: BufferedReader, path: Path) -> None:
        self.file, self.path = file, path
        self.left = path.stat().st_size

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged: {what}. Get the file again")

    def take(self, size: int, what: str) -> bytearray:
        if size > self.left:
            raise self.error(f"{what} needs {size} bytes at byte {self.file.tell()}, {self.left} are left")
        self.left -= size
        data = bytearray(size)
        if self.file.readinto(data) != size:
            raise self.error(f"{what} ends early, at byte {self.file.tell()}")
        return data

    def numbers(self, form: str, what: str) -> tuple[int, ...]:
        """Whole numbers of a `form` of the module struct, little endian."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def u64(self, what: str) -> int:
        return self.numbers("Q", what)[0]

    def count(self, what: str, *, least: int) -> int:
        """A number of items of at least `least` bytes each."""
        count = self.u64(f"the number of {what}")
        if count * least > self.left:
            raise self.error(f"it claims {count} {what}, {self.left} bytes are left")
        return count

    def text(self, what: str) -> str:
        data = self.take(self.u64(f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is no UTF-8 text") from error


def _array(source: _Source, what: str) -> Tensor:
    (version,) = source.numbers("I", what)
    if version == _V2 and (storage := source.numbers("i", what)[0]) != 0:
        kind = _STORAGES.get(storage, f"unknown ({storage})")
        raise ValueError(f"{source.path}: {what} has {kind} storage, needed: dense. Save it dense with MXNet")
    shape = _shape(source, version, what)
    _, _, kind_of_value = source.numbers("3i", what)  # values lie in the file whatever device they came from
    if kind_of_value != 0:
        found = _TYPES.get(kind_of_value, f"unknown type ({kind_of_value})")
        raise ValueError(f"{source.path}: {what} holds {found} values, needed: float32. Save it so with MXNet")
    values = np.frombuffer(source.take(4 * math.prod(shape), what), dtype="<f4").astype(np.float32, copy=False)
    return torch.from_numpy(values).reshape(shape)


def _shape(source: _Source, version: int, what: str) -> tuple[int, ...]:
    if version in (_V1, _V2):
        dims, form = source.numbers("I", what)[0], "q"
    elif version <= _MOST_DIMS:
        dims, form = version, "I"  # the old form has no number of its version
    elif version == _V3:
        raise ValueError(f"{source.path}: {what} is of MXNet's NumPy form (V3), needed: the classic form. Save it so")
    else:
        raise source.error(f"{what} begins with {version:#x}, which is no form of arrays")
    if not 1 <= dims <= _MOST_DIMS:
        raise source.error(f"{what} has {dims} dimensions, needed 1 to {_MOST_DIMS}")
    shape = source.numbers(f"{dims}{form}", what)
    if min(shape) < 1:
        raise source.error(f"{what} has the shape {shape}, needed sizes of at least 1")
    return shape
