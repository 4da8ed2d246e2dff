"""Rows R13 to R23 of the acceptance list in resume.md: which checkpoint is taken, kept and trusted."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disk_calls import disk_calls
from kill_points import (
    DEAD,
    OPTIONS,
    Scripted,
    Trained,
    command,
    history,
    killed_at,
    newest,
    state_of,
    steps,
    toy_run,
    weights,
)
from killed_everywhere import killed_forks
from support import SHOP_SESSION
from training_toy import ToyTask, go_on, settings, start

from ai_detect.artifacts import sha256_json
from ai_detect.cli.run_folders import locked
from ai_detect.errors import TrainingError
from ai_detect.training.checkpoint import MANIFEST, PARTS
from ai_detect.training.checkpoint_store import (
    best_checkpoint,
    given_checkpoint,
    latest_checkpoint,
    named_checkpoints,
    scan_checkpoints,
)
from ai_detect.training.parts import encode_json

# R13 and R15: kill -9 at every call that changes the disk


@pytest.fixture(scope="module")
def killed_saves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Runs that go on from step 5, each killed at another call of two saves and their prunes."""
    base = tmp_path_factory.mktemp("base")
    task = ToyTask()
    with killed_at("step:7", task):
        start(task, base, OPTIONS)
    assert steps(base) == [5]
    work = tmp_path_factory.mktemp("kills") / "save"
    return work, killed_forks("save", work, base)


