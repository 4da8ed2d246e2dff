from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, SHOP_SESSION, shop_log
from training_toy import ToyTask, continued, go_on, settings, start

from ai_detect.errors import ConfigError, Interrupted
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint
from ai_detect.training.checkpoint_writer import CheckpointWriter
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.state import Parent, Segment, TrainerState, new_state
from ai_detect.training.tracking import MetricsFile, TensorBoardTracker


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def state_at(step: int, *resumes: tuple[int, int]) -> TrainerState:
    """A state after `step` steps whose later segments are given as (number, step of the checkpoint resumed from)."""
    state = new_state(settings(), plan_fresh(3), 50, eval_id="e", provenance={})
    later = [
        Segment(segment=number, parent=Parent(step=parent, hash=""), started="", target_epochs=3, overrides={})
        for number, parent in resumes
    ]
    return state.model_copy(update={"step": step, "lineage": [*state.lineage, *later]})


def logged(folder: Path, steps: range, state: TrainerState | None = None, *, hold: bool = False) -> MetricsFile:
    """A file with a line for each of the steps; the loss tells the segment that wrote it."""
    state = state or state_at(0)
    tracker = MetricsFile(folder, state, hold=hold)
    for step in steps:
        tracker.log(step, {"loss": step + state.segment.segment / 10})
    return tracker


def losses(folder: Path, name: str = "metrics.jsonl") -> list[float]:
    return [line["loss"] for line in lines(folder, name)]


def test_values_of_a_step_share_its_line(tmp_path: Path) -> None:
    tracker = logged(tmp_path, range(1, 3))
    tracker.log(2, {"val_loss": 0.5})
    tracker.log(3, {"loss": 3.0})
    tracker.close()
    assert lines(tmp_path) == [
        {"step": 1, "loss": 1.1},
        {"step": 2, "loss": 2.1, "val_loss": 0.5},
        {"step": 3, "loss": 3.0},
    ]


def test_a_resume_cuts_and_keeps_the_tail(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    logged(tmp_path, range(6, 8), state_at(5, (2, 5))).close()
    assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.1, 5.1, 6.2, 7.2]
    assert losses(tmp_path, "metrics.2.jsonl") == [6.1, 7.1, 8.1]


def test_a_late_value_of_the_step_resumed_from_joins_its_line(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 6)).close()
    tracker = MetricsFile(tmp_path, state_at(5, (2, 5)), hold=False)
    tracker.log(5, {"val_loss": 0.1})
    tracker.log(6, {"loss": 6.0})
    tracker.close()
    assert lines(tmp_path)[4:] == [{"step": 5, "loss": 5.1, "val_loss": 0.1}, {"step": 6, "loss": 6.0}]


