"""Logs in other stores than the disk: what is found there, and that they read as the same files on the disk do."""

from __future__ import annotations

import gc
import gzip
import io
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support import shop_log

from ai_detect.config import InputSettings
from ai_detect.errors import DataError
from ai_detect.ingest import stores
from ai_detect.ingest.log_reader import fetch_lines
from ai_detect.ingest.log_sources import find_sources, stored_bytes
from ai_detect.ingest.messages import MessageReader

LOG = shop_log(30, seed=1).encode()


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of a store that lives in this process."""
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/app.log", LOG)
    store.pipe("/bucket/deep/app.log.1.gz", gzip.compress(LOG))
    for name in (".hidden", "labels.csv", "empty.log"):
        store.pipe(f"/bucket/{name}", b"a,b\n" if name != "empty.log" else b"")
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def messages(spec: str) -> list[tuple[list[int], list[str]]]:
    reader = MessageReader(find_sources(spec), InputSettings())
    return [(batch.offset, batch.text) for batch in reader]


def test_files_folders_and_globs_are_found(bucket: str) -> None:
    assert [source.path for source in find_sources(f"{bucket}/app.log")] == ["memory://bucket/app.log"]
    for spec in (bucket, f"{bucket}/**/app*"):
        assert [source.path for source in find_sources(spec)] == [
            "memory:///bucket/app.log",
            "memory:///bucket/deep/app.log.1.gz",
        ]


def test_they_read_as_files_on_the_disk_do(bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_bytes(LOG)
    expected = messages(str(path))
    for spec in (f"{bucket}/app.log", f"{bucket}/deep/app.log.1.gz", f"file://{path}"):
        assert messages(spec) == expected
        offset = expected[0][0][5]
        found = fetch_lines(find_sources(spec)[0], [(offset, 2)])
        assert found == [LOG[offset:].decode().splitlines()[:2]]
    assert stored_bytes(find_sources(f"{bucket}/app.log")) == len(LOG)


def test_a_stamp_changes_with_the_file(bucket: str) -> None:
    before = stores.stamp(f"{bucket}/app.log")
    assert stores.stamp(f"{bucket}/app.log") == before
    fsspec.filesystem("memory").pipe("/bucket/app.log", LOG + b"more\n")
    assert stores.stamp(f"{bucket}/app.log") != before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memory://bucket/nothing.log", "no such file"),
        ("memory://bucket/empty.log", "is empty"),
        ("memory://bucket/*.nothing", "no log file found"),
        ("nowhere://bucket/app.log", "nowhere"),
    ],
)
def test_what_cannot_be_read_is_said(bucket: str, spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_sources(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "sec://user:SECRET@host/logs/app.log",
        "https://SECRET@host/app.log",
        "sec://user:SE@CRET@host/*.log",
        "zip://app.log::sec://user:SECRET@host/logs.zip",
        "simplecache::sec://user:SECRET@host/app.log",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(spec: str) -> None:
    with pytest.raises(DataError, match="credentials do not belong in an address") as raised:
        find_sources(spec)
    assert "CRET" not in str(raised.value) and "user" not in str(raised.value)


def test_an_at_sign_in_a_name_is_no_credential(bucket: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/app@host.log", LOG)
    assert stores.find(f"{bucket}/app@host.log")[0] == "file"


class Forgetful(MemoryFileSystem):
    """A store whose paths are without the host, as those of ftp are."""

    protocol = "forgetful"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.split("://")[1].split("/", 1)[1] if "://" in path else path


@pytest.mark.parametrize("name", ["bucket", "bucket/app.log", "bucket/*.log"])
def test_an_address_that_its_store_does_not_keep_whole_is_refused(bucket: str, name: str) -> None:
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    with pytest.raises(DataError, match=r"forgets a part of this address.*copy the log to the disk.*s3://"):
        find_sources(f"forgetful://host/{name}")


def test_a_chain_of_stores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "logs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app.log", LOG)
    for spec in (f"zip://app.log::{path}", f"zip://*.log::{path}", f"zip://::{path}", f"simplecache::file://{path}"):
        with pytest.raises(DataError, match=r"chain of stores.*copy the log to the disk"):
            find_sources(spec)


class NoCredentialsError(Exception):
    """Of no kind that Python knows, as those of cloud libraries are."""


class Refusing(MemoryFileSystem):
    """A store that answers some calls with an error of its own, over two lines."""

    protocol = "refusing"
    refused: ClassVar[set[str]] = set()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("refusing://", "memory://"))

    def _answer(self, call: str) -> None:
        if call in self.refused:
            raise NoCredentialsError("unable to locate\ncredentials")

    def ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._answer("ls")
        return super().ls(path, *args, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._answer("info")
        return super().info(path, **kwargs)

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._answer("open")
        file = io.BytesIO(self.cat_file(path) if "read" not in self.refused else b"")
        if "read" in self.refused:
            file.read = file.readinto = lambda *_: self._answer("read")  # type: ignore[method-assign,assignment]
        return file

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        return self.store[path].getvalue()


@pytest.mark.parametrize("name", ["app.log", "*.log", ""])
@pytest.mark.parametrize("refused", [{"ls", "info", "open"}, {"open"}, {"read"}])
def test_errors_of_a_store_s_own_are_told_in_one_line(
    bucket: str, name: str, refused: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    monkeypatch.setattr(Refusing, "refused", refused)
    with pytest.raises(DataError, match="NoCredentialsError: unable to locate credentials") as raised:
        find_sources(f"refusing://bucket/{name}")
    assert "\n" not in str(raised.value)


def test_errors_after_the_beginning_are_told_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    (source,) = find_sources("refusing://bucket/app.log")
    with stores.open_stored(source.file) as file:
        assert file.read(9) == LOG[:9]
        assert file.seek(20) == file.tell() == 20
        assert file.read() == LOG[20:]
    monkeypatch.setattr(Refusing, "refused", {"info", "ls", "open"})
    for ask in (stores.size, stores.stamp, stores.open_stored):
        with pytest.raises(DataError, match="NoCredentialsError"):
            ask(source.file)


class Fleeting(MemoryFileSystem):
    """A store whose files can be read while it is there itself, as a connection."""

    protocol = "fleeting"
    cachable = False

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        file, store, read = io.BytesIO(LOG), weakref.ref(self), io.BytesIO.read
        file.read = lambda n=-1: read(file, n) if store() else file.close()  # type: ignore[method-assign]
        return file


def test_a_store_lives_as_long_as_its_open_file(bucket: str) -> None:
    fsspec.register_implementation("fleeting", Fleeting, clobber=True)
    with stores.open_stored("fleeting://bucket/app.log") as file:
        gc.collect()
        assert file.read() == LOG


class Web(MemoryFileSystem):
    """A store whose own mark of a version is made of the address alone, as that of fsspec for http is."""

    protocol = "web"
    headers: ClassVar[dict[str, Any]] = {}

    def ukey(self, path: str) -> str:
        return path

    def info(self, path: str, **kwargs: Any) -> Any:
        return {"name": path, "type": "file", "size": 9, **self.headers}


@pytest.mark.parametrize("change", [{"size": 10}, {"ETag": "2"}, {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}])
def test_a_stamp_is_of_what_the_server_says_of_the_file(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("web", Web, clobber=True)
    monkeypatch.setattr(Web, "headers", {"ETag": "1"})
    before = stores.stamp("web://host/app.log")
    assert stores.stamp("web://host/app.log") == before
    monkeypatch.setattr(Web, "headers", {"ETag": "1"} | change)
    assert stores.stamp("web://host/app.log") != before