@pytest.mark.slow
def test_r13_killed_at_any_write_the_checkpoint_before_is_taken(
    killed_saves: tuple[Path, dict[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work, killed = killed_saves
    straight = toy_run(tmp_path / "straight", [])
    half_written = set()
    for number, call in killed.items():
        folder = work / number
        valid, rejected = scan_checkpoints(folder, verify=True)
        assert valid and not rejected, call  # nothing torn ever has a checkpoint's name
        half_written |= {path.name for path in folder.glob(".checkpoint-*.tmp-*/*")}
        if int(number) % 5 == 0:
            assert latest_checkpoint(folder).checkpoint.step == valid[-1].step
            folder = Path(shutil.copytree(folder, tmp_path / number))
            go_on(ToyTask(), folder, OPTIONS)  # sweeps, and ends with the bytes of a run that was never killed
            assert not list(folder.glob(".*")), call
            assert weights(folder / "checkpoint-21") == weights(newest(straight.folder)), call
            assert history(folder / "checkpoint-21") == history(newest(straight.folder)), call
    assert half_written == {*PARTS, MANIFEST}
    assert {call.split()[0] for call in killed.values()} >= {
        "open",
        "write",
        "fsync",
        "replace",
        "rename",
        "rmdir",
    }


@pytest.mark.slow
def test_r15_one_valid_checkpoint_remains_before_between_and_after_commit_and_prune(
    killed_saves: tuple[Path, dict[str, str]],
) -> None:
    work, killed = killed_saves
    remained = {number: tuple(steps(work / number)) for number in killed}
    in_order = list(dict.fromkeys(remained[number] for number in sorted(killed, key=int)))
    assert in_order == [(5,), (5, 10), (10,), (10, 15), (15,)][: len(in_order)] and len(in_order) >= 4
    at = {call: remained[number] for number, call in sorted(killed.items(), key=lambda item: -int(item[0]))}
    assert at["replace checkpoint-10"] == (5,)  # killed before the commit
    assert next(kept for call, kept in at.items() if call.startswith("rename .checkpoint-5.gone")) == (5, 10)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, Path.unlink])
def test_r13_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(
    finished: Trained, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for part in (*PARTS, MANIFEST):
        run = finished.copied_to(tmp_path / part)
        damage(run.checkpoint(50) / part)
        said = run.choice().err
        assert f"resuming from {run.checkpoint(45)}: step 45" in said
        assert re.search(rf"warning: not taken: \S*checkpoint-50\b.*({re.escape(part)}|never completed)", said)


# R14: left-overs in the way


@pytest.mark.slow
def test_r14_planted_left_overs_do_not_break_the_next_save(trained: Trained) -> None:
    left = [
        trained.folder / f".checkpoint-{step}.tmp-{pid}" for step, pid in ((52, DEAD), (52, os.getpid()), (7, DEAD))
    ]
    for path in left:
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    trained.checkpoint(52).mkdir()
    (trained.checkpoint(52) / "notes.txt").write_text("mine")
    said = trained.resume("--num_epochs", "1", "--total_steps", "52").err
    assert 52 in steps(trained.folder) and not any(path.exists() for path in left)
    assert (trained.folder / "superseded" / "2" / "checkpoint-52" / "notes.txt").read_text() == "mine"
    assert f"swept {left[0]}" in said and "checkpoint-52" in said


# R16: a stale marker


@pytest.mark.parametrize("part", PARTS)
def test_r16_a_new_part_beside_an_old_manifest_is_invalid(trained: Trained, part: str) -> None:
    """As a tool leaves it that copies file by file and is interrupted: the old marker of completion is still there."""
    if part in ("config.json", "templates.json"):  # equal in all checkpoints: make it new without changing its size
        content = (trained.checkpoint(50) / part).read_bytes()
        (trained.checkpoint(50) / part).write_bytes(content.replace(b"e", b"f", 1))
    else:
        shutil.copy(trained.checkpoint(45) / part, trained.checkpoint(50) / part)
    said = trained.choice().err
    assert f"resuming from {trained.checkpoint(45)}" in said and f"checkpoint-50/{part}" in said
    ended = trained.run("resume", "--checkpoint_path", trained.checkpoint(50))
    assert ended.code == 4 and f"checkpoint-50/{part}" in ended.err.splitlines()[-1]


# R17: order is that of whole numbers


def test_r17_the_largest_number_wins_whatever_names_and_times_say(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = settings(save_strategy="steps", save_steps=333)
    start(ToyTask(), folder, options, 200, last_step=1000)
    assert steps(folder) == [333, 666, 999, 1000]
    for age, step in enumerate((1000, 999, 666, 333)):  # the oldest checkpoint was touched last
        for path in [*folder.glob(f"checkpoint-{step}/*"), folder / f"checkpoint-{step}"]:
            os.utime(path, (age, age))
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    for place in (folder, copy):
        assert latest_checkpoint(place).checkpoint.step == 1000
        rows = json.loads(command("checkpoints", "list", "--checkpoint_dir", place, "--json").out)
        assert [row["step"] for row in rows if "latest" in row["tags"]] == [1000]
    go_on(ToyTask(), copy, settings(save_strategy="steps", save_steps=999, save_total_limit=2), last_step=1001)
    best = best_checkpoint(copy).checkpoint.step
    assert steps(copy) == sorted({1000, 1001, best})


# R18 and R20: what is kept


LOSSES = [5.0, 1.0, 4.0, 2.0, 3.0, 6.0]


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "survivors"),
    [(1, 1, [2, 6]), (1, 2, [2, 4, 6]), (2, 1, [2, 5, 6]), (3, 1, [2, 4, 5, 6]), (1, 0, [2, 6]), (2, 3, [2, 4, 5, 6])],
)
def test_r18_the_best_survives_with_the_newest(
    tmp_path: Path, keep_last: int, keep_best: int, survivors: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    options = settings(save_total_limit=keep_last, keep_best=keep_best)
    start(Scripted(LOSSES), tmp_path, options, len(LOSSES))
    assert steps(tmp_path) == [7 * epoch for epoch in survivors]
    assert best_checkpoint(tmp_path).checkpoint.step == 14
    deleted = re.findall(r"deleted checkpoint-(\d+): kept are the newest \(.*\) and the best \(.*\)", caplog.text)
    assert sorted(map(int, deleted)) == [7 * epoch for epoch in range(1, 7) if epoch not in survivors]


def test_r20_best_from_before_the_kill_survives_and_another_runs_checkpoint_is_untouched(tmp_path: Path) -> None:
    start(ToyTask(), tmp_path / "other", settings(save_strategy="steps", save_steps=5), last_step=5)
    folder = tmp_path / "run"
    options = settings(save_total_limit=1, keep_best=1)
    task = Scripted(LOSSES)
    with killed_at("step:18", task):
        start(task, folder, options, len(LOSSES))
    shutil.copytree(tmp_path / "other" / "checkpoint-5", folder / "checkpoint-5")
    foreign = {path.name: path.read_bytes() for path in (folder / "checkpoint-5").iterdir()}
    go_on(Scripted(LOSSES, 100), folder, options)
    assert steps(folder) == [5, 14, 42]
    assert {path.name: path.read_bytes() for path in (folder / "checkpoint-5").iterdir()} == foreign


def test_r20_a_folder_with_another_runs_checkpoint_is_not_trained_in(trained: Trained, tmp_path: Path) -> None:
    start(ToyTask(), tmp_path / "other", settings(save_strategy="steps", save_steps=5), last_step=5)
    shutil.copytree(tmp_path / "other" / "checkpoint-5", trained.checkpoint(5))
    before = contents(trained.folder)
    ended = trained.run("resume", "--num_epochs", "1")
    assert ended.code == 2 and "holds checkpoints of another run" in ended.err
    assert contents(trained.folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


# R19: the best of a folder that was moved


@pytest.mark.slow
def test_r19_resumed_from_the_best_in_a_folder_that_was_moved(finished: Trained, tmp_path: Path) -> None:
    """The folder of `finished` was moved after its training; its first place is gone."""
    first_place = finished.folder.parent / "as trained"
    assert not first_place.exists()
    run = finished.copied_to(tmp_path / "moved again")
    rows = json.loads(command("checkpoints", "list", "--checkpoint_dir", run.folder, "--json").out)
    (step,) = [row["step"] for row in rows if "best" in row["tags"]]
    assert step == 35
    said = run.resume("--use_best_checkpoint", "--num_epochs", "1").err
    assert f"resuming from {run.checkpoint(step)}: step {step}" in said
    assert (run.folder / "model" / "model.json").exists()
    for path in [*run.folder.glob("checkpoint-*/*"), *run.folder.glob("model/*")]:
        assert str(first_place).encode() not in path.read_bytes()


# R21: two runs in one folder


def test_r21_train_refuses_a_folder_with_a_run_and_names_the_ways_out(trained: Trained) -> None:
    before = contents(trained.folder)
    ended = trained.run("train", "--session_regex", SHOP_SESSION)
    assert ended.code == 2
    last = ended.err.splitlines()[-1]
    for way in (str(trained.folder), "checkpoint-50", "resume_train.py", "--checkpoint_dir", "--overwrite"):
        assert way in last
    assert contents(trained.folder) == before


def test_r21_a_second_trainer_in_the_folder_is_refused(trained: Trained) -> None:
    before = contents(trained.folder)
    with locked(trained.folder):
        ended = trained.run("resume", "--num_epochs", "1")
    assert ended.code == 2 and "another process trains in" in ended.err.splitlines()[-1]
    assert contents(trained.folder) == before
    trained.resume("--total_epochs", "10")  # the lock goes with its holder


# R22: pickles of a stranger


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def _pickled(payload: Payload) -> bytes:
    return pickle.dumps(payload)


def _saved_by_torch(payload: Payload) -> bytes:
    buffer = io.BytesIO()
    torch.save({"0.weight": payload}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("made", [_pickled, _saved_by_torch])
def test_r22_a_planted_pickle_never_runs(
    finished: Trained, tmp_path: Path, made: Callable[[Payload], bytes], forged: Callable[[Path, str, bytes], None]
) -> None:
    marker = tmp_path / "ran"
    for part in (*PARTS, MANIFEST):
        run = finished.copied_to(tmp_path / f"as {part}")
        forged(run.checkpoint(50), part, made(Payload(marker)))
        said = run.choice().err
        assert not marker.exists()
        assert f"resuming from {run.checkpoint(45)}" in said and f"checkpoint-50/{part}" in said
        ended = run.run("resume", "--checkpoint_path", run.checkpoint(50))
        assert ended.code == 4 and not marker.exists()
        assert f"checkpoint-50/{part}" in ended.err.splitlines()[-1]
    run = finished.copied_to(tmp_path / "beside")
    for name in ("optimizer.pkl", "rng_state.pth", "pytorch_model.bin", "scheduler.pt"):
        (run.checkpoint(50) / name).write_bytes(made(Payload(marker)))
    said = run.choice().err
    assert not marker.exists()
    assert f"resuming from {run.checkpoint(50)}" in said and "optimizer.pkl" in said and "are not read" in said
    pickle.loads(_pickled(Payload(marker)))
    assert marker.exists()  # it would have worked


def test_r22_what_another_version_of_torch_wrote_loads(
    trained: Trained, forged: Callable[[Path, str, bytes], None]
) -> None:
    """What the present one adds to the archive beside the tensors (byte order, alignment, an id) is not needed."""
    path = trained.checkpoint(50)
    before = given_checkpoint(path).optimizer_state
    older = io.BytesIO()
    with zipfile.ZipFile(path / "optimizer.pt") as archive, zipfile.ZipFile(older, "w") as rewritten:
        for name in archive.namelist():
            if re.search(r"/(data\.pkl|version|data/\d+)$", name):
                rewritten.writestr(name, archive.read(name))
        assert len(rewritten.namelist()) < len(archive.namelist())
    forged(path, "optimizer.pt", older.getvalue())
    state = state_of(path)
    forged(path, "trainer_state.json", encode_json({**state, "versions": {**state["versions"], "torch": "2.4.0"}}))
    said = trained.choice().err
    assert f"resuming from {path}: step 50" in said and re.search(r"torch +2\.4\.0 +\S+ +allowed, recorded", said)
    after = given_checkpoint(path).optimizer_state
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name][key], after[name][key]) for name in before for key in before[name])


@pytest.fixture
def forged() -> Callable[[Path, str, bytes], None]:
    """Replaces a part and makes the manifest agree, as someone who wants to be believed would."""

    def forge(checkpoint: Path, name: str, content: bytes) -> None:
        (checkpoint / name).write_bytes(content)
        if name == MANIFEST:
            return
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        del manifest["sha256"]
        for part in manifest["parts"]:
            if part["name"] == name:
                part.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
        (checkpoint / MANIFEST).write_bytes(encode_json({"sha256": sha256_json(manifest), **manifest}))

    return forge


# R23: a full disk


def trained_with_a_refusal(folder: Path, wanted: int) -> str | None:
    """Two epochs; the disk refuses the `wanted`-th call after the first step. Its name, None if there are fewer."""
    calls, armed, refused = 0, False, None

    def called(name: str) -> None:
        nonlocal calls, refused
        calls += armed
        if armed and calls == wanted:
            refused = name
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def arm(*_: Any) -> None:
        nonlocal armed
        armed = True

    with disk_calls(called):
        try:
            start(ToyTask(), folder, settings(save_total_limit=1), 2, on_step=arm)
        except TrainingError as error:  # the last save was refused, and no step is left to try again
            assert "step 14" in str(error) and str(folder / "checkpoint-7") in str(error) and error.exit_code == 1
            assert steps(folder) in ([7], [7, 14])  # both where the refused call came after the rename
            armed = False
            go_on(ToyTask(), folder, settings(save_total_limit=1))
    return refused


def test_r23_no_space_at_any_call_costs_neither_the_run_nor_the_last_good_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = toy_run(tmp_path / "straight", [], settings(), epochs=2)
    names, number = [], 0
    while (name := trained_with_a_refusal(folder := tmp_path / str(number), number + 1)) is not None:
        valid, rejected = scan_checkpoints(folder, verify=True)
        assert valid[-1].step == 14 and not rejected, name
        assert weights(folder / "checkpoint-14") == weights(newest(straight.folder)), name
        assert history(folder / "checkpoint-14")["val_losses"] == history(newest(straight.folder))["val_losses"], name
        assert not list(folder.glob(".checkpoint-*.tmp-*")), name
        names.append(name)
        number += 1
    assert len(names) > 60 and any(name.startswith("write model") for name in names)
    assert "next attempt by step 8" in caplog.text


def test_r23_a_run_that_could_never_save_fails(
    finished: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name.startswith("checkpoint-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", full)
    run = Trained(finished.train, finished.evaluation, tmp_path / "run")
    ended = run.run("train", "--session_regex", SHOP_SESSION, "--num_epochs", "2", "--batch_size", "10")
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert "training reached step 10" in last and "No space left" in last and "none was saved" in last
    assert "training goes on, next attempt by step" in ended.err
    assert not named_checkpoints(run.folder) and not (run.folder / "model").exists()