def test_a_torn_or_foreign_line_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n[]\n{"x": 1}\n\xff\n{"step": 3')
    logged(tmp_path, range(3, 4), state_at(2, (2, 2))).close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_branch_is_held_back_until_its_first_checkpoint(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    tracker = logged(tmp_path, range(4, 6), state_at(3, (2, 3)), hold=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    tracker.committed()
    tracker.log(6, {"loss": 6.2})
    tracker.committed()
    tracker.close()
    assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.2, 5.2, 6.2]
    assert losses(tmp_path, "metrics.2.jsonl") == [4.1, 5.1, 6.1, 7.1, 8.1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_kill_between_a_branchs_checkpoint_and_committed_loses_no_line(tmp_path: Path) -> None:
    """The checkpoint of step 5 is on disk, and step 6 was taken meanwhile."""
    logged(tmp_path, range(1, 9)).close()
    logged(tmp_path, range(4, 7), state_at(3, (2, 3)), hold=True).close()
    logged(tmp_path, range(6, 8), state_at(5, (2, 3), (3, 5))).close()
    assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.2, 5.2, 6.3, 7.3]
    assert losses(tmp_path, "metrics.2.jsonl") == [4.1, 5.1, 6.1, 7.1, 8.1]
    assert losses(tmp_path, "metrics.3.jsonl") == [6.2]


def test_a_branch_that_never_had_a_checkpoint_leaves_no_line(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    logged(tmp_path, range(4, 7), state_at(3, (2, 3)), hold=True).close()
    logged(tmp_path, range(5, 6), state_at(4, (2, 4)), hold=True).close()  # a shorter try of the same number
    assert losses(tmp_path, "metrics.held-2.jsonl") == [1.1, 2.1, 3.1, 4.1, 5.2]
    logged(tmp_path, range(9, 10), state_at(8, (2, 8))).close()
    assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.1, 5.1, 6.1, 7.1, 8.1, 9.2]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_branch_waits_with_the_lines_of_another_that_may_have_a_checkpoint(tmp_path: Path) -> None:
    """Branch 3 begins at step 3 too and is killed before its first checkpoint: branch 2 is still what to go on from."""
    logged(tmp_path, range(1, 9)).close()
    logged(tmp_path, range(4, 7), state_at(3, (2, 3)), hold=True).close()
    logged(tmp_path, range(4, 7), state_at(3, (3, 3)), hold=True).close()
    logged(tmp_path, range(7, 8), state_at(6, (2, 3), (3, 6))).close()
    assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.2, 5.2, 6.2, 7.3]


def test_metrics_after_a_kill_before_any_call_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saving_at_once: None
) -> None:
    """A run, and a branch of it at another rate: at whatever instant it ends, the next resume finds a line a step."""
    options, folder = settings(save_strategy="steps", save_steps=5), tmp_path / "run"
    start(ToyTask(), folder, options)
    truth = {1: lines(folder)}
    snapshots: list[Path] = []

    def spied(call: Callable[..., Any]) -> Callable[..., Any]:
        def first_copy(*given: Any, **named: Any) -> Any:
            if not _copying:
                _copying.append(True)
                snapshots.append(tmp_path / str(len(snapshots)))
                shutil.copytree(folder, snapshots[-1])
                _copying.clear()
            return call(*given, **named)

        return first_copy

    _copying: list[bool] = []
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "pwrite", "ftruncate", "fsync", "rmdir"):
            patch.setattr(os, name, spied(getattr(os, name)))
        faster = settings(save_strategy="steps", save_steps=5, learning_rate=0.03)
        go_on(ToyTask(), folder, faster, given_checkpoint(folder / "checkpoint-5"))
    truth[2] = lines(folder)
    assert truth[2][:5] == truth[1][:5] and truth[2][5:] != truth[1][5:]
    assert len(snapshots) > 50
    seen = set()
    for snapshot in snapshots:
        loaded = latest_checkpoint(snapshot)
        step, segment = loaded.checkpoint.step, loaded.checkpoint.manifest.segment
        state = continued(loaded, snapshot, options, flags={"num_epochs": 1})
        held = (snapshot / "metrics.held-2.jsonl").exists()
        MetricsFile(snapshot, state, hold=False).close()
        assert lines(snapshot) == truth[segment][:step], snapshot
        assert not list(snapshot.glob("metrics.held*"))
        seen.add((segment, held))
    assert seen == {(1, False), (1, True), (2, True), (2, False)}


