"""Every call that changes the disk, so that a test can end the process, or refuse the call, at each of them."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

#: Looked up in `os` at each call, also by pathlib and shutil.
_NAMES = ("fsync", "replace", "rename", "mkdir", "rmdir", "unlink", "remove", "truncate", "ftruncate")


class _HalfByHalf(io.FileIO):
    """A file that takes half of what is written, then waits for `called`, then the rest."""

    def __init__(self, path: Any, called: Callable[[str], None]) -> None:
        super().__init__(path, "w")
        self._called = called

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        taken = super().write(view[: len(view) // 2])
        self._called(f"write {os.path.basename(self.name)}")
        return taken + super().write(view[taken:])


@contextmanager
def disk_calls(called: Callable[[str], None]) -> Iterator[None]:
    """Tell `called` of each call that is about to change the disk, in whatever thread; in a file, half-way through."""
    plain_open = builtins.open

    def told(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            called(f"{name} {os.path.basename(str(given[-1]))}")
            return None if name == "fsync" else inner(*given, **options)

        return call

    def told_open(path: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return plain_open(path, mode, *given, **options)
        called(f"open {os.path.basename(str(path))}")
        if mode == "wb":  # parts of a checkpoint are written without a buffer, the others with one
            raw = _HalfByHalf(path, called)
            return raw if options.get("buffering") == 0 else io.BufferedWriter(raw)
        return plain_open(path, mode, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in _NAMES:
            patch.setattr(os, name, told(name, getattr(os, name)))
        patch.setattr(builtins, "open", told_open)
        yield
