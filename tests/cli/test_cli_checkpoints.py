"""`checkpoints`: what it marks is what resume takes, and what it says is for people or, with --json, for programs."""

from __future__ import annotations

import json
import os
import pty
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support import Run, Shop

from ai_detect.cli.main import main
from ai_detect.cli.run_folders import locked
from ai_detect.errors import CheckpointError
from ai_detect.training.checkpoint import PARTS, Checkpoint, write_checkpoint
from ai_detect.training.checkpoint_store import best_checkpoint, branch, given_checkpoint, latest_checkpoint
from ai_detect.training.state import Parent, Segment

KEYS = [
    *("name", "step", "epoch", "train_loss", "val_loss", "learning_rate", "megabytes", "timestamp", "run_id"),
    *("segment", "valid", "reason", "tags"),
]


@pytest.fixture
def folder(shop: Shop, tmp_path: Path) -> Path:
    """A copy of the shop's folder: three checkpoints, one an epoch, and the finished model."""
    return Path(shutil.copytree(shop.checkpoints, tmp_path / "checkpoint"))


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def saved(folder: Path, path: Path, *, weights: bytes | None = None, **changes: Any) -> Checkpoint:
    """Another checkpoint: that of `path` with changes of its state."""
    state = given_checkpoint(path).trainer_state.model_copy(update=changes)
    parts = {name: (path / name).read_bytes() for name in PARTS}
    return write_checkpoint(folder, state, {**parts, **({"model.safetensors": weights} if weights else {})}, None)


def branched(folder: Path, path: Path, step: int, segment: int = 2, **changes: Any) -> Checkpoint:
    """A checkpoint of a later segment that went on from `path`."""
    loaded = given_checkpoint(path)
    parent = Parent(step=loaded.checkpoint.step, hash=loaded.checkpoint.hash)
    overrides = {"learning_rate": [0.002, 0.001]}
    later = Segment(
        segment=segment, parent=parent, started="2026-01-01T00:00:00Z", target_epochs=5, overrides=overrides
    )
    return saved(folder, path, step=step, lineage=[*loaded.trainer_state.lineage, later], **changes)


def listed(run: Run, folder: Path) -> list[dict[str, Any]]:
    result = run("checkpoints", "list", "--json", "--checkpoint_dir", folder)
    assert result.code == 0
    return list(json.loads(result.out))


def tagged(rows: list[dict[str, Any]], tag: str) -> list[str]:
    return [row["name"] for row in rows if tag in row["tags"]]


def name_of(choose: Callable[[Path], Any], folder: Path) -> list[str]:
    try:
        return [choose(folder).checkpoint.path.name]
    except CheckpointError:
        return []


def truncate(folder: Path) -> None:
    os.truncate(paths(folder)[-1] / "model.safetensors", 100)


def lose_a_part(folder: Path) -> None:
    (paths(folder)[-1] / "templates.json").unlink()


def change_the_manifest(folder: Path) -> None:
    manifest = paths(folder)[-1] / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"val_loss": ', b'"val_loss": 1'))


def flip_a_bit_of_the_state(folder: Path) -> None:
    path = paths(folder)[-1] / "trainer_state.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def save_without_evaluation(folder: Path) -> None:
    saved(folder, paths(folder)[-1], step=40, val_loss=None)


def evaluate_on_other_data(folder: Path) -> None:
    saved(folder, paths(folder)[-1], step=40, val_loss=9.0, eval_id="other")


def save_another_runs(folder: Path) -> None:
    saved(folder, paths(folder)[-1], step=40, run_id="other", val_loss=9.0)


def save_the_best_loss_again(folder: Path) -> None:
    saved(folder, paths(folder)[-1], step=40)


def branch_from_the_first(folder: Path) -> None:
    branched(folder, paths(folder)[0], 13, val_loss=5.0)


def break_all(folder: Path) -> None:
    for path in paths(folder):
        (path / "manifest.json").unlink()


