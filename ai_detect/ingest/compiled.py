"""Functions over bytes that numba compiles; the machine code is kept beside this package, or in the user's cache."""

from __future__ import annotations

import glob
import os
import pickle
import stat
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core.caching import FunctionCache, IndexDataCacheFile

F = TypeVar("F", bound=Callable[..., Any])

#: Whether there is a compiler: NUMBA_DISABLE_JIT leaves the functions as Python runs them, with other arithmetic.
CAN_COMPILE = not numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def _stamp() -> str:
    """Of the compiler and of every file that compiled code may come from."""
    package = Path(__file__).parent.parent
    files = sorted([*package.glob("ingest/*.py"), *package.glob("parsing/*.py"), package / "tables.py"])
    content = b"".join(sha256(path.read_bytes()).digest() for path in files)
    return sha256(numba.__version__.encode() + content).hexdigest()[:16]


_STAMP = _stamp()
_DIGEST_BYTES = sha256().digest_size


_jit: Any = numba.njit
#: Without counting who holds an array: nothing here makes or keeps one, and counting took a third of the time.
_OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}


class _KeptCode(IndexDataCacheFile):
    """Where numba keeps the machine code of one function: a file for each signature and processor, named by all that it
    was made from.

    numba's own files ask whether the file of a function has changed, but not those of the functions that it calls, name
    new code before it is written, and end the process where they are broken or the disk is full. Here a file that is
    not whole is compiled again, and one that cannot be written is not kept.

    What is kept is code, like Python's own .pyc files, and numba's pickle: its digest shows damage, not who wrote it.
    So file and folder must be this user's or root's and not open to everybody's writing. Whether a group may write is
    for whoever gave it the folder, as it is with the program itself.
    """

    def load(self, key: Any) -> Any:
        """The code of a signature; None where there is none."""
        try:
            with self._path(key).open("rb") as file:
                if not (_only_ours(os.fstat(file.fileno())) and _only_ours(os.stat(self._cache_path))):
                    return None
                content = file.read()
        except OSError:
            return None
        digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return pickle.loads(data) if sha256(data).digest() == digest else None

    def save(self, key: Any, data: Any) -> None:
        """Keep the code of a signature."""
        content: bytes = self._dump(data)  # type: ignore[no-untyped-call]
        with suppress(OSError), self._open_for_write(str(self._path(key))) as file:
            file.write(sha256(content).digest() + content)

    def flush(self) -> None:
        """Forget all signatures."""
        for path in self.paths():
            path.unlink(missing_ok=True)

    def paths(self) -> list[Path]:
        """The files that there are."""
        return [Path(path) for path in glob.glob(f"{glob.escape(self._beginning())}*.nbc")]

    def _path(self, key: Any) -> Path:
        return Path(f"{self._beginning()}{sha256(repr(key).encode()).hexdigest()[:16]}.nbc")

    def _beginning(self) -> str:
        base = self._index_name.removesuffix(".nbi")
        return os.path.join(self._cache_path, f"{base}.{_STAMP}.")


class _KeptFunction(FunctionCache):
    """numba's cache of one function, with files of ours.

    numba imports and sets up all that it compiles with before it looks for code. What is kept here needs nothing of it
    (see `_OPTIONS`: no arrays are made), and a quarter of a second is as long as 100,000 lines take.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._cache_file = _KeptCode(self.cache_path, self._impl.filename_base, _STAMP)  # type: ignore[no-untyped-call]

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The function as kept; None where it is not, and numba is ready to compile then."""
        kept = self._load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        return kept or super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]


def _only_ours(found: os.stat_result) -> bool:
    """Whether a file or folder belongs to this user or to root, and is not open to everybody's writing."""
    if not hasattr(os, "geteuid"):  # folders of a Windows user are closed to others
        return True
    return found.st_uid in (0, os.geteuid()) and not found.st_mode & stat.S_IWOTH


def compiled(function: F) -> F:
    """The function as machine code, made at its first call and kept on disk where any cache folder can be written.

    It must neither raise nor make arrays, and must not depend on anything but its arguments and constants.
    """
    return _compiled(function, _OPTIONS)


def inlined(function: F) -> F:
    """A `compiled` function that becomes part of those that call it: for many arrays, whose handing over costs much."""
    return _compiled(function, {**_OPTIONS, "forceinline": True})


def _compiled(function: F, options: dict[str, Any]) -> F:
    if not CAN_COMPILE:
        return function
    try:
        made = _jit(cache=True, **options)(function)
    except RuntimeError:  # no folder of numba's can be written: compiled again in each process
        return cast(F, _jit(**options)(function))
    cache = getattr(made, "_cache", None)
    if not isinstance(getattr(cache, "_cache_file", None), IndexDataCacheFile):
        # a numba that keeps code otherwise: its code could be of other sources
        return cast(F, _jit(**options)(function))
    made._cache = _KeptFunction(function)
    return cast(F, made)


@compiled
def copy_bytes(source: np.ndarray, target: np.ndarray) -> int:
    """Copy bytes into the beginning of others; returns how many. Loops over whole views become vector instructions."""
    for i in range(len(source)):
        target[i] = source[i]
    return len(source)


@compiled
def any_bits(source: np.ndarray) -> int:
    """All bits that are set in any of these bytes; 128 and more where one is beyond ASCII."""
    bits = np.uint8(0)
    for i in range(len(source)):
        bits |= source[i]
    return int(bits)


def is_kept(function: Callable[..., Any]) -> bool:
    """Whether the machine code that an earlier process made of this function is there to be used."""
    file = getattr(getattr(function, "_cache", None), "_cache_file", None)
    return isinstance(file, _KeptCode) and bool(file.paths())
