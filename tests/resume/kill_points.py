"""Runs that are killed: the toy task and the command line, at the instants that the acceptance list names.

A kill is an exception that nothing in the package catches; what a killed save leaves on disk is planted with it. Real
processes that get a real SIGKILL are in `killed_everywhere.py`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import SHOP_SESSION, Result
from training_toy import ToyTask, go_on, settings, start

from ai_detect.cli.main import main
from ai_detect.config import TrainingSettings
from ai_detect.errors import CheckpointError
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.training import checkpoint_writer
from ai_detect.training.checkpoint_store import latest_checkpoint, named_checkpoints, scan_checkpoints
from ai_detect.training.encoder_task import EncoderTask
from ai_detect.training.state import TrainerState

#: Above any pid_max: a process that is certainly dead.
DEAD = 4_199_999

#: The kill points of rows R1 to R9 in a run of three epochs of 7 steps that saves every 5 steps, and the call counted.
POINTS = {
    "first step": "step:1",
    "mid-epoch": "step:10",
    "last step of an epoch": "step:14",
    "during evaluation": "validation:2",
    "during save": "save:3",
    "in the fit stage": "fit",
}
OPTIONS = settings(save_strategy="steps", save_steps=5)
#: Of the trainer's state, what must not depend on kills.
HISTORY = (
    *("step", "epoch", "samples_in_epoch", "phase", "schedule", "loss_steps", "train_losses", "val_losses"),
    *("learning_rates", "best_val_loss", "best_step", "best_epoch", "patience_counter", "stopped", "stop_reason"),
)


class Killed(BaseException):
    """Stands for the end of a process."""


@contextmanager
def killed_at(point: str | None, task: type[Any] | ToyTask) -> Iterator[None]:
    """End the run at a point: step:K, validation:K or save:K (the K-th call), or fit."""
    kind, _, count = (point or "never").partition(":")
    calls = 0

    def passed(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if not count or calls == int(count):
                if kind == "save":
                    leave_half_a_save(*given)
                raise Killed
            return inner(*given, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        if kind == "fit":
            patch.setattr(LogAnomalyPipeline, "fit", passed(LogAnomalyPipeline.fit))
        elif kind == "save":
            patch.setattr(checkpoint_writer, "write_checkpoint", passed(checkpoint_writer.write_checkpoint))
        elif kind != "never":
            name = {"step": "training_loss", "validation": "validation_loss"}[kind]
            patch.setattr(task, name, passed(getattr(task, name)))
        with suppress(Killed):
            yield


def leave_half_a_save(folder: Path, state: TrainerState, parts: Mapping[str, bytes], *_: Any) -> None:
    """What a process leaves that is killed while it writes its third part."""
    half = folder / f".checkpoint-{state.step}.tmp-{DEAD}"
    half.mkdir()
    for name, content in list(parts.items())[:3]:
        (half / name).write_bytes(content)
    (half / name).write_bytes(content[: len(content) // 2])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def state_of(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's trainer_state.json."""
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return state


def history(checkpoint: Path) -> dict[str, Any]:
    """What of trainer_state.json must not depend on kills."""
    state = state_of(checkpoint)
    return {name: state[name] for name in HISTORY}


def weights(checkpoint: Path) -> tuple[bytes, bytes]:
    """The bytes of model and optimizer."""
    return (checkpoint / "model.safetensors").read_bytes(), (checkpoint / "optimizer.pt").read_bytes()


def newest(folder: Path) -> Path:
    """The checkpoint of the largest number."""
    return named_checkpoints(folder)[-1]


def steps(folder: Path) -> list[int]:
    """Steps of the valid checkpoints, every part read."""
    return [checkpoint.step for checkpoint in scan_checkpoints(folder, verify=True)[0]]


