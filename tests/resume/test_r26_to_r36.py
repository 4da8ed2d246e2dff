"""Rows R26 to R36 of the acceptance list in resume.md: what a resumed run is told, tells, and completes."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kill_points import (
    POINTS,
    Chain,
    Trained,
    command,
    metrics,
    newest,
    state_of,
    steps,
    toy_run,
    weights,
)
from killed_everywhere import READING, killed_forks
from support import SHOP_SESSION, shop_log
from training_toy import ToyTask, go_on, settings, start

from ai_detect.cli import progress
from ai_detect.config import RunSettings
from ai_detect.errors import ConfigError
from ai_detect.model_file import MODEL_CARD, MODEL_PARTS
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.sequences.parsed_log import ParsedLog, learn_log
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint
from ai_detect.training.settings_diff import EFFECTS, resumed_settings

# R26: section 8's table

STORED = RunSettings(seed=7, eval_ratio=0.1, learning_rate=0.004, session_regex="(a)")
#: Every setting with another value than STORED's and its class; --num_epochs is a plan and in no class.
SECTION_8: dict[str, dict[str, Any]] = {
    "harmless": {
        "device": "cpu",
        "report_to": "tensorboard",
        "save_strategy": "steps",
        "save_steps": 7,
        "save_total_limit": 9,
        "keep_best": 4,
        "contamination": 0.1,
        "false_alarm_rate": 0.01,
        "max_alerts_per_day": 5.0,
        "fdr": 0.1,
    },
    "warn": {
        "patience": 9,
        "not_early_stopping": True,
        "learning_rate": 0.1,
        "warmup_steps": 3,
        "weight_decay": 0.5,
        "max_grad_norm": 2.0,
        "batch_size": 64,
        "gradient_accumulation": 2,
        "not_use_contrastive": True,
        "not_use_augmentation": True,
        "detection_method": "knn",
        "fusion_method": "max",
        "precision": "bf16",
        "deterministic": True,
    },
    "refuse": {
        "log_format": "syslog",
        "session_regex": "(b)",
        "session_field": "request",
        "session_by_file": True,
        "message_field": "text",
        "window_type": "sliding",
        "window_size": 20,
        "stride": 5,
        "window_seconds": 60.0,
        "not_join_lines": True,
        "encoding": "latin-1",
        "drain_config": "drain3.ini",
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "n_word_buckets": 128,
        "max_events": 64,
        "dropout": 0.2,
        "seed": 43,
        "eval_ratio": 0.3,
    },
}
ROWS = [(effect, name) for effect, changes in SECTION_8.items() for name in changes]


def changed(name: str, effect: str) -> RunSettings:
    others = {"session_regex": None} if name.startswith("session_") else {}
    return RunSettings(**{**STORED.model_dump(), **others, name: SECTION_8[effect][name]})


def test_r26_every_setting_is_in_one_row_of_section_8() -> None:
    names = [name for _, name in ROWS]
    assert sorted([*names, "num_epochs"]) == sorted(RunSettings.model_fields)


@pytest.mark.parametrize(("effect", "name"), ROWS)
def test_r26_a_typed_setting_is_applied_or_refused_never_ignored(effect: str, name: str) -> None:
    command_line = changed(name, effect)
    old, new = (settings.model_dump(mode="json")[name] for settings in (STORED, command_line))
    if effect == "refuse":
        with pytest.raises(ConfigError, match=re.escape(f"--{name} {new} (checkpoint: {old})")) as error:
            resumed_settings(STORED, command_line, [name])
        assert error.value.exit_code == 2 and "--" in str(error.value).split(";")[-1]  # the remedy names a flag
        forceable = name in ("seed", "eval_ratio")
        assert ("--force overrides it" in str(error.value)) == forceable
        if not forceable:
            with pytest.raises(ConfigError):
                resumed_settings(STORED, command_line, [name], force=True)
            return
    merged, differences = resumed_settings(STORED, command_line, [name], force=effect == "refuse")
    assert merged == STORED.model_copy(update={name: getattr(command_line, name)})
    (difference,) = differences
    assert (difference.name, difference.checkpoint, difference.command) == (name, old, new)
    assert EFFECTS[difference.effect].startswith("harmless" if effect == "harmless" else "allowed, recorded")
    merged, differences = resumed_settings(STORED, command_line, [])  # not typed: the checkpoint's
    assert merged == STORED and not differences


def test_r26_another_log_is_refused_with_both_fingerprints(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text(shop_log(50, seed=8))
    ended = trained.run("resume", "--num_epochs", "1", log=other)
    assert ended.code == 2
    last = ended.err.splitlines()[-1]
    for log in (other, trained.train):
        content = log.read_bytes()
        assert (
            str(log) in last and hashlib.sha256(content).hexdigest()[:12] in last and f"{len(content):,} bytes" in last
        )
    assert "it grew by" not in last and "--new_data" in last


def test_r26_a_log_that_grew_is_refused_and_says_by_how_much(trained: Trained, tmp_path: Path) -> None:
    more = shop_log(4, seed=9)
    grown = tmp_path / "grown.log"
    grown.write_text(trained.train.read_text() + more)
    ended = trained.run("resume", "--num_epochs", "1", log=grown)
    assert ended.code == 2 and f"it grew by {len(more.splitlines())} lines" in ended.err.splitlines()[-1]
    grown.write_text(trained.train.read_text()[:-1] + "x\n" + more)  # longer, but not that log and more
    ended = trained.run("resume", "--num_epochs", "1", log=grown)
    assert ended.code == 2 and "it grew by" not in ended.err


def test_r26_the_same_content_elsewhere_is_no_difference(trained: Trained, tmp_path: Path) -> None:
    moved = Path(shutil.copy(trained.train, tmp_path / "elsewhere.log"))
    compressed = tmp_path / "elsewhere.log.gz"
    compressed.write_bytes(gzip.compress(trained.train.read_bytes()))
    for log in (moved, compressed):
        said = trained.resume("--total_epochs", "10", log=log).err
        assert "nothing to do" in said and "differs" not in said


def test_r26_refused_on_the_command_line_with_both_values(trained: Trained) -> None:
    ended = trained.run("resume", "--dim", "32", "--seed", "43", "--learning_rate", "0.5")
    assert ended.code == 2
    assert "--seed 43 (checkpoint: 42); --dim 32 (checkpoint: 64)" in ended.err.splitlines()[-1]
    assert re.search(
        r"learning_rate +0\.01 +0\.5 +allowed, recorded", ended.err
    )  # all differences, not the refused only


def test_r26_another_format_version_is_not_read(trained: Trained) -> None:
    """It is no valid checkpoint to this program: the one before is taken, or exit 4 where it was named."""
    path = trained.checkpoint(50) / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    assert f"resuming from {trained.checkpoint(45)}" in trained.choice().err
    ended = trained.run("resume", "--checkpoint_path", path.parent)
    assert ended.code == 4 and "has format version 2; this program reads 1" in ended.err.splitlines()[-1]


@pytest.mark.slow
def test_r26_another_evaluation_log_starts_best_and_patience_anew(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "eval.log"
    other.write_text(shop_log(12, seed=5))
    said = trained.resume("--eval_file", other, "--num_epochs", "1").err
    assert "best value and patience start anew" in said
    state = state_of(trained.checkpoint(55))
    assert (state["best_step"], state["best_val_loss"]) == (55, state["val_losses"][-1])  # not step 35's 0.01


@pytest.mark.slow
def test_r26_new_data_fine_tunes_on_another_log(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    text = shop_log(40, seed=8)
    other.write_text(text + text.splitlines()[-1].split(")")[0] + ") coupon SPRING redeemed twice\n")
    before = json.loads((trained.checkpoint(50) / "templates.json").read_bytes())
    said = trained.resume("--new_data", "--num_epochs", "1", log=other).err
    path = newest(trained.folder)
    state = state_of(path)
    assert (state["epoch"], state["step"], state["n_samples"]) == (1, 54, 40)  # epochs from 0, steps go on
    assert state["lineage"][-1]["parent"]["step"] == 50
    assert state["provenance"]["train_data"][0]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    after = json.loads((path / "templates.json").read_bytes())
    old, new = (list(TemplateMiner.from_json(value).templates) for value in (before, after))
    assert new[: len(old)] == old and [template for template in new[len(old) :] if "coupon" in template]
    assert "1 of them new" in said and re.search(r"train_file .*allowed, recorded", said)


# R28 and R32: one count of steps


@pytest.fixture(scope="module")
def branched(finished: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, str]:
    """The finished run of 50 steps, resumed from step 45 for 3 steps, on a terminal."""
    run = finished.copied_to(tmp_path_factory.mktemp("branched") / "run")
    flags = ["--checkpoint_path", run.checkpoint(45), "--num_epochs", "2", "--total_steps", "48"]
    return run, run.resume(*flags).err


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_r28_each_step_once_after_a_kill(tmp_path: Path, point: str) -> None:
    run = toy_run(tmp_path, [point, "step:4"] if point not in ("fit", "save:3") else [point])
    assert [line["step"] for line in metrics(run.folder)] == list(range(1, 22))


def test_r28_a_branch_has_a_parent_and_leaves_no_overlap(branched: tuple[Trained, str], finished: Trained) -> None:
    run, _ = branched
    lines = metrics(run.folder)
    assert [line["step"] for line in lines] == list(range(1, 49))
    assert lines[:45] == metrics(finished.folder)[:45]
    aside = [json.loads(line)["step"] for line in (run.folder / "metrics.2.jsonl").read_text().splitlines()]
    assert aside == list(range(46, 51))
    manifest = json.loads((run.checkpoint(48) / "manifest.json").read_bytes())
    assert manifest["parent"]["step"] == 45 and manifest["segment"] == 2
    assert manifest["parent"]["hash"] == given_checkpoint(run.checkpoint(45)).checkpoint.hash
    assert steps(run.folder)[-2:] == [45, 48] and steps(run.folder / "superseded" / "2") == [50]


@pytest.mark.slow
def test_r32_log_bar_metrics_and_folders_carry_the_global_step(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Bar] = []

    class Bar(progress.tqdm):  # type: ignore[misc]
        def __init__(self, *given: Any, **options: Any) -> None:
            self.first = options["initial"]
            self.shown: list[str] = []
            bars.append(self)
            super().__init__(*given, **options)

        def set_postfix_str(self, text: str = "", refresh: bool = True) -> None:
            self.shown.append(text)

    monkeypatch.setattr(progress, "tqdm", Bar)
    said = trained.resume("--num_epochs", "1", "--total_steps", "53").err
    assert "checkpoint-50: step 50, epoch 10 of 10" in said and f"saved {trained.checkpoint(53)}" in said
    (bar,) = [bar for bar in bars if bar.shown]
    assert bar.first == 500 and [text.split(",")[0] for text in bar.shown] == ["step 51", "step 52", "step 53"]
    assert [line["step"] for line in metrics(trained.folder)][49:] == [50, 51, 52, 53]
    assert metrics(trained.folder)[-1]["epoch"] == 10.6
    card = json.loads((trained.folder / "model" / MODEL_CARD).read_bytes())["card"]
    assert card["last_step"] == 53 and card["history"]["resume_steps"] == [50]


# R29: the list


def test_r29_the_list_marks_what_resume_would_choose(trained: Trained) -> None:
    def marked() -> dict[str, str]:
        rows = json.loads(command("checkpoints", "list", "--checkpoint_dir", trained.folder, "--json").out)
        return {tag: row["name"] for row in rows for tag in row["tags"]}

    def chosen(*flags: str) -> str:
        (name,) = re.findall(r"resuming from \S*(checkpoint-\d+): step", trained.choice(*flags).err)
        return str(name)

    assert (marked()["latest"], marked()["best"]) == ("checkpoint-50", "checkpoint-35")
    for broken in (50, 35):  # as one after the other is torn, the marks go where resume goes
        assert (marked()["latest"], marked()["best"]) == (chosen(), chosen("--use_best_checkpoint"))
        (trained.checkpoint(broken) / "optimizer.pt").write_bytes(b"")
    assert (marked()["latest"], marked()["best"]) == (chosen(), chosen("--use_best_checkpoint"))
    assert (chosen(), chosen("--use_best_checkpoint")) == ("checkpoint-45", "checkpoint-45")


# R30: a finished model


def test_r30_a_model_is_not_resumable_and_the_nearest_checkpoint_is_named(trained: Trained) -> None:
    for flag in ("--checkpoint_path", "--checkpoint_dir"):
        ended = trained.run("resume", flag, trained.folder / "model")
        assert ended.code == 4, ended.err
        last = ended.err.splitlines()[-1]
        assert f"{trained.folder / 'model'} holds weights" in last and "finished model" in last
        assert f"the nearest valid checkpoint is {trained.checkpoint(50)}" in last
    # what was refused has not spoilt the model for the next run that replaces it
    assert {path.name for path in (trained.folder / "model").iterdir()} == {MODEL_CARD, *MODEL_PARTS}


def test_r30_a_model_is_no_folder_to_train_in(trained: Trained) -> None:
    before = {path.name: path.read_bytes() for path in (trained.folder / "model").iterdir()}
    ended = trained.run("train", "--checkpoint_dir", trained.folder / "model", "--num_epochs", "1")
    assert ended.code == 2 and "--checkpoint_dir" in ended.err and "finished model" in ended.err
    assert {path.name: path.read_bytes() for path in (trained.folder / "model").iterdir()} == before


# R31: never without being asked


@pytest.mark.slow
def test_r31_train_never_loads_a_checkpoint(finished: Trained, straight: Chain, tmp_path: Path) -> None:
    """With --overwrite in a folder that holds a run, train ends with the bytes of a run in an empty folder."""
    run = finished.copied_to(tmp_path / "run")
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "4", "--batch_size", "10", "--not_early_stopping"]
    ended = run.run("train", *flags, "--overwrite")
    assert ended.code == 0 and "resuming" not in ended.err
    assert weights(run.checkpoint(20)) == weights(straight.run.checkpoint(20))
    state = state_of(run.checkpoint(20))
    assert len(state["lineage"]) == 1 and state["run_id"] != state_of(finished.checkpoint(50))["run_id"]
    assert max(steps(run.folder)) == 20


# R34: the end is always saved


@pytest.mark.parametrize("save_steps", [1, 4, 5, 8, 20, 21, 100])
def test_r34_the_last_step_is_saved_whatever_save_steps_is(tmp_path: Path, save_steps: int) -> None:
    start(ToyTask(), tmp_path, settings(save_strategy="steps", save_steps=save_steps))
    assert steps(tmp_path) == sorted({*range(save_steps, 22, save_steps), 21})
    state = latest_checkpoint(tmp_path).trainer_state
    assert (state.step, state.epoch, state.phase, state.evaluation_due) == (21, 3, "fit", False)
    assert state.val_loss is not None and state.loss_steps[-1] == 21


@pytest.mark.slow
def test_r34_also_on_the_command_line_and_after_kills(chain: Chain, straight: Chain) -> None:
    for run in (chain.run, straight.run):
        assert steps(run.folder) == [3, 6, 9, 12, 15, 18, 20]


def test_r34_also_where_total_steps_ends_the_run(tmp_path: Path) -> None:
    options = settings(save_strategy="steps", save_steps=5)
    start(ToyTask(), tmp_path, options, last_step=3)
    go_on(ToyTask(), tmp_path, options, flags={"num_epochs": 3}, last_step=13)
    assert steps(tmp_path) == [3, 5, 10, 13]


# R35: the fit stage


def model(folder: Path) -> dict[str, bytes]:
    """The finished model but for its card, which names the resumes, and the scores."""
    found = {name: (folder / "model" / name).read_bytes() for name in MODEL_PARTS}
    return {**found, "scores.csv": (folder / "output" / "scores.csv").read_bytes()}


@pytest.mark.slow
def test_r35_killed_in_the_fit_stage_the_resume_completes_it(chain: Chain, straight: Chain) -> None:
    """The last kill of the chain was in the fit stage."""
    assert "only the fit stage is left" in chain.said[-1]
    assert chain.batches[-1] == []  # no step was taken again
    assert model(chain.run.folder) == model(straight.run.folder)
    encoder = (chain.run.folder / "model" / "model.safetensors").read_bytes()
    card = json.loads((chain.run.folder / "model" / MODEL_CARD).read_bytes())["card"]
    assert encoder == (chain.run.checkpoint(card["step"]) / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["save", "score"])
def test_r35_killed_later_in_the_stage(
    straight: Chain, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the detectors are fitted and the model is being saved, or is saved and nothing is scored yet."""

    class Killed(BaseException):
        pass

    def killed(*given: Any, **options: Any) -> None:
        raise Killed

    run = straight.run.copied_to(tmp_path / "run")
    for name in ("model", "output", "run.json"):
        path = run.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = weights(run.checkpoint(20))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LogAnomalyPipeline, stage, killed)
        run.run("resume")
    assert not (run.folder / "output" / "scores.csv").exists()
    assert (run.folder / "model").exists() == (stage == "score")
    assert "only the fit stage is left" in run.resume().err
    assert model(run.folder) == model(straight.run.folder)
    assert weights(run.checkpoint(20)) == before and steps(run.folder)[-1] == 20


