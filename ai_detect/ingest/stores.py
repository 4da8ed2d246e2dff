"""Files of the disk, and of stores that fsspec knows by an address with a protocol, such as `s3://bucket/app.log`.

The disk is asked directly; fsspec is imported for other stores alone. Which stores there are depends on what is
installed beside it: s3fs, gcsfs, adlfs and others.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ai_detect.errors import AiDetectError, DataError

_ADDRESS = re.compile(r"([a-z][a-z0-9+]+::)*[a-z][a-z0-9+]+://", re.IGNORECASE)
_USER = re.compile(r"://[^/]*@")
_INSTEAD = "copy the log to the disk, or give an address such as s3://bucket/app.log, gs://, abfs:// or https://"


def is_address(name: str) -> bool:
    """Whether the name is one of another store than the disk."""
    return _ADDRESS.match(name) is not None


def absolute(name: str) -> str:
    """The name of a file that holds in any folder."""
    return name if is_address(name) else os.path.abspath(name)


def open_stored(name: str) -> io.BufferedReader:
    """The file, to be read and sought in; raises OSError, and DataError where another store than the disk does not
    give it, then or later.
    """
    if not is_address(name):
        return open(name, "rb")
    return io.BufferedReader(_Stored(name))


def size(name: str) -> int:
    """Bytes of the file as it is stored; raises OSError or DataError."""
    if not is_address(name):
        return os.path.getsize(name)
    with _told(name):
        store, path = _store(name)
        return int(store.size(path))


def stamp(name: str) -> list[int | str]:
    """What is another one when the file has changed, as far as its store tells without reading it; raises OSError or
    DataError.
    """
    if is_address(name):
        with _told(name):
            store, path = _store(name)
            info = store.info(path)  # the key of some stores, http among them, is made of the address alone
            return [str(store.ukey(path)), *(str(info.get(key)) for key in ("size", "ETag", "Last-Modified"))]
    status = os.stat(name)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def find(name: str) -> tuple[str, list[str]]:
    """What an address stands for (file, folder or glob), and the addresses of its files; raises DataError where the
    store does not know the protocol, does not answer, or gives no address that leads back to it.
    """
    with _told(name):
        store, path = _store(name)
        if _place(store.unstrip_protocol(path)) != _place(name):  # its files would be looked for on another host
            raise DataError(f"{name}: the store forgets a part of this address; {_INSTEAD}")
        if store.isfile(path):
            kind, found = "file", [path]
        elif store.isdir(path):
            kind, found = "folder", store.find(path)
        else:
            kind, found = "glob", [item for item in store.glob(path) if store.isfile(item)]
        return kind, [str(store.unstrip_protocol(item)) for item in found]


class _Stored(io.RawIOBase):
    """A file of a store, which lives as long as the file; all its errors are DataError."""

    def __init__(self, name: str) -> None:
        self._name = name
        with _told(name):
            self._store, path = _store(name)
            self._file = self._store.open(path, "rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True  # a file in which it cannot be sought says so itself

    def readinto(self, buffer: Any) -> int:
        with _told(self._name):
            data = self._file.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _told(self._name):
            self._file.seek(offset, whence)
            return int(self._file.tell())

    def tell(self) -> int:
        with _told(self._name):
            return int(self._file.tell())

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            with _told(self._name):
                self._file.close()
        super().close()


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except AiDetectError:
        raise
    except Exception as error:  # each store raises what its libraries do, of classes that cannot be named here
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        raise DataError(
            f"{name}: the store does not give it ({reason}); check the address, what the store needs installed, and "
            "its credentials, or copy the log to the disk"
        ) from error


def _place(address: str) -> str:
    """What of an address is not its protocol."""
    return address.partition("://")[2].strip("/")


def _store(name: str) -> tuple[Any, str]:
    import fsspec

    if _USER.search(name):  # addresses are written into reports and models
        raise DataError(
            f"{_USER.sub('://...@', name)}: credentials do not belong in an address; leave out what stands before the "
            "@ and give it in the store's environment or configuration"
        )
    if "::" in name:
        raise DataError(f"{name}: a chain of stores is not read; {_INSTEAD}")
    store, path = fsspec.core.url_to_fs(name)
    return store, str(path)