CHANGES = [
    *(truncate, lose_a_part, change_the_manifest, flip_a_bit_of_the_state, save_without_evaluation),
    *(evaluate_on_other_data, save_another_runs, save_the_best_loss_again, branch_from_the_first, break_all),
]


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_list_marks_what_resume_would_take(run: Run, folder: Path, change: Callable[[Path], None] | None) -> None:
    if change is not None:
        change(folder)
    rows = listed(run, folder)
    assert tagged(rows, "latest") == name_of(latest_checkpoint, folder)
    assert tagged(rows, "best") == name_of(best_checkpoint, folder)
    assert all(list(row) == KEYS for row in rows)
    assert all(row["valid"] == (row["reason"] is None) for row in rows)
    assert {row["name"] for row in rows} == {path.name for path in paths(folder)}


def test_list_says_where_each_stands(run: Run, folder: Path) -> None:
    last = given_checkpoint(paths(folder)[-1]).trainer_state
    saved(folder, paths(folder)[-1], step=40, samples_in_epoch=2 * last.n_samples // 5 + 1, planned_epochs=10)
    row = listed(run, folder)[-1]
    assert (row["step"], int(10 * row["epoch"])) == (40, 34)
    assert row["train_loss"] == last.train_losses[-1] and row["learning_rate"] == last.learning_rates[-1]
    lines = run("checkpoints", "list", "--checkpoint-dir", folder).out.splitlines()
    assert lines[-1].split()[:2] == ["checkpoint-40", "3.4/10"]
    assert f"{row['val_loss']:.5f}" in lines[-1]


def test_list_marks_what_is_finished_and_whose_weights_the_model_has(run: Run, folder: Path) -> None:
    card = json.loads((folder / "model" / "model.json").read_text())["card"]
    rows = listed(run, folder)
    assert tagged(rows, "model") == [f"checkpoint-{card['step']}"]
    assert tagged(rows, "finished") == [f"checkpoint-{card['last_step']}"]
    shutil.rmtree(folder / "model")
    (folder / "run.json").unlink()
    rows = listed(run, folder)
    assert tagged(rows, "model") == tagged(rows, "finished") == []


def test_list_shows_what_a_branch_left_behind(run: Run, folder: Path) -> None:
    """A kill came before the branch could move them; then it does."""
    first, second, third = paths(folder)
    new = branched(folder, first, 13)
    rows = {row["name"]: row for row in listed(run, folder)}
    assert tagged(list(rows.values()), "superseded") == [second.name, third.name]
    assert not rows[second.name]["valid"] and "superseded by checkpoint-13" in rows[second.name]["reason"]
    branch(folder, new.manifest.run_id, new.manifest.parent.step if new.manifest.parent else 0, 2)
    rows = {row["name"]: row for row in listed(run, folder)}
    moved = [f"superseded/2/{path.name}" for path in (second, third)]
    assert list(rows) == [first.name, new.path.name, *moved]
    assert [rows[name]["valid"] for name in moved] == [True, True]
    assert tagged(list(rows.values()), "superseded") == moved
    info = run("checkpoints", "info", moved[0], "--json", "--checkpoint_dir", folder)
    assert json.loads(info.out)["tags"] == ["superseded"]


_OPENED: list[str] = []
_WATCHING: list[bool] = []


def _note_opened(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHING:
        _OPENED.append(str(given[0]))


def test_list_reads_manifests_and_states_only(run: Run, folder: Path) -> None:
    listed(run, folder)  # imports
    sys.addaudithook(_note_opened)
    _WATCHING.append(True)
    try:
        listed(run, folder)
    finally:
        _WATCHING.clear()
    read = {Path(name).name for name in _OPENED if str(folder) in name and "/checkpoint-" in name}
    assert read == {"manifest.json", "trainer_state.json"}


def test_info_says_in_words_what_a_checkpoint_is(run: Run, folder: Path) -> None:
    first = paths(folder)[0]
    early = given_checkpoint(first).trainer_state.early_stopping
    stopped = early.model_copy(
        update={"stopped": True, "stop_reason": "no better validation loss", "patience_counter": 2}
    )
    branched(folder, first, 30, early_stopping=stopped)
    result = run("checkpoints", "info", "30", "--checkpoint_dir", folder)
    assert result.code == 0
    for words in (
        "step 30, epoch 1 of 3",
        "2 of 3 evaluations without improvement",
        "stopped: no better validation loss",
        f"from step {first.name.split('-')[1]} to epoch 5, with learning_rate 0.002 -> 0.001",
        "train.log",
        "torch ",
        "model.safetensors",
    ):
        assert words in result.out, words
    told = json.loads(run("checkpoints", "info", "30", "--json", "--checkpoint_dir", folder).out)
    assert told["step"] == 30 and told["trainer_state"]["stop_reason"] == "no better validation loss"
    assert told["config"]["batch_size"] == 32 and told["parts"][0]["sha256"] and told["hash"]


def test_info_of_a_damaged_one_says_what_is_wrong(run: Run, folder: Path) -> None:
    truncate(folder)
    result = run("checkpoints", "info", paths(folder)[-1].name, "--checkpoint_dir", folder)
    assert result.code == 4 and "model.safetensors has 100 bytes" in result.err


def test_verify_reads_every_byte(run: Run, folder: Path) -> None:
    weights = paths(folder)[1] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(content)
    result = run("checkpoints", "verify", "--json", "--checkpoint_dir", folder)
    assert result.code == 4
    rows = json.loads(result.out)
    assert [row["valid"] for row in rows] == [True, False, True] and "model.safetensors" in rows[1]["reason"]
    some = run("checkpoints", "verify", paths(folder)[0].name, paths(folder)[2], "--checkpoint_dir", folder)
    assert some.code == 0 and some.out.count("every byte is the one that was written") == 2


def test_diff_shows_what_moved_and_how_far(run: Run, folder: Path) -> None:
    first, last = paths(folder)[0], paths(folder)[-1]
    weights = {name: np.array(value) for name, value in safetensors.numpy.load_file(last / "model.safetensors").items()}
    near, far, *_ = sorted(weights)
    weights[near].flat[0] += 0.5
    weights[far].flat[0] += 2.0
    saved(folder, last, step=40, weights=safetensors.numpy.save(weights), val_loss=0.25)
    flags = ["diff", last.name, "40", "--checkpoint_dir", folder]
    told = json.loads(run("checkpoints", *flags, "--json").out)
    assert list(told["weights"])[:2] == [far, near] and told["weights"][far] == pytest.approx(2.0)
    assert told["distance"] == pytest.approx(4.25**0.5) and not told["identical_weights"]
    changed = {row["name"]: (row["first"], row["second"]) for row in told["differences"]}
    assert changed["val_loss"][1] == 0.25 and changed["step"][1] == 40 and "batch_size" not in changed
    out = run("checkpoints", *flags).out
    assert "weights: distance 2.06155 over" in out
    assert out.index(far) < out.index(near)
    assert json.loads(run("checkpoints", "diff", first, last, "--json", "--checkpoint_dir", folder).out)["distance"] > 0


def test_diff_says_identical_where_weights_are(run: Run, folder: Path) -> None:
    last = paths(folder)[-1]
    saved(folder, last, step=40)
    flags = ["diff", last.name, "checkpoint-40", "--checkpoint_dir", folder]
    assert "identical weights" in run("checkpoints", *flags).out
    assert json.loads(run("checkpoints", *flags, "--json").out)["identical_weights"]


def test_diff_names_a_tensor_that_only_one_has(run: Run, folder: Path) -> None:
    last = paths(folder)[-1]
    weights = safetensors.numpy.load_file(last / "model.safetensors")
    saved(folder, last, step=40, weights=safetensors.numpy.save({**weights, "extra": np.zeros(2, np.float32)}))
    flags = ["diff", last.name, "checkpoint-40", "--checkpoint_dir", folder]
    told = json.loads(run("checkpoints", *flags, "--json").out)
    assert next(iter(told["weights"].items())) == ("extra", None) and not told["identical_weights"]
    assert "not in both" in run("checkpoints", *flags).out


@pytest.mark.parametrize("flag", ["--dry_run", "--dry-run"])
def test_prune_says_what_it_would_remove_and_why(run: Run, folder: Path, flag: str) -> None:
    before = paths(folder)
    result = run("checkpoints", "prune", flag, "--save_total_limit", "1", "--checkpoint_dir", folder)
    assert result.code == 0 and result.out.count("would delete") == 2 and "kept are the newest" in result.out
    assert paths(folder) == before
    assert "deleted" in run("checkpoints", "prune", "--save_total_limit", "1", "--checkpoint_dir", folder).out
    assert len(paths(folder)) == 1


def test_prune_deletes_nothing_beside_a_running_trainer(run: Run, folder: Path) -> None:
    before = paths(folder)
    flags = ["checkpoints", "prune", "--save_total_limit", "1", "--checkpoint_dir", folder]
    with locked(folder):
        refused = run(*flags)
        assert run(*flags, "--dry_run").out.count("would delete") == 2
    assert refused.code == 2 and f"another process trains in {folder}" in refused.err
    assert paths(folder) == before
    assert run(*flags).code == 0 and len(paths(folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["diff", "checkpoint-6"], 2, ["takes 2 checkpoint names, got 1", "checkpoint-"]),
        (["info"], 2, ["takes 1 checkpoint name, got 0"]),
        (["info", "7777"], 4, ["does not exist; the nearest is checkpoint-"]),
        (["info", "chekpoint-18"], 4, ["did you mean 'checkpoint-"]),
        (["verify", "7777"], 4, ["the nearest is"]),
        (["list", "18"], 2, ["takes no names"]),
        (["list", "--dry_run"], 2, ["--dry_run", "only prune"]),
        (["list", "--checkpoint_dir", "nowhere"], 4, ["nowhere does not exist"]),
        (["verify", "--checkpoint_dir", "."], 4, ["no checkpoint in ."]),
        (["prune", "--checkpoint_dir", "nowhere"], 4, ["nowhere does not exist"]),
        (["prune", "--checkpoint_dir", "."], 4, ["no checkpoint in ."]),
    ],
)
def test_mistakes_are_answered_with_the_way_out(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: list[str]
) -> None:
    empty = folder.parent / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    result = run("checkpoints", *arguments, *([] if "--checkpoint_dir" in arguments else ["--checkpoint_dir", folder]))
    assert result.code == code and result.out == ""
    assert len(result.err.splitlines()) == 1
    for word in words:
        assert word in result.err
    assert list(empty.iterdir()) == []


def test_nothing_is_cut_off_or_coloured_in_a_pipe(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truncate(folder)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = run("checkpoints", "list", "--checkpoint_dir", folder).out
    assert "\x1b" not in out and "…" not in out
    (row,) = [row for row in listed(run, folder) if not row["valid"]]
    assert f"{row['name']}: {row['reason']}" in out.splitlines()
    assert len(out.splitlines()) == 1 + 3 + 1


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Run a command whose standard output is a terminal; gives what it shows."""
    reader, writer = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(*arguments: str | Path) -> str:
        with os.fdopen(os.dup(writer), "w") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            assert main([str(argument) for argument in arguments]) == 0
        return os.read(reader, 1 << 16).decode()

    yield shown
    os.close(reader)
    os.close(writer)


def test_a_terminal_shows_colours_unless_no_color_is_set(
    folder: Path, on_terminal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    flags = ["checkpoints", "list", "--checkpoint_dir", folder]
    assert "\x1b[1;32mlatest" in on_terminal(*flags)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = on_terminal(*flags)
    assert "latest" in plain and "[1;32m" not in plain and "[36m" not in plain


def test_text_of_a_strangers_checkpoint_cannot_steer_the_terminal(run: Run, folder: Path) -> None:
    saved(
        folder, paths(folder)[-1], step=40, provenance={"train_file": "\x1b[2Jx", "train_data": [{"path": "\x1b]0;x"}]}
    )
    out = run("checkpoints", "info", "40", "--checkpoint_dir", folder).out
    assert "\x1b" not in out and "\\x1b[2Jx" in out