class Scripted(ToyTask):
    """A toy whose validation loss after each epoch is given; `began` is the samples consumed before this process."""

    def __init__(self, losses: Sequence[float], began: int = 0) -> None:
        super().__init__()
        self.losses, self.began = losses, began

    def validation_loss(self) -> float:
        return self.losses[(self.began + len(self.seen)) // 50 - 1]


@dataclass
class ToyRun:
    """What came of a toy run: its folder and, of each process, where it began and which samples it was asked for."""

    folder: Path
    began: list[int] = field(default_factory=list)  # samples consumed before
    seen: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def effective(self) -> list[tuple[int, int]]:
        """(epoch, sample) that the final weights were trained on, in order: what no checkpoint held is taken back."""
        stream: list[tuple[int, int]] = []
        for began, seen in zip(self.began, self.seen, strict=True):
            stream = stream[:began] + seen
        return stream


def toy_run(
    folder: Path,
    points: list[str],
    options: TrainingSettings = OPTIONS,
    make: Callable[[int], ToyTask] = lambda began: ToyTask(),
    epochs: int = 3,
    *,
    all_reached: bool = True,
) -> ToyRun:
    """Train the toy, killed at each of the points in turn, resumed after each; `make` is told the samples consumed.

    Unless `all_reached`, points that are beyond what is left of the run do not count.
    """
    run = ToyRun(folder)
    for point in [*points, None]:
        try:
            loaded = latest_checkpoint(folder)
        except CheckpointError:
            loaded = None
        began = 0 if loaded is None else loaded.trainer_state.samples
        task, ended = make(began), False
        with killed_at(point, task):
            if loaded is None:
                start(task, folder, options, epochs)
            else:
                go_on(task, folder, options, loaded)
            if point == "fit":  # the toy has no such stage: what there is to lose is on disk
                raise Killed
            ended = True
        run.began.append(began)
        run.seen.append(task.seen)
        if ended:
            assert point is None or not all_reached
            break
    return run


def command(*arguments: str | Path) -> Result:
    """Run a subcommand in this process; what it says to its log is part of `err`.

    The page of the report is left out: drawing it is half of the time of a small run, and no row is about it.
    """
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("ai_detect")
    before = (logger.handlers[:], logger.level, logger.propagate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr("ai_detect.reporting.report.detection_report", lambda *given, **options: "")
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = main([str(argument) for argument in arguments])
        except BaseException:
            sys.stderr.write(err.getvalue())
            raise
        finally:
            logger.handlers[:], logger.level, logger.propagate = before
    return Result(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Trained:
    """A training run on the command line and where its files are."""

    train: Path
    evaluation: Path
    folder: Path

    def run(self, name: str, *flags: str | Path, log: Path | None = None) -> Result:
        """Run train or resume in the folder, on this log (default: the run's own)."""
        folders = ["--checkpoint_dir", self.folder, "--output_dir", self.folder / "output"]
        given = [] if "--eval_file" in flags or name == "resume" else ["--eval_file", self.evaluation]
        return command(name, "--train_file", log or self.train, *given, *folders, *flags)

    def resume(self, *flags: str | Path, log: Path | None = None) -> Result:
        """Resume, and see that it came to its end."""
        ended = self.run("resume", *flags, log=log)
        assert ended.code == 0, ended.err
        return ended

    def choice(self, *flags: str | Path, log: Path | None = None) -> Result:
        """What a resume would go on from, without training: it loads, compares, and is then asked the impossible."""
        ended = self.run("resume", "--total_steps", "1", "--learning_rate", "0.5", *flags, log=log)
        assert ended.code == 2 and "no epoch is left to train" in ended.err, ended.err
        return ended

    def copied_to(self, folder: Path) -> Trained:
        shutil.copytree(self.folder, folder)
        return Trained(self.train, self.evaluation, folder)

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"


@dataclass(frozen=True)
class Chain:
    """A run of four epochs of 5 steps on the command line, one process a kill, and what each was asked to train on."""

    run: Trained
    began: list[tuple[int, int]]  # of each process: epoch, samples consumed in it
    batches: list[list[tuple[int, list[int]]]]  # of each process: (epoch, samples) of each step
    said: list[str]  # of each process, on standard error


def killed_chain(run: Trained, points: list[str]) -> Chain:
    """Train with dropout, contrastive views and augmentation, killed at each point in turn and resumed after each."""
    chain = Chain(run, [], [], [])
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "4", "--batch_size", "10", "--not_early_stopping"]
    flags += ["--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "100"]
    training_loss = EncoderTask.training_loss
    for point in [*points, None]:
        batches: list[tuple[int, list[int]]] = []

        def noting(task: EncoderTask, indices: Any, epoch: int, batches: Any = batches) -> Any:
            batches.append((epoch, indices.tolist()))
            return training_loss(task, indices, epoch)

        began = (0, 0)
        if steps(run.folder):
            state = state_of(newest(run.folder))
            began = (state["epoch"], state["samples_in_epoch"])
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
            patch.setattr(EncoderTask, "training_loss", noting)
            with killed_at(point, EncoderTask):
                ended = run.run("resume") if steps(run.folder) else run.run("train", *flags)
                assert point is None and ended.code == 0, ended.err
                said.write(ended.err)
        chain.began.append(began)
        chain.batches.append(batches)
        chain.said.append(said.getvalue())
    return chain