def test_a_kill_while_a_value_joins_a_line_keeps_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation of the step resumed from: the process before logged its loss, and no other will."""
    logged(tmp_path, range(1, 6)).close()
    tracker = MetricsFile(tmp_path, state_at(5, (2, 5)), hold=False)
    for name in ("pwrite", "ftruncate"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, name, raising(KeyboardInterrupt))
            tracker.log(5, {"val_loss": 0.1})
        assert losses(tmp_path) == [1.1, 2.1, 3.1, 4.1, 5.1]


def test_a_value_that_finds_no_room_leaves_the_line_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = logged(tmp_path, range(1, 4))
    pwrite, calls = os.pwrite, []

    def write_half(descriptor: int, content: bytes, offset: int) -> int:
        calls.append(offset)
        return pwrite(descriptor, content[: -len(content) // 3] if len(calls) == 1 else content, offset)

    monkeypatch.setattr(os, "pwrite", write_half)
    tracker.log(3, {"val_loss": 0.25})
    tracker.close()
    assert lines(tmp_path)[2:] == [{"step": 3, "loss": 3.1}]


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        raise error

    return call


def test_flush_from_another_thread_while_lines_come(tmp_path: Path) -> None:
    logged(tmp_path, range(1, 9)).close()
    tracker = MetricsFile(tmp_path, state_at(3, (2, 3)), hold=True)
    over, failures = threading.Event(), []

    def flush() -> None:
        while not over.is_set():
            try:
                tracker.flush()
            except Exception as error:
                failures.append(error)

    thread = threading.Thread(target=flush)
    thread.start()
    for step in range(4, 304):
        tracker.log(step, {"loss": float(step)})
        tracker.log(step, {"val_loss": float(step)})
        if step == 100:
            tracker.committed()
    over.set()
    thread.join()
    tracker.close()
    tracker.flush()
    assert not failures
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 304))


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
    tracker.log(3, {"val_loss": 3.0})
    tracker.log(4, {"loss": 4.0})
    monkeypatch.setattr(os, "pwrite", pwrite)
    tracker.log(5, {"loss": 5.0})
    tracker.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 1.1}, {"step": 2, "loss": 2.1}, {"step": 5, "loss": 5.0}]
    assert caplog.text.count("No space left") == 1


@pytest.fixture
def event_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are read by name: second, process, number of the file. Ours of one second have one digit."""
    module = "tensorboard.summary.writer.event_file_writer"
    writer = pytest.importorskip(module, reason="tensorboard is not installed")
    monkeypatch.setattr(writer, "_global_uid", writer.AtomicCounter(0))


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: the points of each curve."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="tensorboard is not installed")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in sorted(events.Tags()["scalars"])
    }


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves of metrics.jsonl, in TensorBoard's precision."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in lines(folder):
        for name, value in sorted(line.items()):
            if name != "step":
                found.setdefault(name, []).append((int(line["step"]), float(np.float32(value))))
    return dict(sorted(found.items()))


BOARD = settings(save_strategy="steps", save_steps=5, report_to="tensorboard")
FASTER = BOARD.model_copy(update={"learning_rate": 0.03})


class Killed(BaseException):
    """Stands for the end of a process; nothing in the package catches it."""


def killed(action: Callable[..., Any], *given: Any, after: int, **named: Any) -> None:
    """Do it until so many steps are done: no tracker is closed, none is told."""

    def on_step(state: TrainerState, values: Any) -> None:
        if on_step.left == 0:  # type: ignore[attr-defined]
            raise Killed
        on_step.left -= 1  # type: ignore[attr-defined]

    on_step.left = after  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsFile, "close", lambda tracker: None)
        patch.setattr(TensorBoardTracker, "close", lambda tracker: None)
        with pytest.raises(Killed):
            action(*given, on_step=on_step, **named)


def test_tensorboard_shows_metrics_jsonl_after_kills_resumes_and_branches(
    tmp_path: Path, saving_at_once: None, event_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(start, ToyTask(), tmp_path, BOARD, after=8)
    killed(go_on, ToyTask(), tmp_path, BOARD, after=4)
    go_on(ToyTask(), tmp_path, BOARD)
    assert shown(tmp_path) == points(tmp_path)
    assert [step for step, _ in shown(tmp_path)["loss"]] == list(range(1, 22))

    def branch(step: int, **more: Any) -> None:
        go_on(ToyTask(), tmp_path, FASTER, given_checkpoint(tmp_path / f"checkpoint-{step}"), **more)

    first = points(tmp_path)
    killed(branch, 5, after=3)  # before its first checkpoint: nothing of it is to be seen
    assert shown(tmp_path) == points(tmp_path) == first
    with monkeypatch.context() as patch:  # after its first checkpoint, and before anybody is told of it
        patch.setattr(MetricsFile, "committed", raising(Killed))
        with pytest.raises(Killed):
            branch(5)
    assert latest_checkpoint(tmp_path).checkpoint.step == 10
    killed(go_on, ToyTask(), tmp_path, FASTER, after=7)
    go_on(ToyTask(), tmp_path, FASTER)
    assert shown(tmp_path) == points(tmp_path)
    assert points(tmp_path)["loss"][:5] == first["loss"][:5] and points(tmp_path)["loss"][5:] != first["loss"][5:]
    branch(10, flags={"num_epochs": 1})
    assert shown(tmp_path) == points(tmp_path)
    assert [step for step, _ in shown(tmp_path)["loss"]] == list(range(1, 15))


def test_tensorboard_shows_an_evaluation_once_that_a_kill_cut_off(
    tmp_path: Path, saving_at_once: None, event_files: None
) -> None:
    """Saved by a signal at a step that was due to be evaluated; the first to go on is killed after the evaluation."""
    task = ToyTask()
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        start(task, tmp_path, BOARD, should_stop=lambda: signal.SIGTERM if next(calls) == 10 else None)
    assert latest_checkpoint(tmp_path).trainer_state.evaluation_due
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointWriter, "start", raising(Killed))
        patch.setattr(MetricsFile, "close", lambda tracker: None)
        with pytest.raises(Killed):
            go_on(ToyTask(), tmp_path, BOARD)
    assert lines(tmp_path)[-1]["val_loss"]
    go_on(ToyTask(), tmp_path, BOARD)
    assert shown(tmp_path) == points(tmp_path)
    assert [step for step, _ in shown(tmp_path)["val_loss"]] == [5, 10, 15, 20, 21]


