"""Files that are written whole or not at all, and read without running code.

Everything on disk is JSON, safetensors, npy without objects, or text. Directories are built under a temporary name,
fsynced, and renamed; single files likewise. After a crash there is the old content or the new, never a mixture.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

#: Largest JSON that is read, and largest header of a safetensors file: both grow many times over in memory.
MAX_JSON_BYTES = 64 << 20
_MAX_HEADER_BYTES = 1 << 20
#: Largest file that is read at all.
MAX_BYTES = 16 << 30


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fsync_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(folder))


def hidden(path: Path, kind: str) -> Path:
    """Where something that is or will be at `path` lies beside it meanwhile; a killed process leaves it there.

    Kinds: `tmp` is half-written, `old` complete and moved aside for a new one of its name; a folder may know more.
    """
    return path.with_name(f".{path.name}.{kind}-{os.getpid()}")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to be written that is at `path` when the block ends without an error, and nowhere else."""
    temporary = hidden(path, "tmp")
    temporary.unlink(missing_ok=True)  # of a killed process of the same number, or a link that somebody planted
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file whole or not at all."""
    with whole_file(path) as file:
        file.write(content)


def write_parts(path: Path, parts: Iterable[str]) -> None:
    """Write a text file whole or not at all, as its parts come; undecodable bytes of a log as `write_text`."""
    with whole_file(path) as file:
        for part in parts:
            file.write(part.encode("utf-8", "surrogateescape"))


def write_text(path: Path, text: str) -> None:
    """Write one text file whole or not at all; undecodable bytes of a log survive as surrogates."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON that any parser takes: NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n")


def open_file(path: Path) -> BinaryIO:
    """A plain file to read; raises OSError, also for a link, a pipe or a device.

    A pipe would be waited for and a device read for ever; a link may lead anywhere.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return open(path, "rb", opener=_open_at_once)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def read_file(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a plain file; raises OSError, also where `open_file` does and for more than `max_bytes`."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"{size} bytes, at most {max_bytes} are read", str(path))
        try:
            return file.read(size)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, f"{size} bytes do not fit into memory", str(path)) from error


def parse_json(content: bytes) -> Any:
    """The JSON value; raises ValueError for anything else: also NaN, infinite numbers, and integers beyond 64 bits."""
    try:
        return json.loads(content, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int:
    value = int(text) if len(text) < 21 else None
    if value is None or not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{text:.50} is too large a number")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.50} is too large a number")
    return value


def read_json(path: Path) -> Any:
    """Read JSON; raises OSError, or ValueError with the path where it is not JSON."""
    content = read_file(path, MAX_JSON_BYTES)
    try:
        return parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors: the same arrays give the same bytes."""
    write_bytes(path, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


class _Entry(BaseModel):
    """One tensor in the header of a safetensors file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: Literal["F64", "F32", "I64", "I32", "U8"]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=1 << 48)]], Field(max_length=8)]
    data_offsets: Annotated[list[int], Field(min_length=2, max_length=2)]


_HEADER = TypeAdapter(dict[str, _Entry])
_DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


def parse_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; raises ValueError where it is not one that this program writes.

    The tensors must fill the file without gap or overlap, so that no more is allocated than the file holds.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= min(len(content), 8 + _MAX_HEADER_BYTES):
        raise ValueError("its header does not fit the file")
    try:
        entries = _HEADER.validate_json(content[8:start])
    except ValidationError as error:
        raise ValueError(f"its header: {first_problem(error)}") from error
    arrays = {}
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        n = math.prod(entry.shape)
        dtype = np.dtype(_DTYPES[entry.dtype])
        end = at + n * dtype.itemsize
        if entry.data_offsets != [at - start, end - start] or end > len(content):
            raise ValueError(f"{name!r:.100} does not lie where its shape says")
        arrays[name] = np.frombuffer(content, dtype, n, at).reshape(entry.shape).copy()
        at = end
    if at != len(content):
        raise ValueError("it holds more than its tensors")
    return arrays


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's findings in one short line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place!r:.100}: {first['msg']:.200}" if place else f"{first['msg']:.200}"


def check_array(
    name: str,
    array: np.ndarray,
    dtype: type,
    shape: tuple[int | None, ...],
    *,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Raise ValueError unless an array that was read has this dtype and shape (None: any length), is finite, and all
    its values lie from `low` to `high`.
    """
    fits = array.ndim == len(shape) and all(want in (None, n) for n, want in zip(array.shape, shape, strict=True))
    if array.dtype != np.dtype(dtype) or not fits:
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} ({expected})")
    if array.size and not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    if array.size and ((low is not None and array.min() < low) or (high is not None and array.max() > high)):
        raise ValueError(f"{name} holds values out of range ({array.min()} to {array.max()})")


@contextmanager
def atomic_directory(path: Path, *, keep_old: Path | None = None, synced: bool = False) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block ends without an error.

    An older directory at `path` is moved aside right before the commit, comes back where that fails, and is removed
    after it; with `keep_old`, what is at `path`, of whatever kind, is moved there and stays. With `synced` the block
    itself makes its files and their names durable. Raises NotADirectoryError where `path` is something else and would
    be removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = hidden(path, "tmp")
    aside = keep_old or hidden(path, "old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if not synced:
            _fsync_tree(temporary)
        if os.path.lexists(path):
            if keep_old is None and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
            if keep_old is None:
                shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
        os.replace(temporary, path)
        fsync_directory(path.parent)
        if keep_old is None:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if os.path.lexists(aside) and not os.path.lexists(path):  # the commit failed half-way
            os.replace(aside, path)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()
