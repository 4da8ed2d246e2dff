"""A folder of checkpoints: choosing, keeping, branching, whatever the file system says of names and times."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from resume.disk_calls import disk_calls
from training_toy import CONFIG, TEMPLATES, ToyTask, continued, go_on, settings, start

from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.training.checkpoint import LoadedCheckpoint, write_checkpoint
from ai_detect.training.checkpoint_store import (
    best_checkpoint,
    given_checkpoint,
    latest_checkpoint,
    named_checkpoints,
    next_segment,
    prune_checkpoints,
    refuse_occupied,
    scan_checkpoints,
    set_run_aside,
    settle_overwritten,
    sweep_stale,
)
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.parts import encode_json, encode_model, encode_optimizer
from ai_detect.training.state import Parent, Segment, TrainerState, new_state

STATE = new_state(settings(), plan_fresh(100), 50, eval_id="e", provenance={})
PARTS = {
    "config.json": encode_json(CONFIG),
    "templates.json": encode_json(TEMPLATES),
    "model.safetensors": encode_model(torch.nn.Linear(2, 2).state_dict()),
    "optimizer.pt": encode_optimizer({}),
}


def put(
    folder: Path,
    step: int,
    val_loss: float | None = None,
    *,
    run_id: str = "ours",
    eval_id: str | None = "e",
    segment: int = 1,
    parent: int | None = None,
) -> None:
    lineage = Segment(
        segment=segment,
        parent=None if parent is None else Parent(step=parent, hash=""),
        started="",
        target_epochs=100,
        overrides={},
    )
    update = {"step": step, "val_loss": val_loss, "run_id": run_id, "eval_id": eval_id, "lineage": [lineage]}
    write_checkpoint(folder, STATE.model_copy(update=update), PARTS, None)


def steps(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in scan_checkpoints(folder)[0]]


def test_latest_is_the_largest_integer_whatever_the_times(tmp_path: Path) -> None:
    for number, step in enumerate((1000, 999, 99, 5)):
        put(tmp_path, step)
        for path in (tmp_path / f"checkpoint-{step}").iterdir():
            os.utime(path, (number, number))
        os.utime(tmp_path / f"checkpoint-{step}", (number, number))
    assert latest_checkpoint(tmp_path).checkpoint.step == 1000
    assert steps(tmp_path) == [5, 99, 999, 1000]
    prune_checkpoints(tmp_path, "ours", 2, 0)
    assert steps(tmp_path) == [999, 1000]


def test_a_copied_folder_is_the_same(tmp_path: Path) -> None:
    put(tmp_path / "a", 999, 1.0)
    put(tmp_path / "a", 1000, 2.0)
    for copy in (shutil.copytree, shutil.move):
        folder = tmp_path / copy.__name__
        copy(str(tmp_path / "a"), str(folder))
        assert latest_checkpoint(folder).checkpoint.step == 1000
        assert best_checkpoint(folder).checkpoint.path == folder / "checkpoint-999"


def test_names_that_are_no_checkpoints_are_not_looked_at(tmp_path: Path) -> None:
    put(tmp_path, 5)
    for name in ("checkpoint-", "checkpoint-x", "checkpoint-5x", "checkpoint-best", ".checkpoint-9.tmp-1", "model"):
        shutil.copytree(tmp_path / "checkpoint-5", tmp_path / name)
    assert named_checkpoints(tmp_path) == [tmp_path / "checkpoint-5"]
    assert latest_checkpoint(tmp_path).checkpoint.step == 5


def test_none_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="train first") as error:
            latest_checkpoint(folder)
        assert error.value.exit_code == 4


def test_best_is_not_latest(tmp_path: Path) -> None:
    for step, loss in ((10, 3.0), (20, 1.0), (30, 1.0), (40, 2.0), (50, None)):
        put(tmp_path, step, loss)
    assert best_checkpoint(tmp_path).checkpoint.step == 20  # of equals the earlier
    assert latest_checkpoint(tmp_path).checkpoint.step == 50


def test_best_compares_on_one_evaluation_set_and_one_run(tmp_path: Path) -> None:
    put(tmp_path, 10, 0.1, eval_id="another")
    put(tmp_path, 15, 0.1, run_id="another")
    put(tmp_path, 20, 2.0)
    put(tmp_path, 30, 3.0)
    assert best_checkpoint(tmp_path).checkpoint.step == 20


def test_no_best_is_an_error_not_the_latest(tmp_path: Path) -> None:
    put(tmp_path, 10)
    with pytest.raises(CheckpointError, match="none is best"):
        best_checkpoint(tmp_path)


def test_a_damaged_best_gives_way_to_the_next_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step, loss in ((10, 1.0), (20, 2.0), (30, 3.0)):
        put(tmp_path, step, loss)
    (tmp_path / "checkpoint-10/optimizer.pt").write_bytes(
        b"x" * (tmp_path / "checkpoint-10/optimizer.pt").stat().st_size
    )
    assert best_checkpoint(tmp_path).checkpoint.step == 20
    assert "checkpoint-10/optimizer.pt is damaged" in caplog.text


def test_given_is_exactly_that_one_or_an_error_with_the_nearest(tmp_path: Path) -> None:
    for step in (10, 20, 90):
        put(tmp_path, step)
    assert given_checkpoint(tmp_path / "checkpoint-10").checkpoint.step == 10
    with pytest.raises(CheckpointError, match=r"does not exist; the nearest valid checkpoint is .*checkpoint-20$"):
        given_checkpoint(tmp_path / "checkpoint-30")
    with pytest.raises(CheckpointError, match=r"is a folder of checkpoints.*checkpoint-90$"):
        given_checkpoint(tmp_path)
    shutil.copytree(tmp_path / "checkpoint-20", tmp_path / "kept")
    assert given_checkpoint(tmp_path / "kept").checkpoint.step == 20
    (tmp_path / "kept" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer.pt is missing; .*--allow_missing"):
        given_checkpoint(tmp_path / "kept")
    assert given_checkpoint(tmp_path / "kept", allow_missing=True).optimizer_state == {}
    (tmp_path / "kept" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"finished model.*checkpoint-90$"):
        given_checkpoint(tmp_path / "kept")
    with pytest.raises(CheckpointError, match="no valid checkpoint beside it"):
        given_checkpoint(tmp_path / "absent" / "checkpoint-1")


LOSSES = {10: 0.5, 20: 4.0, 30: 0.6, 40: 3.0, 50: None, 60: 2.0}


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "survivors"),
    [
        (1, 0, [10, 60]),
        (1, 1, [10, 60]),
        (2, 1, [10, 50, 60]),
        (3, 1, [10, 40, 50, 60]),
        (1, 2, [10, 30, 60]),
        (2, 3, [10, 30, 50, 60]),
        (6, 1, [10, 20, 30, 40, 50, 60]),
        (99, 99, [10, 20, 30, 40, 50, 60]),
    ],
)
def test_the_union_of_newest_and_best_survives(
    tmp_path: Path, keep_last: int, keep_best: int, survivors: list[int]
) -> None:
    for step, loss in LOSSES.items():
        put(tmp_path, step, loss)
    assert not prune_checkpoints(tmp_path, "theirs", 1, 1)
    planned = prune_checkpoints(tmp_path, "ours", keep_last, keep_best, dry_run=True)
    assert steps(tmp_path) == list(LOSSES)
    removed = prune_checkpoints(tmp_path, "ours", keep_last, keep_best)
    assert removed == planned and all("checkpoint-60" in why and "checkpoint-10" in why for _, why in removed)
    assert steps(tmp_path) == survivors
    assert sorted(LOSSES.keys() - set(survivors)) == [int(path.name[11:]) for path, _ in removed]


def test_broken_and_foreign_ones_neither_count_nor_go(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        put(tmp_path, step)
    put(tmp_path, 5, run_id="theirs")
    put(tmp_path, 70, 0.0, run_id="theirs")
    (tmp_path / "checkpoint-30/optimizer.pt").unlink()
    prune_checkpoints(tmp_path, "ours", 1, 1)
    assert [path.name for path in named_checkpoints(tmp_path)] == [
        "checkpoint-5",
        "checkpoint-20",
        "checkpoint-30",
        "checkpoint-70",
    ]


def test_a_later_branch_supersedes_even_before_the_old_one_was_moved(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        put(tmp_path, step, 1.0)
    put(tmp_path, 250, 2.0, segment=2, parent=200)
    assert steps(tmp_path) == [100, 200, 250]
    assert latest_checkpoint(tmp_path).checkpoint.step == 250
    put(tmp_path, 350, 2.0, segment=3, parent=250)
    assert steps(tmp_path) == [100, 200, 250, 350]


def test_segments_get_numbers_that_nothing_left_behind_has(tmp_path: Path) -> None:
    put(tmp_path, 10)
    put(tmp_path, 20, segment=4, parent=10)
    loaded = given_checkpoint(tmp_path / "checkpoint-10")
    assert next_segment(tmp_path, loaded) == 5
    (tmp_path / "superseded" / "7").mkdir(parents=True)
    assert next_segment(tmp_path, loaded) == 8
    (tmp_path / "metrics.12.jsonl").write_text("")
    assert next_segment(tmp_path, loaded) == 13


def test_a_branch_moves_what_it_leaves_behind(tmp_path: Path) -> None:
    """Resumed at step 7 of 21: the two later checkpoints and their metrics are kept aside, each step is there once."""
    start(ToyTask(), tmp_path, settings())
    straight = (tmp_path / "checkpoint-21/model.safetensors").read_bytes()
    options = settings(learning_rate=0.02)
    loaded = given_checkpoint(tmp_path / "checkpoint-7")
    go_on(ToyTask(), tmp_path, options, loaded)
    assert sorted(path.name for path in (tmp_path / "superseded/2").iterdir()) == ["checkpoint-14", "checkpoint-21"]
    assert (tmp_path / "superseded/2/checkpoint-21/model.safetensors").read_bytes() == straight
    assert steps(tmp_path) == [7, 14, 21]
    assert (tmp_path / "checkpoint-21/model.safetensors").read_bytes() != straight
    manifest = scan_checkpoints(tmp_path)[0][-1].manifest
    assert manifest.segment == 2 and manifest.parent == Parent(step=7, hash=loaded.checkpoint.hash)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 21
    assert len((tmp_path / "metrics.2.jsonl").read_text().splitlines()) == 14


def test_a_branch_killed_before_its_first_checkpoint_changes_nothing(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path, settings())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    task = ToyTask()
    inner = task.training_loss

    class Killed(BaseException):
        pass

    def killed(*given: object) -> object:
        if len(task.seen) > 20:
            raise Killed
        return inner(*given)  # type: ignore[arg-type]

    task.training_loss = killed  # type: ignore[assignment,method-assign]
    with pytest.raises(Killed):
        go_on(task, tmp_path, settings(), given_checkpoint(tmp_path / "checkpoint-7"))
    # Beside them only what the branch had measured so far, which a resume throws away.
    assert [path.name for path in tmp_path.glob("metrics.held-*")] == ["metrics.held-2.jsonl"]
    (tmp_path / "metrics.held-2.jsonl").unlink()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_best_from_before_a_kill_survives_the_resumed_run(tmp_path: Path) -> None:
    options = settings(save_total_limit=1)
    start(ToyTask(), tmp_path, options, epochs=2)
    first = latest_checkpoint(tmp_path)

    class Worse(ToyTask):
        def validation_loss(self) -> float | None:
            return 100.0 + len(self.seen)

    go_on(Worse(), tmp_path, options, first, flags={"num_epochs": 3})
    assert steps(tmp_path) == [14, 35]
    assert best_checkpoint(tmp_path).checkpoint.step == 14


def test_resume_from_the_best_in_a_moved_folder(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path / "a", settings())
    shutil.move(tmp_path / "a", tmp_path / "b")
    state = go_on(ToyTask(), tmp_path / "b", settings(), best_checkpoint(tmp_path / "b"), flags={"num_epochs": 1})
    assert state.phase == "fit"
    assert str(tmp_path / "a") not in "".join(p.read_text(errors="replace") for p in (tmp_path / "b").rglob("*.json"))


def test_sweep_takes_what_killed_processes_left_whatever_their_number(tmp_path: Path) -> None:
    """Also a number that lives: it was given again, or is that of a process on another machine."""
    put(tmp_path, 5)
    put(tmp_path, 8, segment=2, parent=5)
    dead, alive = 4_199_999, os.getppid()
    for name in (f".checkpoint-7.tmp-{alive}", f".checkpoint-5.old-{dead}", f".checkpoint-3.gone-{os.getpid()}"):
        (tmp_path / name).mkdir()
    for name in (
        f".checkpoint-6.old-{dead}",
        f".checkpoint-9.superseded-2-{dead}",
        f".checkpoint-8.superseded-2-{dead}",
    ):
        shutil.copytree(tmp_path / "checkpoint-5", tmp_path / name)
    (tmp_path / f".metrics.jsonl.tmp-{dead}").write_text("")
    (tmp_path / "cache" / f".{64 * 'a'}.tmp-{alive}").mkdir(parents=True)
    for name in (f".{64 * 'b'}.json.tmp-{dead}", f".{64 * 'c'}.old-{dead}", 64 * "c"):
        (tmp_path / "cache" / name).write_text("")
    strangers = [".mine", f".notes.tmp-{dead}", ".lock"]
    for name in strangers:
        (tmp_path / name).write_text("mine")
    assert len(sweep_stale(tmp_path)) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        # complete directories that were moved aside for a new one, which never came, are back
        [*strangers, "cache", *(f"checkpoint-{step}" for step in (5, 6, 8, 9)), "superseded"]
    )
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [64 * "c"]
    assert (tmp_path / "superseded/2/checkpoint-8/manifest.json").exists()  # a new one came: kept
    assert sweep_stale(tmp_path) == [] and sweep_stale(tmp_path / "absent") == []


def test_what_cannot_be_swept_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (3, 7):
        (tmp_path / f".checkpoint-{step}.tmp-1").mkdir()
    rmtree = shutil.rmtree

    def refuse(path: Path) -> None:
        if path.name.startswith(".checkpoint-3"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert sweep_stale(tmp_path) == [tmp_path / ".checkpoint-7.tmp-1"]
    assert f"{tmp_path / '.checkpoint-3.tmp-1'}, left by a killed process, cannot be" in caplog.text


def tree(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def occupied(tmp_path: Path) -> Path:
    """A folder with an earlier run: checkpoints, a branch, metrics, a model; and a file that is nobody's."""
    folder = tmp_path / "run"
    start(ToyTask(), folder, settings(), epochs=2)
    for name in ("model/model.json", "superseded/2/checkpoint-9/manifest.json", "run.json", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_another_run_in_the_folder_is_refused_and_can_be_put_aside_and_back(occupied: Path, tmp_path: Path) -> None:
    refuse_occupied(tmp_path / "absent")
    with pytest.raises(ConfigError, match=r"resume_train\.py.*--checkpoint_dir.*--overwrite") as error:
        refuse_occupied(occupied)
    assert error.value.exit_code == 2
    before = tree(occupied)
    aside = set_run_aside(occupied)
    assert aside is not None
    assert {path.name for path in occupied.iterdir()} == {"notes.txt", aside.name}
    refuse_occupied(occupied)
    assert set_run_aside(tmp_path / "absent") is None
    for name in ("metrics.jsonl", "metrics.held-2.jsonl", "run.json"):
        (occupied / name).write_text("of a run that came to nothing")
    settle_overwritten(aside)
    assert tree(occupied) == before
    assert latest_checkpoint(occupied).checkpoint.step == 14


def test_a_run_that_was_put_aside_survives_a_kill_at_any_call_until_the_new_one_has_a_checkpoint(
    occupied: Path, tmp_path: Path
) -> None:
    """The folder copied before each call that changes the disk, and each of them swept, itself killed anywhere."""
    before = tree(occupied)
    numbers = count()

    def copies_of(work: Callable[[], object], folder: Path) -> list[Path]:
        taken: list[Path] = []

        def copied(name: str) -> None:
            taken.append(tmp_path / f"kill-{next(numbers)}")
            subprocess.run(["cp", "-r", folder, taken[-1]], check=True)

        with disk_calls(copied):
            work()
        copied("the end")
        return taken

    def begun() -> None:
        assert set_run_aside(occupied) is not None
        for name in ("run.json", "metrics.jsonl", "metrics.2.jsonl"):
            (occupied / name).write_text("new")

    undone = copies_of(begun, occupied)
    assert len(undone) > 8
    for copy in [undone[0], undone[len(undone) // 2], *undone[-2:]]:
        undone += copies_of(lambda copy=copy: sweep_stale(copy), copy)  # type: ignore[misc]
    for copy in undone:
        sweep_stale(copy)
        assert tree(copy) == before
        assert not list(copy.glob(".*"))
    put(occupied, 3, run_id="theirs")
    new = {path: content for path, content in tree(occupied).items() if not path.parts[0].startswith(".")}
    copies = copies_of(lambda: settle_overwritten(next(occupied.glob(".overwritten*"))), occupied)
    for copy in copies:
        sweep_stale(copy)
        assert tree(copy) == new
        assert not list(copy.glob(".*"))


def test_another_order_of_samples_is_refused(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path, settings(), epochs=1)
    loaded: LoadedCheckpoint = latest_checkpoint(tmp_path)

    def resumed(n_samples: int, seed: int, force: bool = False) -> TrainerState:
        return continued(
            loaded, tmp_path, settings(seed=seed), flags={"num_epochs": 1}, n_samples=n_samples, force=force
        )

    assert resumed(50, 42).step == 7
    for n_samples, seed in ((51, 42), (50, 43)):
        with pytest.raises(CheckpointError, match="--force"):
            resumed(n_samples, seed)
        assert resumed(n_samples, seed, force=True).n_samples == n_samples