def test_tensorboard_asked_for_later_shows_the_whole_run(tmp_path: Path, event_files: None) -> None:
    quiet = BOARD.model_copy(update={"report_to": "none"})
    start(ToyTask(), tmp_path, quiet, epochs=1)
    go_on(ToyTask(), tmp_path, BOARD, flags={"num_epochs": 1})
    go_on(ToyTask(), tmp_path, quiet, flags={"num_epochs": 1})
    go_on(ToyTask(), tmp_path, BOARD, flags={"num_epochs": 1})
    assert shown(tmp_path) == points(tmp_path)
    shutil.rmtree(tmp_path / "tensorboard")
    go_on(ToyTask(), tmp_path, BOARD, flags={"num_epochs": 1})
    assert shown(tmp_path) == points(tmp_path)
    assert len(points(tmp_path)["loss"]) == 35


def test_tensorboard_on_a_full_disk_costs_events_for_a_while_not_the_run(
    tmp_path: Path, saving_at_once: None, event_files: None, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    writer = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed").SummaryWriter
    add_scalar = writer.add_scalar

    def full(self: Any, name: str, value: float, step: int) -> None:
        if step == 8 and not caplog.records:
            raise OSError(errno.ENOSPC, "No space left on device")
        add_scalar(self, name, value, step)

    monkeypatch.setattr(writer, "add_scalar", full)
    state = start(ToyTask(), tmp_path, BOARD)
    assert "No space left" in caplog.text
    assert shown(tmp_path) == points(tmp_path) and len(points(tmp_path)["loss"]) == 21
    assert state.trackers == {"tensorboard": "1"}


PROGRAM = """
import sys, torch
from pathlib import Path
from training_toy import ToyTask, arm, go_on, settings, start
from ai_detect.training.checkpoint_store import given_checkpoint
torch.set_num_threads(1)
folder, come_from, point, rate = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
options = settings(save_strategy="steps", save_steps=5, report_to="tensorboard", learning_rate=rate)
task = ToyTask()
if point != "never":
    arm(task, point, 9)
if come_from == "nothing":
    start(task, folder, options)
else:
    go_on(task, folder, options, given_checkpoint(folder / come_from) if come_from != "latest" else None)
"""


@pytest.mark.slow
def test_tensorboard_shows_metrics_jsonl_after_kill_9(tmp_path: Path) -> None:
    def process(come_from: str, point: str, rate: float = 0.01) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), come_from, point, str(rate)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])},
            capture_output=True,
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        return done.returncode

    assert process("nothing", "step:13") == process("latest", "save:2") == process("latest", "step:4") == -9
    assert process("latest", "never") == 0
    assert shown(tmp_path) == points(tmp_path)
    first = points(tmp_path)
    assert process("checkpoint-10", "step:3", 0.03) == -9
    assert shown(tmp_path) == points(tmp_path) == first
    assert process("checkpoint-10", "validation:3", 0.03) == -9
    assert process("latest", "never", 0.03) == 0
    assert shown(tmp_path) == points(tmp_path)
    assert [step for step, _ in shown(tmp_path)["loss"]] == list(range(1, 22))
    assert points(tmp_path)["loss"][:10] == first["loss"][:10] and points(tmp_path)["loss"][10:] != first["loss"][10:]


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
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=FakeRun, Settings=dict, Error=OSError))  # type: ignore[arg-type]
    options = settings(report_to="wandb")
    start(ToyTask(), tmp_path, options, epochs=1)
    go_on(ToyTask(), tmp_path, options, flags={"num_epochs": 1})
    assert RUNS[1].given["id"] == RUNS[0].id == latest_checkpoint(tmp_path).trainer_state.trackers["wandb"]
    assert RUNS[0].steps[-1] == 7 and RUNS[1].steps[0] == 8 and RUNS[1].finished
    go_on(ToyTask(), tmp_path, options, given_checkpoint(tmp_path / "checkpoint-7"), flags={"num_epochs": 1})
    assert RUNS[2].id != RUNS[0].id and RUNS[2].given["config"]["parent"] == RUNS[0].id
    sent = RUNS[0].given["config"]
    assert sent["batch_size"] == 8 and all(isinstance(value, (int, float)) for value in sent.values())


