"""A run that is killed and resumed ends with the bytes of a run that was never touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import training_toy
from training_toy import CONFIG, TEMPLATES, ToyTask, arm, continued, go_on, settings, start

from ai_detect.errors import CheckpointError, Interrupted
from ai_detect.training.checkpoint import MANIFEST, PARTS, read_checkpoint
from ai_detect.training.checkpoint_store import (
    given_checkpoint,
    latest_checkpoint,
    named_checkpoints,
    scan_checkpoints,
    sweep_stale,
)
from ai_detect.training.checkpoint_writer import CheckpointWriter
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import encode_json, load_weights
from ai_detect.training.schedule import epoch_order
from ai_detect.training.signals import SignalFlag
from ai_detect.training.state import now

OPTIONS = settings(save_strategy="steps", save_steps=5)
LOSSES = ("step", "loss_steps", "train_losses", "val_losses", "learning_rates", "best_val_loss", "best_step", "phase")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of 7 steps (the last of an epoch with 2 samples), saved every 5 and at the end."""
    folder = tmp_path_factory.mktemp("straight")
    start(ToyTask(), folder, OPTIONS)
    return folder


def ending(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: weights, optimizer, losses, metrics, position."""
    path = folder / "checkpoint-21"
    state = json.loads((path / "trainer_state.json").read_bytes())
    return {
        **{
            name: hashlib.sha256((path / name).read_bytes()).hexdigest()
            for name in ("model.safetensors", "optimizer.pt")
        },
        **{name: state[name] for name in LOSSES},
        "metrics": (folder / "metrics.jsonl").read_bytes(),
        "checkpoints": [path.name for path in named_checkpoints(folder) if path.name in FINAL],
    }


FINAL = {f"checkpoint-{step}" for step in (5, 10, 15, 20, 21)}


class Killed(BaseException):
    """Stands for the end of a process; nothing in the package catches it."""


def kill_at(task: ToyTask, step: int) -> None:
    inner, calls = task.training_loss, 0

    def training_loss(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step:
            raise Killed
        return inner(*given)

    task.training_loss = training_loss  # type: ignore[method-assign]


@pytest.mark.parametrize("kills", [[6], [8], [14], [15], [21], [6, 1, 1, 3], [8, 5, 5, 3], [6, 6, 6, 6]])
def test_any_schedule_of_kills_gives_the_straight_runs_bytes(tmp_path: Path, straight: Path, kills: list[int]) -> None:
    """Each number is the step of a process, counted from its start, in which it is killed."""
    seen: dict[tuple[int, int], int] = {}
    task = ToyTask()
    kill_at(task, kills[0])
    with pytest.raises(Killed):
        start(task, tmp_path, OPTIONS)
    for kill in [*kills[1:], 0]:
        task = ToyTask()
        kill_at(task, kill)
        loaded = latest_checkpoint(tmp_path)
        first = loaded.trainer_state
        with suppress(Killed):
            go_on(task, tmp_path, OPTIONS, loaded)
        if task.seen:  # the next sample of the straight run's order, none skipped, none again
            order = epoch_order(50, 42, first.epoch)
            assert task.seen[0] == (first.epoch, order[first.samples_in_epoch])
        seen |= dict.fromkeys(task.seen, 1)
    assert ending(tmp_path) == ending(straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("point", ["step:1", "step:9", "step:7", "step:10", "step:21", "validation:2", "save:3"])
def test_a_signal_saves_and_the_resumed_run_ends_the_same(
    tmp_path: Path, straight: Path, number: int, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # arm() replaces it
    task = ToyTask()
    arm(task, point, number)
    with SignalFlag() as flag, pytest.raises(Interrupted) as error:
        start(task, tmp_path, OPTIONS, should_stop=flag.should_stop)
    assert error.value.exit_code == 128 + number
    monkeypatch.undo()
    loaded = latest_checkpoint(tmp_path)
    assert loaded.checkpoint.path.name in str(error.value) or "saved before" in str(error.value)
    if point == "step:10":  # a scheduled save: the evaluation is left to the resumed run
        assert loaded.trainer_state.evaluation_due and loaded.checkpoint.manifest.val_loss is None
    go_on(ToyTask(), tmp_path, OPTIONS, loaded)
    assert ending(tmp_path) == ending(straight)


def test_a_task_that_polls_in_its_validation_is_saved_before_it(tmp_path: Path, straight: Path) -> None:
    class Polling(ToyTask):
        def validation_loss(self) -> float | None:
            if len(self.seen) > 60:
                raise Interrupted("", signal.SIGTERM)
            return super().validation_loss()

    with pytest.raises(Interrupted, match=r"SIGTERM at step 10 .*checkpoint-10") as error:
        start(Polling(), tmp_path, OPTIONS)
    assert error.value.exit_code == 143
    assert latest_checkpoint(tmp_path).trainer_state.evaluation_due
    go_on(ToyTask(), tmp_path, OPTIONS)
    assert ending(tmp_path) == ending(straight)


def test_a_signal_in_the_last_evaluation_is_left_to_what_comes_after(tmp_path: Path, straight: Path) -> None:
    task = ToyTask()
    arm(task, "validation:5", signal.SIGTERM)
    with SignalFlag() as flag:
        state = start(task, tmp_path, OPTIONS, should_stop=flag.should_stop)
        assert flag.should_stop() == signal.SIGTERM and state.phase == "fit"
    assert ending(tmp_path) == ending(straight)


def test_interrupted_with_nothing_new_writes_nothing(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path, settings(), epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    task = ToyTask()
    with pytest.raises(Interrupted, match="saved before"):
        go_on(task, tmp_path, settings(), flags={"num_epochs": 1}, should_stop=lambda: signal.SIGINT)
    assert not task.seen
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_last_evaluation_is_made_up_for(tmp_path: Path, straight: Path) -> None:
    """Killed by a signal after the last step, before its evaluation: no epoch is added."""
    stop: list[int] = []
    with pytest.raises(Interrupted):
        start(
            ToyTask(),
            tmp_path,
            OPTIONS,
            should_stop=lambda: stop[0] if stop else None,
            on_step=lambda state, values: stop.append(15) if state.step == 21 else None,
        )
    task = ToyTask()
    state = go_on(task, tmp_path, OPTIONS)
    assert not task.seen and state.phase == "fit"
    assert ending(tmp_path) == ending(straight)


def test_saving_what_was_loaded_gives_the_same_bytes(straight: Path, tmp_path: Path) -> None:
    for path in named_checkpoints(straight):
        loaded = given_checkpoint(path)
        task = ToyTask()
        optimizer = AdamW(task.model, OPTIONS.weight_decay)
        load_weights(task.model, loaded.model_state, path)
        optimizer.load(loaded.optimizer_state, path)
        fixed = {"config.json": encode_json(CONFIG), "templates.json": encode_json(TEMPLATES)}
        writer = CheckpointWriter(tmp_path, OPTIONS, fixed)
        writer.start(loaded.trainer_state, task.model, optimizer)
        assert writer.collect(wait=True)
        writer.close()
        for name in (*PARTS, MANIFEST):
            assert (tmp_path / path.name / name).read_bytes() == (path / name).read_bytes(), name


def test_a_resumed_state_is_the_saved_one_but_for_its_segment(straight: Path) -> None:
    loaded = given_checkpoint(straight / "checkpoint-10")
    state = continued(loaded, straight, OPTIONS)
    assert state.lineage[:-1] == loaded.trainer_state.lineage
    assert state.model_copy(update={"lineage": loaded.trainer_state.lineage}) == loaded.trainer_state


def test_a_save_on_request_changes_nothing_but_is_there(tmp_path: Path, straight: Path) -> None:
    requests = iter([False, False, False, True])  # asked for in the third step
    start(ToyTask(), tmp_path, OPTIONS, take_save_request=lambda: next(requests, False))
    assert [checkpoint.step for checkpoint in scan_checkpoints(tmp_path)[0]] == [3, 5, 10, 15, 20, 21]
    assert ending(tmp_path) == ending(straight)


def snapshots(folder: Path, place: Path, patch: pytest.MonkeyPatch) -> list[Path]:
    """From now on copy `folder` before each call that changes the disk: what a kill at that instant would leave."""
    taken: list[Path] = []
    copytree, copying = shutil.copytree, False

    def spy(module: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(module, name)

        def spied(*given: Any, **options: Any) -> Any:
            nonlocal copying
            if not copying and folder.exists():
                copying = True
                taken.append(Path(copytree(folder, place / str(len(taken)))))
                copying = False
            return inner(*given, **options)

        patch.setattr(module, name, spied)

    for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (shutil, "rmtree")):
        spy(module, name)
    return taken


@pytest.mark.parametrize("branching", [False, True])
def test_killed_at_any_write_leaves_a_valid_checkpoint_that_ends_the_same(
    tmp_path: Path, straight: Path, branching: bool
) -> None:
    """Kills between any two calls of a save, a prune and a branch."""
    options = settings(save_strategy="steps", save_steps=5, save_total_limit=100 if branching else 1)
    folder = tmp_path / "run"
    before = {read_checkpoint(path).hash for path in straight.glob("checkpoint-*")}
    if branching:
        shutil.copytree(straight, folder)
    else:
        task = ToyTask()
        kill_at(task, 6)
        with pytest.raises(Killed):
            start(task, folder, options)
    with pytest.MonkeyPatch.context() as patch:
        taken = snapshots(folder, tmp_path / "kills", patch)
        task = ToyTask()
        kill_at(task, 12)
        with pytest.raises(Killed):
            go_on(task, folder, options, given_checkpoint(folder / "checkpoint-5"))
    assert len(taken) > 30
    ends = set()
    for number, copy in enumerate(taken):
        for path in sweep_stale(copy):
            assert path.name.startswith(".")
        assert not list(copy.glob(".*"))
        loaded = latest_checkpoint(copy)
        if branching:  # before the branch has a checkpoint nothing has moved, and later nothing is lost
            left = [read_checkpoint(path).hash for path in (*copy.glob("checkpoint-*"), *copy.glob("superseded/2/*"))]
            assert before <= set(left)
            if loaded.checkpoint.step == 21:
                assert before == {read_checkpoint(path).hash for path in copy.glob("checkpoint-*")}
        assert not scan_checkpoints(copy, verify=True)[1] or branching
        ends.add(loaded.checkpoint.step)
        if number % 9 == 0 and loaded.checkpoint.step < 21:
            go_on(ToyTask(), copy, settings(save_strategy="steps", save_steps=5), loaded)
            expected = ending(straight)
            assert {**ending(copy), "checkpoints": None} == {**expected, "checkpoints": None}
    assert ends == ({10, 15, 21} if branching else {5, 10, 15})


def test_every_part_is_durable_before_the_manifest_and_all_before_the_name(tmp_path: Path) -> None:
    events: list[str] = []
    replace = os.replace

    def synced(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    def replaced(source: Any, target: Any) -> None:
        events.append(f"-> {Path(target).name}")
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", replaced)
        start(ToyTask(), tmp_path / "run", settings(), epochs=1)
    events = events[events.index("metrics.jsonl") + 1 :]
    assert events == [*PARTS, MANIFEST, f".checkpoint-7.tmp-{os.getpid()}", "-> checkpoint-7", "run"]


def process(folder: Path, point: str, number: int) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, training_toy.__file__, str(folder), point, str(int(number))],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_chain(folder: Path, kills: list[tuple[str, int]]) -> None:
    """One process a kill, each going on from what the one before left, and one that ends."""
    for point, number in kills:
        ended = process(folder, point, number)
        assert ended.returncode == (-number if number == signal.SIGKILL else 128 + number), (point, ended.stderr)
        assert "Traceback" not in ended.stderr
        if number != signal.SIGKILL:
            assert signal.Signals(number).name in ended.stderr
    ended = process(folder, "never", signal.SIGTERM)
    assert ended.returncode == 0, ended.stderr
    # Torch's compiler would take a second at each start, and is easily brought in unnoticed.
    assert json.loads(ended.stdout) == {"step": 21, "compiler_imported": False}


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path: Path, straight: Path) -> None:
    run_chain(tmp_path, [("save:22", signal.SIGKILL)])
    assert ending(tmp_path) == ending(straight)
    assert not list(tmp_path.glob(".*"))


# First step, mid-epoch, last step of an epoch, in validation, inside a save: counted from the start of each process.
@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGKILL], [signal.SIGTERM, signal.SIGINT]])
def test_a_chain_of_killed_processes_resumes_to_the_same_bytes(
    tmp_path: Path, straight: Path, numbers: list[int]
) -> None:
    killed = numbers == [signal.SIGKILL]
    points = ["step:1", "step:9", "step:2", "step:4", "validation:1", "save:4"] if killed else []
    points = points or ["step:1", "step:4", "step:7", "validation:1", "save:4"]
    run_chain(tmp_path, [(point, numbers[index % len(numbers)]) for index, point in enumerate(points)])
    assert ending(tmp_path) == ending(straight)


def test_resuming_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        go_on(ToyTask(), tmp_path, OPTIONS)
    assert now().endswith("Z")
