"""What train and resume share: the data of a run, and everything from the first step to the report."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ai_detect import artifacts
from ai_detect.cli.command_settings import ResumeCommand, RunCommand
from ai_detect.cli.flags import program_name
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.run_folders import check_writable, finished_at
from ai_detect.config import RunSettings
from ai_detect.detectors.threshold import rate_of_alerts
from ai_detect.errors import CheckpointError, ConfigError, DataError, Interrupted
from ai_detect.model_file import model_card
from ai_detect.pipeline import LogAnomalyPipeline, sessions_per_day
from ai_detect.process_group import ProcessGroup, torchrun_processes
from ai_detect.run_encoder import encoder_of_checkpoint, grown_encoder, samples_of, training_task, untrained_encoder
from ai_detect.sequences.epoch_samples import EpochSamples
from ai_detect.sequences.parsed_log import ParsedLog, match_log
from ai_detect.sequences.windowing import split_tail
from ai_detect.tables import SequenceTable
from ai_detect.training.checkpoint import LoadedCheckpoint, load_checkpoint
from ai_detect.training.checkpoint_store import (
    ranked,
    scan_checkpoints,
)
from ai_detect.training.device import choose_device
from ai_detect.training.epochs import EpochPlan
from ai_detect.training.signals import SignalFlag
from ai_detect.training.state import TrainerState, now
from ai_detect.training.trainer import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """What every stage of a command works with."""

    signals: SignalFlag
    group: ProcessGroup
    progress: TerminalProgress


@contextmanager
def command_stages(command: RunCommand) -> Iterator[Stage]:
    """Signals noted, processes connected, and after an interruption the command that goes on."""
    with SignalFlag() as signals, torchrun_processes() as group:
        if not group.is_first:
            logging.getLogger("ai_detect").setLevel(logging.ERROR)
        try:
            yield Stage(signals, group, TerminalProgress(command.quiet or not group.is_first, signals))
        except Interrupted as stop:
            if not group.is_first:
                raise Interrupted("", stop.exit_code - 128) from None  # the first process says it
            raise


@contextmanager
def told_how_to_go_on(command: RunCommand, state: TrainerState, stage: Stage) -> Iterator[None]:
    """After an interruption, the command that goes on: of what was trained the checkpoint knows the rest."""
    first_step = state.step
    try:
        yield
    except Interrupted:
        if stage.group.is_first and state.step > first_step:
            logger.info("go on with: %s", command_to_resume(command))
        elif stage.group.is_first:
            logger.info("nothing was trained: give the same command again")
        raise


def command_to_resume(command: RunCommand) -> str:
    """The command line that goes on with a run whose checkpoint was saved."""
    names = ("train_file", "checkpoint_dir", "output_dir", "model_dir", "total_steps")
    given = [(name, value) for name in names if (value := getattr(command, name)) is not None]
    return " ".join([program_name("resume"), *(f"--{name} {shlex.quote(str(value))}" for name, value in given)])


@dataclass(frozen=True)
class TrainingData:
    """The training log, what of it is trained on, and what validates."""

    log: ParsedLog
    evaluation: ParsedLog | None
    train: SequenceTable
    samples: EpochSamples  # of `train`, in an epoch
    validation: SequenceTable | None
    provenance: dict[str, Any]
    eval_id: str | None


def cache_of(command: RunCommand) -> Path:
    return command.checkpoint_dir / "cache"


def model_dir_of(command: RunCommand) -> Path:
    return command.model_dir or command.checkpoint_dir / "model"


def device_for(settings: RunSettings, group: ProcessGroup) -> torch.device:
    if settings.batch_size % group.world_size:
        raise ConfigError(
            f"--batch_size {settings.batch_size} cannot be shared evenly by {group.world_size} processes; "
            f"give a multiple of {group.world_size}, or start another number of processes"
        )
    return choose_device(settings.device, deterministic=settings.deterministic)


def machine_of(device: torch.device, group: ProcessGroup) -> dict[str, str]:
    """What the last bits of the weights depend on, beside the software."""
    return {
        "device": device.type,
        "processes": str(group.world_size),
        "threads": str(torch.get_num_threads()),
    }


def check_folders(command: RunCommand) -> None:
    folders = {"--checkpoint_dir": command.checkpoint_dir, "--output_dir": Path(command.output_dir)}
    check_writable({**folders, "--model_dir": model_dir_of(command).parent})


def write_run(command: RunCommand, state: TrainerState, *, finished: int | None = None) -> None:
    """run.json: what was called, and the step at which it came to its end (model and report written)."""
    run: dict[str, Any] = {"run_id": state.run_id, "written": now(), "command": sys.argv}
    if finished is not None:
        run["finished"] = {"run_id": state.run_id, "step": finished}
    artifacts.write_json(command.checkpoint_dir / "run.json", run)


def evaluation_log(command: RunCommand, settings: RunSettings, miner: Any, stage: Stage) -> ParsedLog | None:
    if command.eval_file is None:
        return None
    log = match_log(command.eval_file, settings, miner, cache_of(command), stage.progress)
    unseen = float((log.events.event_id >= log.events.n_known).mean())
    if unseen > 0.5:
        logger.warning(
            "%s: %.0f %% of its lines match no template of the training log: is it from the same system?",
            command.eval_file,
            100 * unseen,
        )
    return log


def training_data(
    command: RunCommand, settings: RunSettings, log: ParsedLog, evaluation: ParsedLog | None
) -> TrainingData:
    if settings.max_alerts_per_day is not None:
        rate_of_alerts(settings.max_alerts_per_day, sessions_per_day(log))  # an error, before anything is trained
    train, validation = log.sequences, None
    if evaluation is not None:
        validation = evaluation.sequences
    elif settings.eval_ratio > 0 and len(log.sessions) > 1:
        head, tail = split_tail(log.events, log.sessions, settings.eval_ratio)
        train, validation = log.sequences.take(np.sort(head)), log.sequences.take(tail)
    if len(train) < 2:
        logger.warning(
            "%s holds %d session%s: scores from so few mean little; give a longer log or smaller windows",
            command.train_file,
            len(train),
            "" if len(train) == 1 else "s",
        )
    train_data = [asdict(fingerprint) for fingerprint in log.fingerprints]
    eval_data = [asdict(fingerprint) for fingerprint in evaluation.fingerprints] if evaluation else []
    objective = [settings.not_use_contrastive, settings.not_use_augmentation, settings.seed, log.events.n_known]
    content = [[item["sha256"] for item in used] for used in (train_data, eval_data)]
    return TrainingData(
        log=log,
        evaluation=evaluation,
        train=train,
        samples=samples_of(train),
        validation=validation,
        provenance={
            "train_file": _lasting(command.train_file),
            "train_data": train_data,
            "eval_file": None if command.eval_file is None else _lasting(command.eval_file),
            "eval_data": eval_data,
            "n_train_sessions": len(train),
            "n_validation_sessions": len(validation) if validation is not None else 0,
            "n_templates": log.events.n_known,
        },
        eval_id=None if validation is None else artifacts.sha256_json([content, len(validation), objective])[:32],
    )


def _lasting(spec: str) -> str:
    """The name of a log that still holds in another folder; standard input has none."""
    return spec if spec == "-" else os.path.abspath(spec)


def describe_data(data: TrainingData) -> None:
    events, n_validation = data.log.events, 0 if data.validation is None else len(data.validation)
    logger.info(
        "%s lines, %s messages, %s templates, %s sessions to train on, %s to validate on",
        *(f"{n:,}" for n in (events.counters["n_lines"], len(events), events.n_known, len(data.train), n_validation)),
    )


def finish(
    command: RunCommand,
    settings: RunSettings,
    data: TrainingData,
    state: TrainerState,
    plan: EpochPlan,
    miner: Any,
    resumed: LoadedCheckpoint | None,
    device: torch.device,
    stage: Stage,
    *,
    fine_tuned: bool = False,
) -> int:
    """Train what is left to train; the first process then fits, saves and reports."""
    signals, progress = stage.signals, stage.progress
    begun = time.monotonic()
    if plan.action == "train":
        if fine_tuned:
            assert resumed is not None
            model = grown_encoder(resumed, settings, miner).to(device)
        else:
            model = untrained_encoder(settings, miner).to(device)
        task = training_task(model, data.train, data.samples, data.validation, settings, stage.group)
        with ExitStack() as stack:
            on_step = stack.enter_context(progress.training(state, settings))
            state = train(
                task,
                state,
                settings,
                checkpoint_dir=command.checkpoint_dir,
                config=settings.model_dump(mode="json"),
                templates=miner.to_json(),
                resumed=None if fine_tuned else resumed,
                should_stop=signals.should_stop,
                take_save_request=signals.take_save_request,
                on_step=on_step,
                last_step=command.total_steps,
            )
    if not stage.group.is_first:
        return 0
    trained = time.monotonic()
    eval_id = state.eval_id if plan.action == "train" or resumed is None else resumed.trainer_state.eval_id
    if isinstance(command, ResumeCommand) and command.checkpoint_path is not None and plan.action != "train":
        assert resumed is not None
        chosen = resumed  # exactly the one that was named
    else:
        chosen = _weights_for_model(command.checkpoint_dir, state.run_id, eval_id, resumed)
    miner, encoder = encoder_of_checkpoint(chosen)
    signals.check("the fit stage; resume_train.py completes it")
    pipeline = LogAnomalyPipeline.fit(
        settings,
        miner,
        encoder.to(device),
        data.log,
        model_card(state, chosen),
        progress=progress,
        check=lambda: signals.check("the fit stage; resume_train.py completes it"),
    )
    try:
        pipeline.save(model_dir_of(command))
    except OSError as error:
        raise DataError(
            f"{model_dir_of(command)}: the model cannot be written ({error.strerror}); the run is saved: make room "
            "or give another --model_dir, and resume"
        ) from error
    logger.info("saved %s (weights of step %d)", model_dir_of(command), chosen.checkpoint.step)
    fitted = time.monotonic()
    # jinja2, matplotlib: not before training
    from ai_detect.cli.results import describe, print_summary, write_results, write_suspects

    shown = data.log if data.evaluation is None else data.evaluation
    scored = pipeline.score(shown, progress=progress)
    timings = {"train": trained - begun, "fit": fitted - trained, "score": time.monotonic() - fitted}
    described = describe(pipeline, scored, top_k=50, timings_s=timings, check=lambda: signals.check("the report"))
    folder = Path(command.output_dir)
    write_results(described, folder, top_k=50, history=pipeline.card["history"])
    write_suspects(pipeline, data.log, folder)
    print_summary(described, folder)
    ended = state.step
    if plan.action != "train":  # new detectors from an earlier checkpoint do not undo what was trained
        ended = max(ended, finished_at(command.checkpoint_dir, state.run_id) or 0)
    write_run(command, state, finished=ended)
    return 0


def _weights_for_model(
    checkpoint_dir: Path, run_id: str, eval_id: str | None, resumed: LoadedCheckpoint | None
) -> LoadedCheckpoint:
    """The checkpoint whose weights the model gets: lowest validation loss, else the last, else the one resumed from."""
    own = [item for item in scan_checkpoints(checkpoint_dir)[0] if item.manifest.run_id == run_id]
    for checkpoint in [*ranked(own, eval_id), *reversed(own)]:
        try:
            return load_checkpoint(checkpoint)
        except CheckpointError as error:
            logger.warning("%s is passed over: %s", checkpoint.path, error)
    if resumed is not None:
        return resumed
    raise CheckpointError(f"{checkpoint_dir} holds no valid checkpoint of this run")