def test_a_tracker_that_cannot_log_in_says_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        raise OSError("api_key not configured\nand more")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse, Settings=dict, Error=OSError))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"api_key not configured; .*WANDB_MODE=offline") as error:
        start(ToyTask(), tmp_path, settings(report_to="wandb"), epochs=1)
    assert "\n" not in str(error.value)


def wandb_records(folder: Path) -> dict[str, list[Any]]:
    """What an offline run holds, by kind: the log format of LevelDB with W&B's messages in it."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb is not installed")
    (path,) = folder.glob("*.wandb")
    content, at, message = path.read_bytes(), 7, b""
    found: dict[str, list[Any]] = {}
    while at + 7 <= len(content):
        left_in_block = 32768 - at % 32768
        if left_in_block < 7:
            at += left_in_block
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = messages.Record.FromString(message)
            name = record.WhichOneof("record_type")
            found.setdefault(name, []).append(getattr(record, name))
            message = b""
    return found


def wandb_history(records: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows sent, without W&B's own fields but the step."""
    rows = [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in h.item} for h in records["history"]
    ]
    return [{"step": row["_step"], **{k: v for k, v in sorted(row.items()) if not k.startswith("_")}} for row in rows]


@pytest.mark.slow
def test_wandb_itself_goes_on_with_its_run_offline_and_is_told_numbers_only(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    train_file, folder = tmp_path / "train.log", tmp_path / "checkpoint"
    train_file.write_text(shop_log(60, seed=1))

    def command(script: str, *flags: str) -> set[Path]:
        before = set(folder.glob("wandb/offline-run-*"))
        files = [
            "--train_file",
            str(train_file),
            "--checkpoint_dir",
            str(folder),
            "--output_dir",
            str(tmp_path / "out"),
        ]
        done = subprocess.run(
            [sys.executable, "-W", "error", str(ROOT / "ai_detect" / script), *files, "--num_epochs", "1", *flags],
            env={**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return set(folder.glob("wandb/offline-run-*")) - before

    reports = ["--report_to", "wandb"]
    (first,) = command("train.py", "--session_regex", SHOP_SESSION, "--batch_size", "32", "--keep_best", "2", *reports)
    (second,) = command("resume_train.py", *reports)
    steps = len(lines(folder)) // 2
    oldest = min(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert oldest.name == f"checkpoint-{steps}"
    before = lines(folder)
    (branch,) = command("resume_train.py", "--checkpoint_path", str(oldest), "--learning_rate", "0.01", *reports)
    records = [wandb_records(run) for run in (first, second, branch)]
    ids = [found["run"][0].run_id for found in records]
    assert ids[0] == ids[1] != ids[2]
    sent = wandb_history(records[0]) + wandb_history(records[1])
    assert sent == [dict(sorted(line.items(), key=lambda item: (item[0] != "step", item[0]))) for line in before]
    assert [row["step"] for row in wandb_history(records[2])] == list(range(steps + 1, 2 * steps + 1))
    config = {item.key: json.loads(item.value_json) for item in records[2]["run"][0].config.update}
    assert (config["parent"], config["parent_step"]) == (ids[0], steps)
    for run in (first, second, branch):
        files = [path for path in run.rglob("*") if path.is_file() and path.parent.name != "logs"]  # logs stay here
        assert [path.suffix for path in files] == [".wandb"]
        content = files[0].read_bytes()
        words = [str(tmp_path), "train.log", "request-", "added to cart"]
        if len(platform.node()) > 4:  # a shorter name of this machine stands in any binary file by chance
            words.append(platform.node())
        for word in words:
            assert word.encode() not in content, word