# R36: the parser's state


def parsed(log: ParsedLog) -> list[Any]:
    """What a parse gives: ids, sessions and templates."""
    columns = [
        log.events.event_id,
        log.events.session_id,
        log.events.line,
        log.sequences.offsets,
        log.sequences.event_id,
    ]
    return [*(np.array(column).tobytes() for column in columns), list(log.events.templates), list(log.sessions.keys)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "n_sessions", "fewest"), [("parse", 60, 60), ("timed", 3000, 2)])
def test_r36_killed_while_parsing_ids_are_those_of_an_undisturbed_parse(
    tmp_path: Path, kind: str, n_sessions: int, fewest: int, caplog: pytest.LogCaptureFixture
) -> None:
    """kill -9 at every call that changes the disk, and at instants of the clock."""
    log = tmp_path / "big.log"
    log.write_text(shop_log(n_sessions, seed=3))
    undisturbed, miner = learn_log(str(log), READING, tmp_path / "cache")
    expected = parsed(undisturbed)
    killed = killed_forks(kind, tmp_path / "kills", log)
    assert len(killed) >= fewest
    for number, instant in killed.items():
        cache = tmp_path / "kills" / number
        for _ in range(2):  # the second time what the first left is read
            again, learned = learn_log(str(log), READING, cache)
            assert parsed(again) == expected, instant
            assert learned.to_json() == miner.to_json(), instant
    assert "broken" not in caplog.text  # what is under its final name is whole


def test_r36_a_torn_parser_state_is_never_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log, cache = tmp_path / "a.log", tmp_path / "cache"
    log.write_text(shop_log(60, seed=3))
    first, miner = learn_log(str(log), READING, cache)
    expected = parsed(first)
    files = [path for path in cache.rglob("*") if path.is_file() and path.name != "fingerprints.json"]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        caplog.clear()
        again, learned = learn_log(str(log), READING, cache)
        assert parsed(again) == expected and learned.to_json() == miner.to_json(), path
        assert "broken" in caplog.text, path
