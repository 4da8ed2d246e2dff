from __future__ import annotations

import errno
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from training_toy import ToyTask, go_on, settings, start

from ai_detect.errors import ConfigError
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint
from ai_detect.training.tracking import MetricsFile


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def logged(folder: Path, steps: range, start: int = 0, segment: int = 1, *, hold: bool = False) -> MetricsFile:
    tracker = MetricsFile(folder, start, segment, hold=hold)
    for step in steps:
        tracker.log(step, {"loss": float(step)})
    return tracker


def test_values_of_a_step_share_its_line(tmp_path: Path) -> None:
    tracker = logged(tmp_path, range(1, 3))
    tracker.log(2, {"val_loss": 0.5})
    tracker.log(3, {"loss": 3.0})
    tracker.close()
    assert lines(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0, "val_loss": 0.5},
        {"step": 3, "loss": 3.0},
    ]


def test_a_resume_cuts_and_keeps_the_tail(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    tracker = logged(tmp_path, range(6, 8), 5, 2)
    tracker.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in lines(tmp_path, "metrics.2.jsonl")] == [6, 7, 8]


def test_a_late_value_of_the_step_resumed_from_joins_its_line(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 6)).close()
    tracker = MetricsFile(tmp_path, 5, 2, hold=False)
    tracker.log(5, {"val_loss": 0.1})
    tracker.log(6, {"loss": 6.0})
    tracker.close()
    assert lines(tmp_path)[4:] == [{"step": 5, "loss": 5.0, "val_loss": 0.1}, {"step": 6, "loss": 6.0}]


def test_a_torn_or_foreign_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n[]\n{"x": 1}\n\xff\n{"step": 2}\n{"step": 3')
    logged(tmp_path, range(3, 4), 2, 2).close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_branch_is_held_back_until_its_first_checkpoint(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    tracker = logged(tmp_path, range(4, 6), 3, 2, hold=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    tracker.committed()
    tracker.log(6, {"loss": 6.5})
    tracker.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert len(lines(tmp_path, "metrics.2.jsonl")) == 5


def test_a_full_disk_costs_lines_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = logged(tmp_path, range(1, 3))
    pwrite = os.pwrite

    def refuse(descriptor: int, content: bytes, offset: int) -> int:
        pwrite(descriptor, content[:4], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", refuse)
    tracker.log(3, {"loss": 3.0})
    tracker.log(4, {"loss": 4.0})
    monkeypatch.setattr(os, "pwrite", pwrite)
    tracker.log(5, {"loss": 5.0})
    tracker.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 5]
    assert caplog.text.count("No space left") == 1


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = settings(report_to="tensorboard")
    start(ToyTask(), tmp_path, options, epochs=2)
    go_on(ToyTask(), tmp_path, options, given_checkpoint(tmp_path / "checkpoint-7"))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 15))


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_tracker_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"ai-detect\[{name}\]"):
        start(ToyTask(), tmp_path, settings(report_to=name), epochs=1)


class FakeRun:
    def __init__(self, **given: Any) -> None:
        self.given = given
        self.id = given["id"] or f"run{len(RUNS)}"
        self.steps: list[int] = []
        self.finished = False
        RUNS.append(self)

    def log(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)

    def finish(self) -> None:
        self.finished = True


RUNS: list[FakeRun] = []


def test_wandb_continues_its_run_and_a_branch_gets_a_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RUNS.clear()
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=FakeRun))  # type: ignore[arg-type]
    options = settings(report_to="wandb")
    start(ToyTask(), tmp_path, options, epochs=1)
    go_on(ToyTask(), tmp_path, options, flags={"num_epochs": 1})
    assert RUNS[1].given["id"] == RUNS[0].id == latest_checkpoint(tmp_path).trainer_state.trackers["wandb"]
    assert RUNS[0].steps[-1] == 7 and RUNS[1].steps[0] == 8 and RUNS[1].finished
    go_on(ToyTask(), tmp_path, options, given_checkpoint(tmp_path / "checkpoint-7"), flags={"num_epochs": 1})
    assert RUNS[2].id != RUNS[0].id and RUNS[2].given["config"]["parent"] == RUNS[0].id
    sent = RUNS[0].given["config"]
    assert sent["batch_size"] == 8 and all(isinstance(value, (int, float)) for value in sent.values())
