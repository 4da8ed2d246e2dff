"""Files of the disk, and of stores that fsspec knows by an address with a protocol, such as `s3://bucket/app.log`.

The disk is asked directly; fsspec is imported for other stores alone. Which stores there are depends on what is
installed beside it: s3fs, gcsfs, adlfs and others.
"""

from __future__ import annotations

import io
import os
import re
from typing import Any

from ai_detect.errors import DataError

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
    """The file, to be read and sought in; raises OSError."""
    if not is_address(name):
        return open(name, "rb")
    store, path = _store(name)
    return io.BufferedReader(store.open(path, "rb"))


def size(name: str) -> int:
    """Bytes of the file as it is stored; raises OSError."""
    if not is_address(name):
        return os.path.getsize(name)
    store, path = _store(name)
    return int(store.size(path))


def stamp(name: str) -> list[int | str]:
    """What is another one when the file has changed, as far as its store tells without reading it; raises OSError."""
    if is_address(name):
        store, path = _store(name)
        return [str(store.ukey(path))]
    status = os.stat(name)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def find(name: str) -> tuple[str, list[str]]:
    """What an address stands for (file, folder or glob), and the addresses of its files; raises DataError where the
    store does not know the protocol, does not answer, or gives no address that leads back to it.
    """
    try:
        store, path = _store(name)
        if _place(store.unstrip_protocol(path)) != _place(name):  # its files would be looked for on another host
            raise DataError(f"{name}: the store forgets a part of this address; {_INSTEAD}")
        if store.isfile(path):
            kind, found = "file", [path]
        elif store.isdir(path):
            kind, found = "folder", store.find(path)
        else:
            kind, found = "glob", [item for item in store.glob(path) if store.isfile(item)]
    except OSError as error:
        raise DataError(f"{name}: the store does not give it ({error})") from error
    return kind, [str(store.unstrip_protocol(item)) for item in found]


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
    try:
        store, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise DataError(f"{name}: {error}") from error
    return store, str(path)
