"""Training goes on while a checkpoint is written, and learns what became of it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import ToyTask, go_on, settings, start

from ai_detect.errors import TrainingError
from ai_detect.training import checkpoint_writer
from ai_detect.training.checkpoint_store import latest_checkpoint, scan_checkpoints
from ai_detect.training.parts import encode_model


class SlowDisk:
    """A disk whose writes wait until they are let through; it notes how far training was when each ended."""

    def __init__(self, task: ToyTask, patch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.ended: list[int] = []
        write = checkpoint_writer.write_checkpoint

        def slow(*given: Any) -> Any:
            assert self.open.wait(30)
            saved = write(*given)
            self.ended.append(len(task.seen))
            return saved

        patch.setattr(checkpoint_writer, "write_checkpoint", slow)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ToyTask, SlowDisk]]:
    task = ToyTask()
    made = SlowDisk(task, monkeypatch)
    yield task, made
    made.open.set()


def test_steps_are_taken_while_a_checkpoint_is_written(tmp_path: Path, disk: tuple[ToyTask, SlowDisk]) -> None:
    task, slow = disk
    options = settings(save_strategy="steps", save_steps=5)

    def at_step(state: Any, values: Any) -> None:
        if state.step == 9:
            slow.open.set()

    start(task, tmp_path, options, on_step=at_step)
    assert slow.ended[0] >= 9 * 8 - 6  # the checkpoint of step 5 was let through in step 9 only
    assert [checkpoint.step for checkpoint in scan_checkpoints(tmp_path, verify=True)[0]] == [5, 10, 15, 20, 21]
    # What was saved is the state of its step, not of the steps taken since.
    straight = ToyTask()
    start(straight, tmp_path / "straight", options)
    for step in (5, 10):
        name = f"checkpoint-{step}/model.safetensors"
        assert (tmp_path / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_save_waits_for_the_one_before(tmp_path: Path, disk: tuple[ToyTask, SlowDisk]) -> None:
    task, slow = disk
    reached = []

    def let_through_late() -> None:
        while len(task.seen) < 16:
            time.sleep(0.01)
        time.sleep(0.3)
        reached.append(len(task.seen))
        slow.open.set()

    helper = threading.Thread(target=let_through_late)
    helper.start()
    start(task, tmp_path, settings(save_strategy="steps", save_steps=1))
    helper.join()
    assert reached == [16]  # the second step was taken beside the first save, the third not before its end
    assert len(slow.ended) == 21  # none was left out


def test_an_error_in_training_waits_for_the_save_under_way(tmp_path: Path, disk: tuple[ToyTask, SlowDisk]) -> None:
    task, slow = disk
    inner = task.training_loss

    def failing(*given: Any) -> Any:
        loss, parts = inner(*given)
        if len(task.seen) > 8 * 6:
            threading.Timer(0.2, slow.open.set).start()
            return loss * torch.nan, parts
        return loss, parts

    task.training_loss = failing  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"at step 7; the last good checkpoint is .*checkpoint-5; resume"):
        start(task, tmp_path, settings(save_strategy="steps", save_steps=5))
    assert latest_checkpoint(tmp_path).checkpoint.step == 5


def test_weights_that_are_not_finite_end_the_run_and_are_not_saved(tmp_path: Path) -> None:
    task = ToyTask()

    def spoil(state: Any, values: Any) -> None:
        if state.step == 5:
            with torch.no_grad():
                task.model[0].bias[0] = torch.inf
        if state.step == 6:
            with torch.no_grad():
                task.model[0].bias[0] = 0.0

    with pytest.raises(TrainingError, match=r"weights are not finite any more \(0\.bias\)"):
        start(task, tmp_path, settings(save_strategy="steps", save_steps=5), on_step=spoil)
    assert not scan_checkpoints(tmp_path)[0]
    with pytest.raises(TrainingError):
        encode_model({"a": torch.tensor([torch.nan])})


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 1 PB"),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path: Path, error: BaseException) -> None:
    task = ToyTask()
    inner = task.training_loss

    def failing(*given: Any) -> Any:
        if len(task.seen) >= 8 * 6:
            raise error
        return inner(*given)

    task.training_loss = failing  # type: ignore[method-assign]
    with pytest.raises(TrainingError) as raised:
        start(task, tmp_path, settings(save_strategy="steps", save_steps=5))
    for part in ("out of memory at step 7", "checkpoint-5", "--batch_size 4 --gradient_accumulation 2", "bf16"):
        assert part in str(raised.value)
    go_on(ToyTask(), tmp_path, settings(batch_size=4, gradient_accumulation=2, save_strategy="steps", save_steps=5))


def test_other_errors_of_torch_are_not_hidden(tmp_path: Path) -> None:
    task = ToyTask()
    task.training_loss = lambda *given: torch.zeros(2) @ torch.zeros(3)  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="size"):
        start(task, tmp_path, settings())


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    start(ToyTask(), tmp_path, settings())
    assert threading.active_count() == before
    assert not list(tmp_path.glob(f".*-{os.getpid()}"))


@pytest.mark.parametrize("n_refused", [1, 2, 3])
def test_the_last_state_gets_further_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_refused: int) -> None:
    write, refused = checkpoint_writer.write_checkpoint, 0

    def refuse(folder: Path, state: Any, *parts: Any) -> Any:
        nonlocal refused
        if state.step == 21 and refused < n_refused:
            refused += 1
            raise OSError(errno.EACCES, "Permission denied")
        return write(folder, state, *parts)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", refuse)
    with nullcontext() if n_refused < 3 else pytest.raises(TrainingError, match=r"Permission denied.*checkpoint-14"):
        start(ToyTask(), tmp_path, settings())
    assert latest_checkpoint(tmp_path).checkpoint.step == (21 if n_refused < 3 else 14)


def test_memory_that_does_not_suffice_for_a_save_is_a_refusal_like_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode, n_refused = checkpoint_writer.encode_model, 0

    def refuse(weights: Any) -> bytes:
        nonlocal n_refused
        if n_refused < 1:
            n_refused += 1
            raise MemoryError
        return encode(weights)

    monkeypatch.setattr(checkpoint_writer, "encode_model", refuse)
    start(ToyTask(), tmp_path, settings())
    assert f"checkpoint-7 cannot be saved ([Errno {errno.ENOMEM}] {os.strerror(errno.ENOMEM)})" in caplog.text
    steps = [checkpoint.step for checkpoint in scan_checkpoints(tmp_path, verify=True)[0]]
    assert n_refused == 1 and 7 not in steps and steps[-2:] == [14, 21]
