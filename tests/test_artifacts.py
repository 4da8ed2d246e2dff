"""Files are written whole or not at all, and reading never runs code."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ai_detect import artifacts

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(value=JSON)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    artifacts.write_json(path, value)
    assert artifacts.read_json(path) == value


@given(array=npst.arrays(st.sampled_from([np.float32, np.int64, np.int32]), npst.array_shapes(min_side=0)))
def test_arrays_round_trip_and_equal_bytes(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("arrays")
    for name in ("first", "second"):
        artifacts.write_arrays(folder / name, {"array": array})
    np.testing.assert_array_equal(artifacts.parse_arrays((folder / "first").read_bytes())["array"], array)
    assert (folder / "first").read_bytes() == (folder / "second").read_bytes()


def test_fortran_order_survives(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    artifacts.write_arrays(tmp_path / "a", {"array": array})
    np.testing.assert_array_equal(artifacts.parse_arrays((tmp_path / "a").read_bytes())["array"], array)


@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_a_value_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    with suppress(ValueError):
        artifacts.parse_arrays(content)
    try:
        artifacts.read_json(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_nan_never_reaches_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    artifacts.write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        artifacts.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_planted_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """A work folder may be writable for others, who guess the name."""
    path, other = tmp_path / "report.json", tmp_path / "precious"
    other.write_text("kept")
    artifacts.hidden(path, "tmp").symlink_to(other)
    artifacts.write_text(path, "new")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("kept", "new", False)


def test_a_directory_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with artifacts.atomic_directory(target) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError), artifacts.atomic_directory(target) as folder:
        (folder / "a").write_text("second")
        raise RuntimeError
    assert (target / "a").read_text() == "first"
    with artifacts.atomic_directory(target) as folder:
        (folder / "b").write_text("third")
    assert sorted(entry.name for entry in target.iterdir()) == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
