"""Rows R1 to R12 of the acceptance list in resume.md: what a resumed run trains on, and with what.

R1 to R9 run over all kill points with the toy task, and as one chain of kills on the command line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kill_points import (
    OPTIONS,
    POINTS,
    Chain,
    Scripted,
    ToyRun,
    Trained,
    history,
    killed_at,
    metrics,
    newest,
    state_of,
    steps,
    toy_run,
    weights,
)
from support import ROOT, SHOP_SESSION, shop_log
from training_toy import CONFIG, TEMPLATES, ToyTask, go_on, settings, start
from worker_batches import built, sessions

import ai_detect
from ai_detect.config import RunSettings
from ai_detect.encoder.batches import EncodedBatch, make_batch
from ai_detect.encoder.dropout import dropout_masks
from ai_detect.encoder.model import SessionEncoder
from ai_detect.errors import Interrupted
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.run_encoder import encoder_of_checkpoint, untrained_encoder
from ai_detect.tables import SequenceTable
from ai_detect.training import encoder_task
from ai_detect.training.checkpoint import PARTS
from ai_detect.training.checkpoint_store import given_checkpoint, latest_checkpoint
from ai_detect.training.encoder_task import EncoderTask
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.optimizer import AdamW
from ai_detect.training.parts import copy_weights, encode_model, encode_optimizer
from ai_detect.training.schedule import epoch_order
from ai_detect.training.state import new_state
from ai_detect.training.trainer import train


@pytest.fixture(scope="module")
def toy_straight(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Three epochs of 7 steps (the last of an epoch with 2 samples), saved every 5 and at the end."""
    return toy_run(tmp_path_factory.mktemp("straight"), [])


@pytest.fixture(scope="module", params=POINTS.values(), ids=POINTS.keys())
def toy_killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """The same run, killed at one of the kill points and resumed."""
    return toy_run(tmp_path_factory.mktemp("killed"), [request.param])


def learning_rates(folder: Path) -> list[float]:
    return [line["learning_rate"] for line in metrics(folder)]


# R1: the learning rate


def test_r01_rate_of_every_step_is_the_straight_runs(toy_killed: ToyRun, toy_straight: ToyRun) -> None:
    rates = learning_rates(toy_killed.folder)
    assert rates == learning_rates(toy_straight.folder)
    assert len(rates) == 21 and min(rates) > 0
    peak = rates.index(max(rates))  # warm-up, then decay: a rate that began again would rise twice
    assert 0 < peak < 10
    assert all(a < b for a, b in pairwise(rates[: peak + 1])) and all(a > b for a, b in pairwise(rates[peak:]))


@pytest.mark.slow
def test_r01_rates_on_the_command_line(chain: Chain, straight: Chain) -> None:
    rates = learning_rates(chain.run.folder)
    assert rates == learning_rates(straight.run.folder)
    assert len(rates) == 20 and len(set(rates)) == 20


# R2: a typed learning rate


def test_r02_typed_rate_is_applied_shown_and_recorded(extended: tuple[Trained, str]) -> None:
    run, said = extended
    rates = learning_rates(run.folder)
    assert rates[50:] == pytest.approx([0.1 * 0.004] * 3)  # the floor of the typed peak
    assert re.search(r"learning_rate +0\.01 +0\.004 +allowed, recorded", said)
    state = state_of(run.checkpoint(53))
    assert state["lineage"][-1]["overrides"]["learning_rate"] == [0.01, 0.004]
    config = json.loads((run.checkpoint(53) / "config.json").read_bytes())
    assert config["learning_rate"] == 0.004


def test_r02_untyped_rate_is_the_checkpoints(cut_short: Trained, tmp_path: Path) -> None:
    """The run was trained with another rate than the default."""
    run = cut_short.copied_to(tmp_path / "run")
    ended = run.resume("--total_steps", "14")
    assert "learning_rate" not in ended.err
    rates = learning_rates(run.folder)
    assert max(rates) > 0.009 and rates[12] > 0.009  # 0.01 at the peak; the default is 0.002
    assert rates[12] == pytest.approx(rates[11], rel=0.05)


@pytest.fixture(scope="module")
def extended(finished: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, str]:
    """The finished run of 50 steps, 3 steps further with another rate; and what was said."""
    run = finished.copied_to(tmp_path_factory.mktemp("extended") / "run")
    ended = run.resume("--num_epochs", "1", "--total_steps", "53", "--learning_rate", "0.004")
    return run, ended.err


