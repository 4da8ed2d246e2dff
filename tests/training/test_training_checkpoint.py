"""One checkpoint: what is valid, what a damaged or hostile one does, what a refused write leaves."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from resume.disk_calls import disk_calls
from training_toy import ToyTask, go_on, settings, start

from ai_detect.artifacts import sha256_json
from ai_detect.errors import CheckpointError, ConfigError, TrainingError
from ai_detect.training.checkpoint import MANIFEST, PARTS, load_checkpoint, read_checkpoint, write_checkpoint
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint, scan_checkpoints
from ai_detect.training.checkpoint_writer import check_room
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import (
    encode_json,
    encode_model,
    encode_optimizer,
    load_weights,
)
from ai_detect.training.state import TrainerState, new_state


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of 7 steps: checkpoint-7 and checkpoint-14."""
    folder = tmp_path_factory.mktemp("trained")
    start(ToyTask(), folder, settings(), epochs=2)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "checkpoint"))


def forge(path: Path, name: str, content: bytes) -> None:
    """Replace a part and make the manifest agree, as someone who wants to be believed would."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / MANIFEST).read_bytes())
    for part in manifest["parts"]:
        if part["name"] == name:
            part.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    reseal(path, manifest)


def reseal(path: Path, manifest: dict[str, Any]) -> None:
    manifest.pop("sha256", None)
    (path / MANIFEST).write_bytes(encode_json({"sha256": sha256_json(manifest), **manifest}))


def test_what_was_saved_comes_back(folder: Path) -> None:
    loaded = latest_checkpoint(folder)
    assert loaded.checkpoint.step == loaded.trainer_state.step == 14
    assert loaded.templates == {"templates": ["a <*>", "b\udc80"]}
    task = ToyTask()
    optimizer = AdamW(task.model, 0.01)
    load_weights(task.model, loaded.model_state, folder)
    optimizer.load(loaded.optimizer_state, folder)
    path = folder / "checkpoint-14"
    assert encode_model(task.model.state_dict()) == (path / "model.safetensors").read_bytes()
    assert encode_optimizer(optimizer.state()) == (path / "optimizer.pt").read_bytes()
    state = json.loads((path / "trainer_state.json").read_bytes())
    assert loaded.trainer_state.to_json() == state
    assert {"step", "epoch", "best_val_loss", "best_step", "patience_counter", "stopped", "timestamp"} <= state.keys()


def test_six_files_and_nothing_else(folder: Path) -> None:
    assert sorted(entry.name for entry in (folder / "checkpoint-14").iterdir()) == sorted([*PARTS, MANIFEST])
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    shutil.move(path, target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", [*PARTS, MANIFEST])
@pytest.mark.parametrize("damage", [truncate, empty, flip, Path.unlink, link, pipe])
def test_a_damaged_part_sends_back_to_the_checkpoint_before(
    folder: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "checkpoint-14" / name)
    assert latest_checkpoint(folder).checkpoint.step == 7
    assert "checkpoint-14" in caplog.text
    with pytest.raises(CheckpointError, match=r"checkpoint-7$") as error:
        given_checkpoint(folder / "checkpoint-14")
    assert "checkpoint-14" in str(error.value) and "\n" not in str(error.value)


def test_every_flipped_bit_of_the_manifest_counts(folder: Path) -> None:
    path = folder / "checkpoint-14" / MANIFEST
    content = path.read_bytes()
    generator = np.random.default_rng(3)
    for position in generator.choice(len(content), 60, replace=False):
        changed = bytearray(content)
        changed[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_checkpoint(path.parent)


def test_old_manifest_beside_new_parts_is_invalid(folder: Path) -> None:
    for name in PARTS:
        shutil.copy(folder / "checkpoint-14" / name, folder / "checkpoint-7" / name)
    with pytest.raises(CheckpointError):
        load_checkpoint(read_checkpoint(folder / "checkpoint-7"))


def test_renamed_to_another_step_is_invalid(folder: Path) -> None:
    (folder / "checkpoint-7").rename(folder / "checkpoint-70")
    assert [checkpoint.step for checkpoint in scan_checkpoints(folder)[0]] == [14]


def test_both_broken_is_an_error_that_names_one(folder: Path) -> None:
    for step in (7, 14):
        truncate(folder / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint-14.model\.safetensors") as error:
        latest_checkpoint(folder)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format_version": "1"},
        {"surprise": 1},
        {"step": "14"},
        {"step": -1},
        {"val_loss": float("nan")},
        {"parts": []},
        {"parts": [{"name": "../../etc/passwd", "size": 1, "sha256": "0" * 64}]},
    ],
)
def test_manifest_is_read_strictly(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "checkpoint-14"
    manifest = {**json.loads((path / MANIFEST).read_bytes()), **change}
    manifest.pop("sha256")
    (path / MANIFEST).write_text(json.dumps({"sha256": "0" * 64, **manifest}))
    assert latest_checkpoint(folder).checkpoint.step == 7
    if "val_loss" not in change:
        reseal(path, manifest)
        assert latest_checkpoint(folder).checkpoint.step == 7


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"nul", b"\xff", b"[" * 100_000, b'{"step": 14}'])
@pytest.mark.parametrize("name", ["config.json", "trainer_state.json", MANIFEST])
def test_json_parts_of_any_content(folder: Path, name: str, content: bytes) -> None:
    path = folder / "checkpoint-14"
    if name == MANIFEST:
        (path / name).write_bytes(content)
    else:
        forge(path, name, content)
    expected = 14 if name == "config.json" and content == b'{"step": 14}' else 7
    assert latest_checkpoint(folder).checkpoint.step == expected


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", [*PARTS, MANIFEST, "stray.pkl"])
@pytest.mark.parametrize("pickled", [pickle.dumps, lambda value: _torch_saved(value)])
def test_a_planted_pickle_never_runs(
    folder: Path, tmp_path: Path, name: str, pickled: Callable[[Any], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    marker = tmp_path / "ran"
    content = pickled({"weight": Payload(marker)})
    path = folder / "checkpoint-14"
    if name in (MANIFEST, "stray.pkl"):
        (path / name).write_bytes(content)
    else:
        forge(path, name, content)
    loaded = latest_checkpoint(folder)
    assert not marker.exists()
    assert loaded.checkpoint.step == (14 if name == "stray.pkl" else 7)
    assert name in caplog.text
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()  # the payload would have worked


def _torch_saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {"weight": 3},
        {"weight": {"exp_avg": "text"}},
        {1: {"exp_avg": torch.ones(1)}},
        {"0.weight": {"exp_avg": torch.full((16, 8), torch.nan)}},
    ],
)
def test_optimizer_state_is_tensors_by_name(folder: Path, value: Any) -> None:
    forge(folder / "checkpoint-14", "optimizer.pt", _torch_saved(value))
    assert latest_checkpoint(folder).checkpoint.step == 7


def test_weights_that_are_not_finite_are_not_taken(folder: Path) -> None:
    path = folder / "checkpoint-14"
    weights = safetensors.torch.load((path / "model.safetensors").read_bytes())
    weights["0.weight"][0, 0] = torch.inf
    forge(path, "model.safetensors", safetensors.torch.save(weights))
    with pytest.raises(CheckpointError, match=r"0\.weight holds values that are not finite"):
        given_checkpoint(path)


def test_weights_of_another_architecture_name_the_tensor_and_both_shapes(folder: Path) -> None:
    loaded = latest_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"0\.weight has shape \(16, 8\).*expected \(16, 9\)"):
        load_weights(ToyTask(width=9).model, loaded.model_state, folder)
    with pytest.raises(CheckpointError, match=r"lacks weights that this model has: 4\.bias"):
        load_weights(torch.nn.Sequential(*ToyTask().model, torch.nn.Linear(1, 1)), loaded.model_state, folder)
    with pytest.raises(CheckpointError, match="holds weights that this model lacks"):
        load_weights(ToyTask().model[:1], loaded.model_state, folder)


def test_state_is_read_strictly(folder: Path) -> None:
    value = json.loads((folder / "checkpoint-14" / "trainer_state.json").read_bytes())
    changes: list[dict[str, object]] = [
        *({"step": True}, {"samples_in_epoch": 50}, {"surprise": 1}, {"phase": "lunch"}, {"lineage": []}),
        *({"epoch": 1 << 62}, {"val_losses": []}, {"evaluation_due": True, "interval_samples": 0}),
    ]
    for change in changes:
        with pytest.raises(ValueError, match=next(iter(change))):
            TrainerState.from_json({**value, **change})
    for name in value:
        with pytest.raises(ValueError, match=name):
            TrainerState.from_json({key: item for key, item in value.items() if key != name})


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


ROWS = st.lists(st.tuples(st.integers(0, 1 << 53), NUMBERS, NUMBERS | st.none(), NUMBERS))


@given(ROWS, st.dictionaries(st.text(), st.text()), NUMBERS)
def test_any_state_survives_its_file(
    history: list[tuple[int, float, float | None, float]], provenance: dict[str, str], interval_loss: float
) -> None:
    state = new_state(settings(), plan_fresh(3), 50, eval_id=None, provenance=provenance)
    state.loss_steps, state.train_losses = [row[0] for row in history], [row[1] for row in history]
    state.val_losses, state.learning_rates = [row[2] for row in history], [row[3] for row in history]
    state.interval_loss = interval_loss
    assert TrainerState.from_json(json.loads(encode_json(state.to_json()))) == state


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.usefixtures("saving_at_once")
def test_a_full_disk_at_any_write_costs_no_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk refuses from the k-th sync of the second checkpoint on, for one save."""
    plain = start(ToyTask(), tmp_path / "plain", settings())
    fsync, n_refused = os.fsync, 0
    for refused in (1, 4, 6, 7):  # the last is that of the names in the folder
        folder = tmp_path / str(refused)
        task = ToyTask()
        calls = 0

        def counting(descriptor: int, refused: int = refused, task: ToyTask = task) -> None:
            nonlocal calls, n_refused
            if len(task.seen) == 100:  # two epochs: checkpoint-14 is being saved
                calls += 1
                if calls == refused + 1:  # the first sync is of the metrics
                    n_refused += 1
                    raise OSError(code, os.strerror(code))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", counting)
        state = start(task, folder, settings())
        monkeypatch.setattr(os, "fsync", fsync)
        valid, rejected = scan_checkpoints(folder, verify=True)
        # The save was tried again one step later, without a validation loss.
        assert [checkpoint.step for checkpoint in valid] == [7, 15, 21] and not rejected
        assert valid[1].manifest.val_loss is None
        assert not list(folder.glob(".*"))
        assert state.val_losses == plain.val_losses
        assert (folder / "checkpoint-21/model.safetensors").read_bytes() == (
            tmp_path / "plain/checkpoint-21/model.safetensors"
        ).read_bytes()
    assert n_refused == 4 and os.strerror(code) in caplog.text


