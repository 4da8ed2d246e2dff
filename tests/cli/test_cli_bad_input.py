"""Bad input: one line that says what, where and what to do; the exit code of the contract; nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support import SHOP_SESSION, Run, Shop, shop_log


def one_line(err: str, *parts: str) -> None:
    """The last line of talk is the error, and it names these parts; there is no traceback."""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("ai-detect: error: ")
    for part in parts:
        assert part in last, f"{part!r} not in {last!r}"


def train(run: Run, log: Path, folder: Path, *flags: str | Path):
    return run(
        "train",
        "--train_file",
        log,
        "--checkpoint_dir",
        folder / "c",
        "--output_dir",
        folder / "o",
        "--num_epochs",
        "1",
        *flags,
    )


def test_missing_file(run: Run, tmp_path: Path) -> None:
    result = train(run, tmp_path / "nowhere.log", tmp_path)
    assert result.code == 4
    one_line(result.err, "nowhere.log", "no such file")
    assert not (tmp_path / "o").exists()


def test_folder_without_logs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = train(run, tmp_path / "empty", tmp_path)
    assert result.code == 4
    one_line(result.err, "empty")


def test_empty_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    result = train(run, tmp_path / "empty.log", tmp_path)
    assert result.code == 4
    one_line(result.err, "empty.log", "empty")


def test_blank_lines_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "blank.log").write_text("\n \n\t\n")
    result = train(run, tmp_path / "blank.log", tmp_path)
    assert result.code == 4
    one_line(result.err, "blank.log")


def test_binary_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_bytes(b"\x7fELF" + bytes(range(256)) * 20)
    result = train(run, tmp_path / "x.log", tmp_path)
    assert result.code == 4
    one_line(result.err, "x.log", "binary")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("a\n")
    log.chmod(0)
    result = train(run, log, tmp_path)
    assert result.code == 4
    one_line(result.err, "x.log", "ermission")


def test_unknown_flag_and_value(run: Run) -> None:
    result = run("train", "--train_fil", "a")
    assert result.code == 2
    one_line(result.err, "--train_fil", "did you mean '--train_file'")
    result = run("train", "--train_file", "a", "--detection_method", "iforst")
    assert result.code == 2
    one_line(result.err, "did you mean 'iforest'")
    result = run("trian", "--train_file", "a")
    assert result.code == 2
    one_line(result.err, "did you mean 'train'")


def test_session_regex_that_never_matches(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = train(run, shop.train, tmp_path, "--session_regex", "(blk_[0-9]+)")
    assert result.code == 4
    one_line(result.err, "(blk_[0-9]+)", str(shop.train))


def test_session_regex_with_a_syntax_error(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = train(run, shop.train, tmp_path, "--session_regex", "(blk_")
    assert result.code == 2
    one_line(result.err, "(blk_", "regular expression")


def test_unknown_log_format(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = train(run, shop.train, tmp_path, "--log_format", "sylog")
    assert result.code == 2
    one_line(result.err, "sylog", "syslog")


def test_labels_that_match_nothing(run: Run, shop: Shop, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("session,label\nother,Normal\n")
    result = run(
        "evaluate",
        "--test_file",
        shop.test,
        "--label_file",
        labels,
        "--model_dir",
        shop.model,
        "--output_dir",
        tmp_path / "o",
    )
    assert result.code == 4
    one_line(result.err, "labels.csv")
    assert not (tmp_path / "o").exists()


def test_resume_without_a_checkpoint(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = run("resume", "--train_file", shop.train, "--checkpoint_dir", tmp_path / "none")
    assert result.code == 4
    one_line(result.err, "none", "train")


def _copy(shop: Shop, tmp_path: Path) -> Path:
    shutil.copytree(shop.checkpoints, tmp_path / "c")
    return tmp_path / "c"


def _newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "foreign"])
@pytest.mark.usefixtures("without_page")
def test_a_broken_newest_checkpoint_is_named_and_passed_over(run: Run, shop: Shop, tmp_path: Path, damage: str) -> None:
    folder = _copy(shop, tmp_path)
    newest = _newest(folder)
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "truncate":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[-7] ^= 1
        weights.write_bytes(content)
    elif damage == "delete":
        weights.unlink()
    else:
        (newest / "manifest.json").write_text('{"format": "somebody else\'s"}')
    result = run(
        "resume",
        "--train_file",
        shop.train,
        "--checkpoint_dir",
        folder,
        "--output_dir",
        tmp_path / "o",
        "--total_epochs",
        "3",
    )
    assert result.code == 0
    assert newest.name in result.err
    result = run("resume", "--train_file", shop.train, "--checkpoint_path", newest, "--checkpoint_dir", folder)
    assert result.code == 0  # the resumed run has saved a valid one in its place


def test_no_valid_checkpoint_at_all(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = _copy(shop, tmp_path)
    for path in folder.glob("checkpoint-*"):
        (path / "model.safetensors").write_bytes(b"")
    result = run("resume", "--train_file", shop.train, "--checkpoint_dir", folder)
    assert result.code == 4
    one_line(result.err, "checkpoint")


def test_another_architecture_is_refused(run: Run, shop: Shop) -> None:
    result = run("resume", "--train_file", shop.train, "--checkpoint_dir", shop.checkpoints, "--dim", "32")
    assert result.code == 2
    one_line(result.err, "--dim 32 (checkpoint: 64)")


def test_another_training_log_is_refused_with_both_fingerprints(run: Run, shop: Shop, tmp_path: Path) -> None:
    grown = tmp_path / "grown.log"
    grown.write_text(shop.train.read_text() + shop_log(3, seed=9))
    result = run("resume", "--train_file", grown, "--checkpoint_dir", shop.checkpoints)
    assert result.code == 2
    one_line(result.err, "grown.log", "train.log", "it grew by", "sha256")


@pytest.mark.usefixtures("without_page")
def test_the_same_log_elsewhere_is_the_same_log(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = _copy(shop, tmp_path)
    moved = shutil.copy(shop.train, tmp_path / "moved.log")
    result = run(
        "resume", "--train_file", moved, "--checkpoint_dir", folder, "--output_dir", tmp_path / "o", "--num_epochs", "1"
    )
    assert result.code == 0


def test_a_model_of_a_newer_version(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = _copy(shop, tmp_path) / "model"
    model = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**model, "format_version": 99}))
    result = run("detect", "--log_file", shop.test, "--model_dir", folder, "--output_dir", tmp_path / "o")
    assert result.code == 4
    one_line(result.err, "99", "update")


@pytest.mark.parametrize(
    "name", ["templates.json", "detectors.json", "detectors.safetensors", "model.safetensors", "normal.json"]
)
def test_a_changed_or_missing_model_part_is_named(run: Run, shop: Shop, tmp_path: Path, name: str) -> None:
    folder = _copy(shop, tmp_path) / "model"
    with open(folder / name, "ab") as file:
        file.write(b" ")
    result = run("detect", "--log_file", shop.test, "--model_dir", folder, "--output_dir", tmp_path / "o")
    assert result.code == 4
    one_line(result.err, name)
    (folder / name).unlink()
    result = run("detect", "--log_file", shop.test, "--model_dir", folder, "--output_dir", tmp_path / "o")
    assert result.code == 4
    one_line(result.err, name, "missing")
    assert not (tmp_path / "o").exists()


def test_no_model(run: Run, shop: Shop, tmp_path: Path) -> None:
    result = run("detect", "--log_file", shop.test, "--model_dir", tmp_path / "none")
    assert result.code == 4
    one_line(result.err, "none", "train")


def test_a_run_is_not_mixed_with_another(run: Run, shop: Shop) -> None:
    result = run("train", "--train_file", shop.train, "--checkpoint_dir", shop.checkpoints)
    assert result.code == 2
    one_line(result.err, "resume_train.py", "--overwrite")


@pytest.mark.slow
def test_evaluation_data_of_another_system_is_noticed(run: Run, shop: Shop, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text(
        "".join(f"kernel: device eth{n} link state changed to mode {n} (request-{n})\n" for n in range(50))
    )
    result = train(
        run, shop.train, tmp_path, "--eval_file", other, "--session_regex", SHOP_SESSION + r"|\((request-\d+)\)"
    )
    assert result.code == 0
    assert "match no template" in result.err


def test_fewer_sessions_than_a_batch(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "few.log"
    log.write_text(shop_log(9, seed=3))
    result = train(run, log, tmp_path, "--session_regex", SHOP_SESSION)
    assert result.code == 0
    result = run("detect", "--log_file", log, "--model_dir", tmp_path / "c", "--output_dir", tmp_path / "o")
    assert result.code == 0


@pytest.mark.parametrize("text", ["one line", "a b c\nd e f\n", "odd bytes \x00 and \xff in a line of text\r\n" * 3])
def test_one_session_only(run: Run, tmp_path: Path, text: str) -> None:
    log = tmp_path / "one.log"
    log.write_bytes(text.encode("latin-1"))
    result = train(run, log, tmp_path)
    assert result.code == 0
    assert "1 session" in result.err
    result = run("detect", "--log_file", log, "--model_dir", tmp_path / "c", "--output_dir", tmp_path / "o")
    assert result.code == 0


def test_results_that_cannot_be_written(run: Run, shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("detect", "--log_file", shop.test, "--model_dir", shop.model, "--output_dir", tmp_path / "file")
    assert result.code == 4
    one_line(result.err, "--output_dir")


def test_a_model_folder_never_replaces_anything_but_a_model(run: Run, shop: Shop, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("keep me")
    for model_dir in (mine, tmp_path, shop.train):
        result = train(run, shop.train, tmp_path, "--model_dir", model_dir)
        assert result.code == 2
        one_line(result.err, "--model_dir", str(model_dir))
    assert (mine / "notes.txt").read_text() == "keep me"
    assert shop.train.is_file()


@pytest.mark.parametrize("flag", ["--checkpoint_dir", "--output_dir", "--model_dir"])
def test_a_folder_that_cannot_be_written_is_named_before_training(
    run: Run, shop: Shop, tmp_path: Path, flag: str
) -> None:
    (tmp_path / "file").touch()
    result = train(run, shop.train, tmp_path, flag, tmp_path / "file" / "below")
    assert result.code == 2
    one_line(result.err, flag, "cannot be written")


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_overwrite_costs_nothing_until_the_new_run_has_a_checkpoint(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = _copy(shop, tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    flags = ["--overwrite", "--report_to", "wandb"]  # not installed: fails when training begins
    result = train(run, shop.train, tmp_path, *flags)
    assert result.code == 2
    one_line(result.err, "wandb")
    assert sorted(path.name for path in folder.iterdir()) == before
    assert run("detect", "--log_file", shop.test, "--model_dir", folder, "--output_dir", tmp_path / "o").code == 0
    assert train(run, shop.train, tmp_path, "--overwrite").code == 0
    assert not list(folder.glob(".overwritten*"))


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_the_evaluation_log_of_the_run_is_used_again(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = ["--session_regex", SHOP_SESSION]
    assert train(run, shop.train, tmp_path, "--eval_file", shop.test, *flags).code == 0
    folders = ["--checkpoint_dir", tmp_path / "c", "--output_dir", tmp_path / "o"]
    result = run("resume", "--train_file", shop.train, "--num_epochs", "1", *folders)
    assert result.code == 0
    assert str(shop.test) in result.err
    state = json.loads((_newest(tmp_path / "c") / "trainer_state.json").read_text())
    assert state["epoch"] == 2
    assert None not in state["val_losses"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_a_checkpoint_of_another_run_does_not_mix_into_a_folder(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert train(run, shop.train, tmp_path, "--session_regex", SHOP_SESSION).code == 0
    path = _newest(shop.checkpoints)
    result = run("resume", "--train_file", shop.train, "--checkpoint_path", path, "--checkpoint_dir", tmp_path / "c")
    assert result.code == 2
    one_line(result.err, "another run", "--checkpoint_dir")


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_a_finished_run_goes_on_into_another_model_folder(run: Run, shop: Shop, tmp_path: Path) -> None:
    folder = _copy(shop, tmp_path)
    flags = ["--model_dir", tmp_path / "new", "--not_use_contrastive", "--not_use_augmentation"]
    result = run(
        "resume", "--train_file", shop.train, "--checkpoint_dir", folder, "--output_dir", tmp_path / "o", *flags
    )
    assert result.code == 0
    assert json.loads((_newest(folder) / "trainer_state.json").read_text())["epoch"] == 8
    assert (tmp_path / "new" / "model.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_windows_are_not_scored_as_sessions(run: Run, shop: Shop, tmp_path: Path) -> None:
    assert train(run, shop.train, tmp_path, "--window_size", "20").code == 0
    result = run("detect", "--log_file", shop.test, "--model_dir", tmp_path / "c", "--session_regex", SHOP_SESSION)
    assert result.code == 2
    one_line(result.err, "sessions by session (model: fixed)")


def test_results_of_two_logs_are_never_mixed(run: Run, shop: Shop, tmp_path: Path) -> None:
    flags = ["--model_dir", shop.model, "--output_dir", tmp_path]
    assert run("detect", "--log_file", shop.test, *flags).code == 0
    assert run("detect", "--log_file", shop.train, "--format", "csv", *flags).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "summary.json"}
