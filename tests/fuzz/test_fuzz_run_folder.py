"""What lies beside the checkpoints may be torn or somebody else's: it is passed over, or named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile import PLANTS, crafted_json, damaged, fuzz, limited
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Shop

from ai_detect.cli.run_folders import finished_at
from ai_detect.errors import AiDetectError
from ai_detect.training.checkpoint import load_checkpoint, read_checkpoint
from ai_detect.training.state import TrainerState
from ai_detect.training.tracking import MetricsFile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def state(checkpoint: Path) -> TrainerState:
    return load_checkpoint(read_checkpoint(checkpoint)).trainer_state


@settings(fuzz, max_examples=150)
@given(data=st.data())
def test_any_run_json_is_unfinished_or_says_a_step(shop: Shop, tmp_path: Path, data: st.DataObject) -> None:
    content = (shop.checkpoints / "run.json").read_bytes()
    how = st.one_of(crafted_json(content), damaged({"run.json": content}).map(lambda pair: pair[1]))
    (tmp_path / "run.json").write_bytes(data.draw(how))
    with limited():
        assert isinstance(finished_at(tmp_path, "x"), int | None)


def cut(folder: Path, state: TrainerState) -> None:
    """What a resume does to metrics.jsonl, and one step more."""
    with limited():
        try:
            metrics = MetricsFile(folder, state, hold=False)
            metrics.log(state.step + 1, {"loss": 1.0})
            metrics.close()
        except AiDetectError as error:
            assert "metrics.jsonl" in str(error)


@settings(fuzz, max_examples=150)
@given(data=st.data())
def test_any_metrics_are_cut(shop: Shop, state: TrainerState, tmp_path: Path, data: st.DataObject) -> None:
    content = (shop.checkpoints / "metrics.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    crafted = crafted_json(lines[2]).map(lambda line: b"".join([*lines[:2], line, b"\n", *lines[3:]]))
    how = st.one_of(crafted, damaged({"metrics.jsonl": content}).map(lambda pair: pair[1]))
    (tmp_path / "metrics.jsonl").write_bytes(data.draw(how))
    cut(tmp_path, state)


@pytest.mark.parametrize("content", [b"[" * 100_000 + b"\n", b'{"step": ' + b"[" * 100_000 + b"\n"])
def test_deep_nesting_is_no_line(state: TrainerState, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    (tmp_path / "run.json").write_bytes(content)
    assert finished_at(tmp_path, "x") is None
    cut(tmp_path, state)


@pytest.mark.parametrize("what", ["folder", "pipe", "socket", "link to a device"])
def test_something_else_in_their_place(state: TrainerState, tmp_path: Path, what: str) -> None:
    PLANTS[what](tmp_path / "run.json")
    PLANTS[what](tmp_path / "metrics.jsonl")
    with limited():
        assert finished_at(tmp_path, "x") is None
    cut(tmp_path, state)
