"""What an accident or a stranger does to a folder that is loaded, and the limits that every load must keep to."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors.numpy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ai_detect.artifacts import sha256_json

SECONDS = 10
MEGABYTES = 300

#: The same examples each time, a bounded number of them.
fuzz = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise AssertionError(f"not done after {SECONDS} s")


@contextmanager
def limited() -> Iterator[None]:
    """Little time and little more memory than is in use: an allocation beyond it fails as on a full machine."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (MEGABYTES << 20), before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def linked(source: Path, folder: Path) -> Path:
    """A copy of a folder whose files are shared: replace them, never write into them."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=os.link)
    return folder


def replace(path: Path, content: bytes) -> None:
    """Another file in the place of this one."""
    path.unlink()
    path.write_bytes(content)


def reseal_checkpoint(folder: Path) -> None:
    """Make manifest.json agree with the parts, as someone who wants to be believed would."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for part in manifest["parts"]:
        content = (folder / part["name"]).read_bytes()
        part.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Any) -> None:
    """manifest.json with the sha256 of itself."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps({"sha256": sha256_json(body), **body}, indent=1) + "\n"
    replace(folder / "manifest.json", text.encode())


def reseal_model(folder: Path) -> None:
    """Make model.json agree with the parts."""
    model = json.loads((folder / "model.json").read_bytes())
    model["parts"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in model["parts"]}
    replace(folder / "model.json", json.dumps(model).encode())


def _link_out(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_beside(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_bytes(b"{}")
    path.symlink_to(target)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


#: What can stand in the place of a file.
PLANTS: dict[str, Callable[[Path], None]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": _socket,
    "link to a device": _link_out,
    "link to a file": _link_beside,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
}


# --- random damage


def _flip(content: bytes, draw: Callable[..., Any]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _overwrite(content: bytes, draw: Callable[..., Any]) -> bytes:
    at = draw(st.integers(0, len(content)))
    return content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at + draw(st.integers(0, 16)) :]


@st.composite
def damaged(draw: Callable[..., Any], contents: dict[str, bytes]) -> tuple[str, bytes]:
    """A file of a folder (content by name) and what has become of it."""
    name = draw(st.sampled_from(sorted(contents)))
    content = contents[name]
    kind = draw(st.sampled_from(["flip", "cut", "extend", "empty", "other", "overwrite", "zeros"]))
    if kind == "flip":
        return name, _flip(content, draw)
    if kind == "cut":
        return name, content[: draw(st.integers(0, max(len(content) - 1, 0)))]
    if kind == "extend":
        return name, content + draw(st.binary(min_size=1, max_size=64))
    if kind == "other":
        return name, contents[draw(st.sampled_from(sorted(contents)))]
    if kind == "overwrite":
        return name, _overwrite(content, draw)
    return name, bytes(len(content)) if kind == "zeros" else b""


# --- crafted content

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2, 4096, 1 << 20, 1 << 31, 1 << 53, 1 << 63, 10**18, 10**400, -(10**18)]),
    st.sampled_from([0.0, -0.5, 1.0, 1e-300, 1e308]),
    st.sampled_from(["", "x", "..", "/etc/passwd", "a\nb", "\x1b[31m", "\ud800", "x" * 100_000, "(", "(a+)+$", "NaN"]),
    st.sampled_from([[], {}, [[]], [None], {"": {}}, [0, 1, 2], ["a", "b"], [1, 1, "<*>"]]),
    st.integers(50, 300).map(lambda depth: _nested(depth)),
)


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from _places(item, (*at, key))


@st.composite
def crafted_json(draw: Callable[..., Any], content: bytes) -> bytes:
    """JSON with a few values replaced, left out, added or doubled."""
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(value))
        if not places:
            break
        # shallow places first, so that the few that matter are not lost among the many of one list
        depth = draw(st.integers(1, max(map(len, places))))
        place = draw(st.sampled_from([p for p in places if len(p) <= depth]))
        parent = value
        for key in place[:-1]:
            parent = parent[key]
        key, kind = place[-1], draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "swap"]))
        if kind == "replace":
            parent[key] = draw(ODD)
        elif kind == "drop":
            del parent[key]
        elif kind == "swap":
            other = draw(st.sampled_from(places))
            found = value
            for step in other:
                found = (
                    found[step]
                    if isinstance(found, (dict, list))
                    and (step in found or isinstance(found, list))
                    and (not isinstance(found, list) or step < len(found))
                    else found
                )
            parent[key] = copy.deepcopy(found)
        elif isinstance(parent, list):
            parent.append(draw(ODD))
        else:
            parent[draw(st.sampled_from(["surprise", "a\nb", "x" * 10_000]))] = draw(ODD)
    return json.dumps(value).encode()


_VALUES = (0, 1, -1, 7, 1 << 20, (1 << 31) - 1, np.nan, np.inf, 1e30, -1e30)


@st.composite
def crafted_array(draw: Callable[..., Any], array: np.ndarray) -> np.ndarray:
    """An array of another dtype, shape or content."""
    kind = draw(st.sampled_from(["dtype", "longer", "shorter", "empty", "flat", "scalar", "value", "all", "reverse"]))
    if kind == "dtype":
        with np.errstate(all="ignore"):
            return array.astype(
                draw(st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int32, np.int64]))
            )
    if kind == "longer":
        return np.concatenate([array, array]) if array.ndim else array[None]
    if kind == "shorter":
        return array[:-1] if array.ndim else array
    if kind == "empty":
        return np.zeros(draw(st.sampled_from([(0,), (0, 3), (3, 0), (0, 1 << 40), (0, 0, 0)])), array.dtype)
    if kind == "flat":
        return array.reshape(-1) if array.ndim > 1 else array[:, None] if array.ndim else array
    if kind == "scalar":
        return np.array(1, array.dtype)
    if kind == "reverse":
        return np.ascontiguousarray(array[::-1]) if array.ndim else array
    with np.errstate(all="ignore"):
        value = np.array(draw(st.sampled_from(_VALUES)), np.float64).astype(array.dtype)
    changed = array.copy()
    if kind == "all":
        changed[...] = value
    elif changed.size:
        changed.reshape(-1)[draw(st.integers(0, changed.size - 1))] = value
    return changed


@st.composite
def crafted_tensors(draw: Callable[..., Any], content: bytes) -> bytes:
    """A safetensors file with another array, or with a header that says something else than the rest."""
    kind = draw(st.sampled_from(["array", "array", "array", "drop", "add", "rename", "header", "length"]))
    arrays = safetensors.numpy.load(content)
    name = draw(st.sampled_from(sorted(arrays)))
    if kind in ("header", "length"):
        n = int.from_bytes(content[:8], "little")
        if kind == "length":
            n = draw(st.sampled_from([0, 1, 2, n - 1, n + 1, len(content), 1 << 32, (1 << 63) - 1, (1 << 64) - 1]))
            return n.to_bytes(8, "little") + content[8:]
        header = draw(crafted_json(content[8 : 8 + n]))
        return len(header).to_bytes(8, "little") + header + content[8 + n :]
    if kind == "array":
        arrays[name] = draw(crafted_array(arrays[name]))
    elif kind == "add":
        arrays["surprise\n"] = arrays[name]
    else:
        array = arrays.pop(name)
        if kind == "rename":
            arrays[name[:-1]] = array
    return bytes(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))


def rezipped(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A torch archive with other records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename.partition("/")[2], old.read(entry)))
    return buffer.getvalue()


@st.composite
def crafted_archive(draw: Callable[..., Any], content: bytes) -> bytes:
    """A torch archive whose pickle or whose records are changed, its checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [entry.filename.partition("/")[2] for entry in archive.infolist()]
    chosen = draw(st.sampled_from(["data.pkl", "data.pkl", "data.pkl", *names[:20]]))
    changes = {name: draw(st.sampled_from([_flip, _overwrite])) for name in [chosen]}
    changed: dict[str, bytes] = {}

    def change(name: str, record: bytes) -> bytes:
        if name in changes and name not in changed:
            changed[name] = changes[name](record, draw)
        return changed.get(name, record)

    return rezipped(content, change)