# R3: extending a finished run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "epochs"), [(["--num_epochs", "3"], 13), ([], 15), (["--total_epochs", "12"], 12)], ids=str
)
def test_r03_a_finished_run_of_10_epochs_goes_on(trained: Trained, flags: list[str], epochs: int) -> None:
    before = (trained.checkpoint(50) / "model.safetensors").read_bytes()
    said = trained.resume(*flags).err
    state = state_of(newest(trained.folder))
    assert (state["step"], state["epoch"], state["samples_in_epoch"]) == (5 * epochs, epochs, 0)
    assert f"step 50, epoch 10 of 10\ntarget: epoch {epochs} (" in said
    lines = metrics(trained.folder)[50:]
    assert all(line["learning_rate"] == pytest.approx(0.001) for line in lines)  # the floor, not 0
    assert (newest(trained.folder) / "model.safetensors").read_bytes() != before


def test_r03_nothing_to_do(trained: Trained) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.safetensors")}
    ended = trained.resume("--total_epochs", "10")
    assert "nothing to do: 10/10 epochs" in ended.err
    assert before == {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*.safetensors")}


def test_r03_both_flags_are_a_usage_error(finished: Trained) -> None:
    ended = finished.run("resume", "--num_epochs", "3", "--total_epochs", "12")
    assert ended.code == 2 and "--num_epochs" in ended.err and "--total_epochs" in ended.err


@pytest.fixture(scope="module")
def cut_short(finished: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that planned 10 epochs and stands at epoch 2.4."""
    run = Trained(finished.train, finished.evaluation, tmp_path_factory.mktemp("cut") / "run")
    flags = [*("--session_regex", r"\((request-\d+)\)"), "--num_epochs", "10", "--batch_size", "10"]
    ended = run.run("train", *flags, "--learning_rate", "0.01", "--not_early_stopping", "--total_steps", "12")
    assert ended.code == 0 and steps(run.folder) == [5, 10, 12]
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "epochs"), [([], 10), (["--num_epochs", "3"], 5)], ids=str)
def test_r03_interrupted_at_2_4_of_10(cut_short: Trained, tmp_path: Path, flags: list[str], epochs: int) -> None:
    run = cut_short.copied_to(tmp_path / "run")
    said = run.resume(*flags).err
    assert f"step 12, epoch 2.4 of 10\ntarget: epoch {epochs} (" in said
    state = state_of(newest(run.folder))
    assert (state["step"], state["epoch"], state["samples_in_epoch"]) == (5 * epochs, epochs, 0)
    assert min(learning_rates(run.folder)) > 0


# R4: early stopping


def best_after_two_epochs(began: int) -> ToyTask:
    return Scripted([3.0, 1.0, 2.0, 1.5, 1.2, 1.1, 1.1, 1.1], began)


PATIENT = settings(patience=3)


@pytest.fixture(scope="module")
def stopped_early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after epoch 5 of 8, three evaluations after its best."""
    return toy_run(tmp_path_factory.mktemp("early"), [], PATIENT, best_after_two_epochs, 8).folder


# Steps 22, 25 and 28 are the first, a middle and the last of epoch 4, where the counter stands at 1.
@pytest.mark.parametrize("point", ["step:22", "step:25", "step:28", "validation:4", "save:4", "fit", "validation:5"])
def test_r04_stops_where_the_straight_run_does(tmp_path: Path, stopped_early: Path, point: str) -> None:
    run = toy_run(tmp_path, [point], PATIENT, best_after_two_epochs, 8)
    assert steps(run.folder) == steps(stopped_early) == [7, 14, 21, 28, 35]
    counters = []
    for step in steps(run.folder):  # the counter is saved after the update of the same evaluation
        path = f"checkpoint-{step}"
        assert history(run.folder / path) == history(stopped_early / path)
        counters.append(state_of(run.folder / path)["patience_counter"])
    assert counters == [0, 0, 1, 2, 3]


def test_r04_a_stopped_run_says_when_and_why(
    stopped_early: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(best_after_two_epochs(0), tmp_path, PATIENT, 8)
    caplog.set_level("INFO")
    state = go_on(best_after_two_epochs(250), tmp_path, PATIENT, flags={"num_epochs": 1})
    assert (
        "had stopped early: no better validation loss in 3 evaluations up to step 35 (best 1 at step 14)" in caplog.text
    )
    early = state.early_stopping  # as more was asked for, patience starts again, and what was best still is
    assert (early.best_step, early.patience_counter, early.stopped) == (14, 1, False)


# R5: which samples


def test_r05_each_sample_once_an_epoch_in_the_straight_runs_order(toy_killed: ToyRun, toy_straight: ToyRun) -> None:
    assert toy_killed.effective == toy_straight.seen[0]
    assert set(Counter(toy_killed.effective).values()) == {1} and len(toy_killed.effective) == 150


@pytest.mark.parametrize("draw", range(6))
def test_r05_over_any_schedule_of_kills(tmp_path: Path, toy_straight: ToyRun, draw: int) -> None:
    """Also with kills before the first checkpoint, and in processes that got nothing done."""
    generator = np.random.default_rng(draw)
    kinds = [*(f"step:{number}" for number in range(1, 7)), "validation:1", "save:1", "save:2"]
    points = generator.choice(kinds, 12).tolist()
    run = toy_run(tmp_path, points, all_reached=False)
    assert len(run.seen) > 2  # how many points are reached depends on how fast the other thread saves
    assert run.effective == toy_straight.seen[0]
    assert weights(newest(run.folder)) == weights(newest(toy_straight.folder))


@pytest.mark.slow
def test_r05_a_dirty_log_killed_and_resumed_is_learned_from_as_the_straight_run_learns(
    logs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many sessions of the log are suspected that the encoder does not learn from them; in no process it does."""
    log, learned = tmp_path / "dirty.log", list[set[int]]()
    suspects = (5, 23, 40)
    text = shop_log(50, seed=1, faulty=suspects)
    log.write_text(
        re.sub(r"^(.*\) )disk failure .*\n", r"\g<0>\1controller was reset\n\1write cache dropped\n", text, flags=re.M)
    )
    build = encoder_task.make_batch

    def noting(table: SequenceTable, indices: Any, *given: Any, **options: Any) -> EncodedBatch:
        if len(table) == 50:  # not the validation log
            learned[-1].update(indices.tolist())
        return build(table, indices, *given, **options)

    monkeypatch.setattr(encoder_task, "make_batch", noting)
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "3", "--batch_size", "10", "--not_early_stopping"]
    flags += ["--save_strategy", "steps", "--save_steps", "3"]
    straight, killed = (Trained(log, logs[1], tmp_path / name) for name in ("straight", "killed"))
    for run, points in ((straight, ["fit"]), (killed, ["step:5", "step:6", "fit"])):
        for point in points:
            learned.append(set())
            with killed_at(point, EncoderTask):
                run.run("resume") if steps(run.folder) else run.run("train", *flags)
    assert learned[0] == set(range(50)) - set(suspects)
    assert all(of and not of & set(suspects) for of in learned)
    assert len(state_of(killed.checkpoint(15))["lineage"]) == 3
    for step in steps(straight.folder):
        assert weights(killed.checkpoint(step)) == weights(straight.checkpoint(step))
        assert history(killed.checkpoint(step)) == history(straight.checkpoint(step))
    assert metrics(killed.folder) == metrics(straight.folder)


@pytest.mark.slow
def test_r05_sessions_on_the_command_line(chain: Chain, straight: Chain) -> None:
    assert len(chain.batches) == 7 and len(straight.batches) == 1
    trained: list[tuple[int, list[int]]] = []
    for (epoch, consumed), batches in zip(chain.began, chain.batches, strict=True):
        trained = trained[: 5 * epoch + consumed // 10] + batches
    assert trained == straight.batches[0]
    for epoch in range(4):
        assert sorted(session for of, batch in trained if of == epoch for session in batch) == list(range(50))


# R6: several resumes in one epoch


def test_r06_many_resumes_in_one_epoch(tmp_path: Path) -> None:
    options = settings(save_strategy="steps", save_steps=1)
    straight = toy_run(tmp_path / "straight", [], options)
    run = toy_run(tmp_path / "run", ["step:9", "step:2", "step:2", "save:2", "step:2"], options)
    assert run.began == [0, 58, 66, 74, 82, 90]  # five resumes in the second epoch, samples 50 to 100
    assert run.effective == straight.seen[0]
    for step in range(1, 22):
        name = f"checkpoint-{step}"
        assert weights(run.folder / name) == weights(straight.folder / name)


def test_r06_saved_right_after_a_resume_is_what_was_loaded(tmp_path: Path) -> None:
    toy_run(tmp_path, [], epochs=1)
    for step in (7, 5):  # the second is a branch
        path = tmp_path / f"checkpoint-{step}"
        before, old = weights(path), state_of(path)
        times = {part.name: part.stat().st_ino for part in path.iterdir()}
        go_on(ToyTask(), tmp_path, OPTIONS, given_checkpoint(path), flags={"num_epochs": 2}, last_step=step)
        assert times != {part.name: part.stat().st_ino for part in path.iterdir()}, "it was not saved again"
        assert weights(path) == before
        changed = {name for name, value in state_of(path).items() if value != old[name]}
        assert changed <= {"phase", "timestamp", "lineage", "planned_epochs"}


# R7: the end of an epoch


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (3, 4), (25, 1)])
def test_r07_killed_in_any_step_no_epoch_is_lost_shortened_or_doubled(
    tmp_path: Path, batch_size: int, accumulation: int
) -> None:
    """Accumulation of 4 times 3 leaves a last step of 2 samples; 25 leave none over."""
    options = settings(batch_size=batch_size, gradient_accumulation=accumulation, save_strategy="steps", save_steps=1)
    straight = toy_run(tmp_path / "straight", [], options, epochs=2)
    last = len(metrics(straight.folder))
    points = [f"step:{number}" for number in range(1, last + 1)]
    points += [f"{kind}:{last // 2 + n}" for kind in ("validation", "save") for n in (-1, 0, 1, last // 2)]
    if accumulation > 1:  # each step asks for its samples in pieces: kill between those, too
        points += [f"step:{number}" for number in range(last + 1, len(straight.seen[0]) // batch_size)]
    for point in points:
        run = toy_run(tmp_path / point, [point], options, epochs=2)
        assert run.effective == straight.seen[0], point
        assert history(newest(run.folder)) == history(newest(straight.folder)), point
        state = state_of(newest(run.folder))
        assert (state["epoch"], state["samples_in_epoch"], state["step"]) == (2, 0, last)
        assert [line["step"] for line in metrics(run.folder)] == list(range(1, last + 1))


def test_r07_stopped_by_a_signal_after_any_step_the_evaluation_is_made_up_for(
    tmp_path: Path, toy_straight: ToyRun
) -> None:
    """Steps 5, 10, 15, 20 and 21 are followed by an evaluation, 7 and 14 end an epoch."""
    for step in range(1, 22):
        folder, stop = tmp_path / str(step), list[int]()
        with pytest.raises(Interrupted):
            start(
                ToyTask(),
                folder,
                OPTIONS,
                should_stop=lambda stop=stop: stop[0] if stop else None,
                on_step=lambda state, values, step=step, stop=stop: stop.append(15) if state.step == step else None,
            )
        stopped = latest_checkpoint(folder)
        assert stopped.checkpoint.step == step and stopped.checkpoint.manifest.val_loss is None
        assert stopped.trainer_state.evaluation_due == (step in (5, 10, 15, 20, 21))
        go_on(ToyTask(), folder, OPTIONS)
        assert history(folder / "checkpoint-21") == history(newest(toy_straight.folder)), step
        assert weights(folder / "checkpoint-21") == weights(newest(toy_straight.folder)), step
        assert metrics(folder) == metrics(toy_straight.folder), step


def test_r07_a_checkpoint_at_the_end_of_an_epoch_is_position_0_of_the_next(tmp_path: Path) -> None:
    toy_run(tmp_path, [], settings(), epochs=2)
    state = state_of(tmp_path / "checkpoint-7")
    assert (state["epoch"], state["samples_in_epoch"]) == (1, 0)
    task = ToyTask()
    go_on(task, tmp_path, settings(), given_checkpoint(tmp_path / "checkpoint-7"))
    assert task.seen == [(1, int(sample)) for sample in epoch_order(50, 42, 1)]


# R8: nothing is read before the position is known


@pytest.mark.slow
def test_r08_first_batch_after_a_resume_is_the_next_one(chain: Chain, straight: Chain) -> None:
    for (epoch, consumed), batches in list(zip(chain.began, chain.batches, strict=True))[:-1]:
        at = 5 * epoch + consumed // 10
        assert batches[:1] == straight.batches[0][at : at + 1] or not batches
    assert [len(batches) > 0 for batches in chain.batches] == [False, True, True, True, True, True, False]


def test_r08_from_every_step_of_an_epoch(tmp_path: Path) -> None:
    options = settings(save_strategy="steps", save_steps=1)
    toy_run(tmp_path, [], options, epochs=1)
    order = epoch_order(50, 42, 0).tolist()
    for step in range(1, 7):
        task = ToyTask()
        with killed_at("step:2", task):
            go_on(task, tmp_path / "branch", options, given_checkpoint(tmp_path / f"checkpoint-{step}"))
        assert task.seen == [(0, sample) for sample in order[8 * step : 8 * step + 8]]


def test_r08_there_is_no_loader_that_could_be_iterated_too_early() -> None:
    """A batch is asked for by its samples; nothing in the package has a position of its own to be restored."""
    sources = [path.read_text() for path in Path(ai_detect.__file__).parent.rglob("*.py")]
    assert len(sources) > 50
    assert not [source for source in sources if re.search(r"DataLoader|torch\.utils\.data|IterableDataset", source)]


# R9: dropout and augmentation


def test_r09_losses_and_weights_are_the_straight_runs(toy_killed: ToyRun, toy_straight: ToyRun) -> None:
    assert weights(newest(toy_killed.folder)) == weights(newest(toy_straight.folder))
    assert metrics(toy_killed.folder) == metrics(toy_straight.folder)
    assert history(newest(toy_killed.folder)) == history(newest(toy_straight.folder))


@pytest.mark.slow
def test_r09_command_line_run_with_dropout_and_augmentation(chain: Chain, straight: Chain) -> None:
    config = json.loads((chain.run.checkpoint(20) / "config.json").read_bytes())
    assert config["dropout"] > 0 and not config["not_use_augmentation"] and not config["not_use_contrastive"]
    assert steps(chain.run.folder) == steps(straight.run.folder)
    for step in steps(straight.run.folder):
        assert weights(chain.run.checkpoint(step)) == weights(straight.run.checkpoint(step))
        assert history(chain.run.checkpoint(step)) == history(straight.run.checkpoint(step))
    assert metrics(chain.run.folder) == metrics(straight.run.folder)


def test_r09_the_comparison_can_fail(tmp_path: Path, toy_straight: ToyRun) -> None:
    """Without dropout, and with the masks of other steps, the weights are others."""

    def without(began: int) -> ToyTask:
        task = ToyTask()
        task.model[2].p = 0.0
        return task

    other = toy_run(tmp_path, [], make=without)
    assert weights(newest(other.folder)) != weights(newest(toy_straight.folder))


# R10: workers


STEPS = [order.tolist() for order in np.split(epoch_order(200, 42, 3), range(16, 200, 16))]


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [2, 4])
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_r10_workers_build_the_bytes_that_none_builds(kind: str, n_workers: int) -> None:
    workers: Executor = (
        ThreadPoolExecutor(n_workers)
        if kind == "threads"
        else ProcessPoolExecutor(n_workers, mp_context=get_context("spawn"))
    )
    alone = [built(step) for step in STEPS]
    with workers:
        assert list(workers.map(built, STEPS[::-1])) == alone[::-1]
    assert len(set(alone)) == len(STEPS)


def test_r10_a_sample_is_the_same_whatever_is_built_beside_it() -> None:
    def of_sample(indices: list[int]) -> tuple[bytes, bytes]:
        batch = make_batch(sessions(200), np.array(indices), 42, 3, n_events=20, max_events=128)
        at = indices.index(7)
        return batch.unseen[at].tobytes(), dropout_masks(batch.seeds[[at, at + batch.n]], 16, 8, 0.1).tobytes()

    assert of_sample([7]) == of_sample([3, 7]) == of_sample([7, 9, 150, 4])


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="torch takes no more threads than there are cores")
def test_r10_another_number_of_threads_is_said(trained: Trained) -> None:
    script = Path(ai_detect.__file__).parent / "resume_train.py"
    before = state_of(trained.checkpoint(50))["versions"]["threads"]
    other = "2" if before == "1" else "1"
    flags = ["--train_file", trained.train, "--checkpoint_dir", trained.folder, "--total_epochs", "10"]
    ended = subprocess.run(
        [sys.executable, script, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": other},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(rf"threads +{before} +{other} +allowed, recorded", ended.stderr)
    assert "last bits may not be the straight run's" in ended.stderr
    said = trained.resume("--total_epochs", "10").err  # with the same number nothing is said
    assert "threads" not in said and "last bits" not in said


# R11: finding the position


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_r11_one_batch_is_built_before_the_first_step_anywhere_in_a_long_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """20,000 sessions in steps of 8: skipping to 99 % would build 2,475 batches."""
    table, options = sessions(20_000), RunSettings(batch_size=8, dim=8, n_word_buckets=64, save_strategy="steps")
    task = EncoderTask(small_encoder(options), table, None, options)
    state = new_state(options, plan_fresh(1), len(table), eval_id=None, provenance={})
    train(task, state, options, checkpoint_dir=tmp_path, config=CONFIG, templates=TEMPLATES, last_step=1)
    loaded = latest_checkpoint(tmp_path)
    consumed = int(share * len(table)) // 8 * 8
    there = loaded.trainer_state.model_copy(
        update={"samples_in_epoch": consumed, "step": consumed // 8, "phase": "train"}
    )
    asked: list[int] = []

    def counting(table: SequenceTable, indices: Any, *given: Any, **options: Any) -> EncodedBatch:
        asked.extend(indices.tolist())
        return make_batch(table, indices, *given, **options)

    monkeypatch.setattr(encoder_task, "make_batch", counting)
    step, where = consumed // 8, {"checkpoint_dir": tmp_path, "config": CONFIG, "templates": TEMPLATES}
    train(task, there, options, **where, resumed=loaded, last_step=step + 1)
    at_once = epoch_order(len(table), 42, 0)[consumed : consumed + 16].tolist()
    assert asked in (at_once[:8], at_once)  # the next one may be begun beside the first step


def small_encoder(options: RunSettings) -> SessionEncoder:
    """An encoder of 20 events."""
    miner = TemplateMiner()
    miner.learn([f"event {chr(97 + number)} {chr(98 + number)} happened" for number in range(20)])
    miner.freeze()
    return untrained_encoder(options, miner)


# R12: every part of the state


def test_r12_every_part_is_bit_equal_after_a_round_trip(finished: Trained) -> None:
    loaded = given_checkpoint(finished.checkpoint(50))
    miner, encoder = encoder_of_checkpoint(loaded)
    optimizer = AdamW(encoder, 0.01)
    optimizer.load(loaded.optimizer_state, finished.folder)
    assert (encode_model(copy_weights(encoder)), encode_optimizer(optimizer.state())) == weights(
        finished.checkpoint(50)
    )
    assert miner.to_json() == json.loads((finished.checkpoint(50) / "templates.json").read_bytes())
    assert loaded.trainer_state.to_json() == state_of(finished.checkpoint(50))
    averages = [state[key] for state in loaded.optimizer_state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert len(averages) > 20
    assert {tensor.dtype for tensor in [*averages, *loaded.model_state.values()]} == {torch.float32}  # none halved
    for tensors in (averages, list(loaded.model_state.values())):  # rounding to half precision would show
        assert any(bool((tensor.half().float() != tensor).any()) for tensor in tensors)


def test_r12_what_is_saved_is_what_was_in_memory(tmp_path: Path) -> None:
    task = ToyTask()
    start(task, tmp_path, OPTIONS)
    assert encode_model(task.model.state_dict()) == (tmp_path / "checkpoint-21" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_r12_a_missing_part_is_an_error_that_names_it(trained: Trained, part: str) -> None:
    (trained.checkpoint(50) / part).unlink()
    for flags in ([], ["--allow_missing"]):
        if flags and part == "optimizer.pt":
            continue
        ended = trained.run("resume", "--checkpoint_path", trained.checkpoint(50), *flags)
        assert ended.code == 4
        last = ended.err.splitlines()[-1]
        assert f"checkpoint-50/{part} is missing" in last and str(trained.checkpoint(45)) in last
        assert ("--allow_missing" in last) == (part == "optimizer.pt")


@pytest.mark.slow
def test_r12_allow_missing_goes_on_without_the_optimizer(trained: Trained) -> None:
    (trained.checkpoint(50) / "optimizer.pt").unlink()
    flags = ["--checkpoint_path", trained.checkpoint(50), "--allow_missing", "--num_epochs", "1", "--total_steps", "52"]
    said = trained.resume(*flags).err
    assert "optimizer.pt is missing: the optimizer's averages start from nothing" in said
    assert int(next(iter(given_checkpoint(trained.checkpoint(52)).optimizer_state.values()))["step"]) == 2