@pytest.mark.usefixtures("saving_at_once")
def test_attempts_grow_rarer_and_a_run_without_a_last_checkpoint_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []

    def refuse(folder: Path, state: TrainerState, *parts: Any) -> None:
        attempts.append(state.step)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ai_detect.training.checkpoint_writer.write_checkpoint", refuse)
    with pytest.raises(TrainingError, match="No space left on device") as error:
        start(ToyTask(), tmp_path, settings(), epochs=6)
    assert "none was saved" in str(error.value) and error.value.exit_code == 1
    assert attempts[:5] == [7, 8, 10, 14, 21] and len(attempts) < 15


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    task = ToyTask()
    with pytest.raises(ConfigError, match="checkpoint_dir"):
        start(task, tmp_path / "file", settings())
    assert not task.seen


def test_too_little_room_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_room(tmp_path, 1 << 60, 3)
    assert "save_total_limit" in caplog.text


def test_planted_left_overs_do_not_disturb_a_save(folder: Path) -> None:
    (folder / f".checkpoint-21.tmp-{os.getpid()}").mkdir()
    (folder / f".checkpoint-21.tmp-{os.getpid()}" / "junk").write_text("x")
    (folder / "checkpoint-21").mkdir()
    (folder / "checkpoint-21" / "theirs").write_text("precious")
    (folder / "checkpoint-28").write_text("a file")
    go_on(ToyTask(), folder, settings(), flags={"num_epochs": 2})
    assert [checkpoint.step for checkpoint in scan_checkpoints(folder, verify=True)[0]] == [7, 14, 21, 28]
    assert (folder / "superseded/2/checkpoint-21/theirs").read_text() == "precious"
    assert (folder / "superseded/2/checkpoint-28").read_text() == "a file"
    assert not list(folder.glob(".*"))


def test_what_has_the_name_stays_until_the_new_one_is_complete(folder: Path) -> None:
    """The disk refuses each call of a save in turn; what is at the place of the new checkpoint is to be kept."""
    path, kept = folder / "checkpoint-14", folder / ".checkpoint-14.superseded-2-1"
    parts = {name: (path / name).read_bytes() for name in PARTS}
    state = given_checkpoint(path).trainer_state.model_copy(update={"timestamp": "another"})

    def contents(place: Path) -> dict[str, bytes]:
        return {part.name: part.read_bytes() for part in place.iterdir()}

    before, names = contents(path), []
    for wanted in count(2):  # the first makes the folder, which is there
        calls = 0

        def called(name: str, wanted: int = wanted) -> None:
            nonlocal calls
            calls += 1
            if calls == wanted:
                names.append(name)
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with disk_calls(called), suppress(OSError):
            write_checkpoint(folder, state, parts, kept)
        if kept.exists():
            break
        assert contents(path) == before, names[-1]
        assert not list(folder.glob(".*")), names[-1]
    assert contents(kept) == before and given_checkpoint(path).trainer_state.timestamp == "another"
    assert names[-3:-1] == [f"replace {kept.name}", "replace checkpoint-14"] and names[-1].startswith("fsync")
