"""train and resume: the same stages, from nothing or from a checkpoint."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ai_detect import artifacts
from ai_detect.cli.command_settings import ResumeCommand, RunCommand, TrainCommand
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.results import describe, print_summary, write_results
from ai_detect.cli.run_folders import check_model_dir, check_one_run, check_writable, is_finished, overwritten
from ai_detect.config import RunSettings, TrainingSettings
from ai_detect.errors import CheckpointError, ConfigError, DataError
from ai_detect.pipeline import (
    LogAnomalyPipeline,
    encoder_of_checkpoint,
    model_card,
    settings_of_checkpoint,
    training_task,
    untrained_encoder,
)
from ai_detect.sequences.parsed_log import ParsedLog, learn_log, match_log
from ai_detect.sequences.windowing import split_tail
from ai_detect.tables import SequenceTable
from ai_detect.training.checkpoint import LoadedCheckpoint, load_checkpoint
from ai_detect.training.checkpoint_store import (
    best_checkpoint,
    given_checkpoint,
    latest_checkpoint,
    next_segment,
    ranked,
    refuse_occupied,
    scan_checkpoints,
)
from ai_detect.training.data_check import check_same_data
from ai_detect.training.device import choose_device
from ai_detect.training.epochs import EpochPlan, plan_epochs, plan_fresh
from ai_detect.training.settings_diff import difference_table, resumed_settings
from ai_detect.training.signals import SignalFlag
from ai_detect.training.state import TrainerState, new_state, now, resumed_state
from ai_detect.training.trainer import train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """The training log, what of it is trained on, and what validates."""

    log: ParsedLog
    evaluation: ParsedLog | None
    train: SequenceTable
    validation: SequenceTable | None
    provenance: dict[str, Any]
    eval_id: str | None


def run(command: RunCommand, typed: Mapping[str, Any]) -> int:
    """Train, or go on from a checkpoint; then fit the detectors, save the model, score the evaluation log."""
    with SignalFlag() as signals:
        if isinstance(command, ResumeCommand):
            return _resume(command, typed, signals)
        assert isinstance(command, TrainCommand)
        return _train(command, signals)


def _train(command: TrainCommand, signals: SignalFlag) -> int:
    settings = RunSettings(**command.model_dump(include=set(RunSettings.model_fields)))
    if not command.overwrite:
        refuse_occupied(command.checkpoint_dir)
    check_model_dir(_model_dir(command))
    choose_device(settings.device)
    progress = TerminalProgress(command.quiet, signals)
    log, miner = learn_log(command.train_file, settings, _cache(command), progress)
    data = _training_data(command, settings, log, _evaluation_log(command, settings, miner, progress))
    _check_folders(command)
    plan = plan_fresh(command.num_epochs)
    state = new_state(settings, plan, len(data.train), eval_id=data.eval_id, provenance=data.provenance)
    _describe(data)
    with overwritten(command.checkpoint_dir) if command.overwrite else nullcontext():
        _write_run(command, state, finished=False)
        return _finish(command, settings, data, state, plan, miner, None, signals, progress)


def _resume(command: ResumeCommand, typed: Mapping[str, Any], signals: SignalFlag) -> int:
    if command.checkpoint_path is not None and "checkpoint_dir" not in typed:
        command = command.model_copy(update={"checkpoint_dir": command.checkpoint_path.parent})
    loaded = _chosen_checkpoint(command)
    state, checkpoint = loaded.trainer_state, loaded.checkpoint
    check_one_run(command.checkpoint_dir, state.run_id)
    check_model_dir(_model_dir(command))
    settings, differences = resumed_settings(settings_of_checkpoint(loaded), command, typed, force=command.force)
    choose_device(settings.device)
    finished = state.phase == "fit" and is_finished(command.checkpoint_dir, state.run_id, state.step)
    plan = plan_epochs(
        state.epoch,
        state.planned_epochs,
        "done" if finished else state.phase,
        num_epochs=command.num_epochs,
        total_epochs=command.total_epochs,
    )
    logger.info("resuming from %s: step %d, epoch %s", checkpoint.path, state.step, state.position)
    logger.info("target: epoch %d (%s)", plan.target_epochs, plan.origin)
    if differences:
        logger.info("settings that differ from the checkpoint's:\n%s", difference_table(differences))
    if plan.action == "nothing" and not differences:
        return 0
    late = [item.name for item in differences if item.name in TrainingSettings.model_fields and item.effect == "warn"]
    if late and plan.action != "train":
        raise ConfigError(f"--{', --'.join(late)}: no epoch is left to train; give --num_epochs to train on with it")
    if command.eval_file is None and (eval_file := state.provenance["eval_file"]) is not None:
        logger.info("validating on %s, as before", eval_file)
        command = command.model_copy(update={"eval_file": eval_file})
    progress = TerminalProgress(command.quiet, signals)
    miner, _ = encoder_of_checkpoint(loaded)
    log = match_log(command.train_file, settings, miner, _cache(command), progress)
    check_same_data(state.provenance["train_data"], log.fingerprints, log.sources, command.train_file)
    data = _training_data(command, settings, log, _evaluation_log(command, settings, miner, progress))
    if data.eval_id != state.eval_id:
        logger.warning("the validation data or objective is not the checkpoint's: best value and patience start anew")
    _check_folders(command)
    resumed = resumed_state(
        state,
        checkpoint.hash,
        settings,
        plan,
        len(data.train),
        segment=next_segment(command.checkpoint_dir, loaded),
        eval_id=data.eval_id,
        provenance=data.provenance,
        overrides={item.name: [item.checkpoint, item.command] for item in differences},
        lr_policy=command.lr_policy,
        force=command.force,
    )
    return _finish(command, settings, data, resumed, plan, miner, loaded, signals, progress)


def _chosen_checkpoint(command: ResumeCommand) -> LoadedCheckpoint:
    if command.checkpoint_path is not None:
        return given_checkpoint(command.checkpoint_path)
    if command.use_best_checkpoint:
        return best_checkpoint(command.checkpoint_dir)
    return latest_checkpoint(command.checkpoint_dir)


def _cache(command: RunCommand) -> Path:
    return command.checkpoint_dir / "cache"


def _model_dir(command: RunCommand) -> Path:
    return command.model_dir or command.checkpoint_dir / "model"


def _check_folders(command: RunCommand) -> None:
    folders = {"--checkpoint_dir": command.checkpoint_dir, "--output_dir": Path(command.output_dir)}
    check_writable({**folders, "--model_dir": _model_dir(command).parent})


def _write_run(command: RunCommand, state: TrainerState, *, finished: bool) -> None:
    """run.json: what was called, and whether it came to its end (model and report written)."""
    run: dict[str, Any] = {"run_id": state.run_id, "written": now(), "command": sys.argv}
    if finished:
        run["finished"] = {"run_id": state.run_id, "step": state.step}
    artifacts.write_json(command.checkpoint_dir / "run.json", run)


def _evaluation_log(
    command: RunCommand, settings: RunSettings, miner: Any, progress: TerminalProgress
) -> ParsedLog | None:
    if command.eval_file is None:
        return None
    log = match_log(command.eval_file, settings, miner, _cache(command), progress)
    unseen = float((log.events.event_id >= log.events.n_known).mean())
    if unseen > 0.5:
        logger.warning(
            "%s: %.0f %% of its lines match no template of the training log: is it from the same system?",
            command.eval_file,
            100 * unseen,
        )
    return log


def _training_data(
    command: RunCommand, settings: RunSettings, log: ParsedLog, evaluation: ParsedLog | None
) -> TrainingData:
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
    objective = [settings.not_use_contrastive, settings.not_use_augmentation, settings.seed]
    content = [item["sha256"] for item in (eval_data or train_data)]
    return TrainingData(
        log=log,
        evaluation=evaluation,
        train=train,
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


def _describe(data: TrainingData) -> None:
    events, n_validation = data.log.events, 0 if data.validation is None else len(data.validation)
    logger.info(
        "%s lines, %s messages, %s templates, %s sessions to train on, %s to validate on",
        *(f"{n:,}" for n in (events.counters["n_lines"], len(events), events.n_known, len(data.train), n_validation)),
    )


def _finish(
    command: RunCommand,
    settings: RunSettings,
    data: TrainingData,
    state: TrainerState,
    plan: EpochPlan,
    miner: Any,
    resumed: LoadedCheckpoint | None,
    signals: SignalFlag,
    progress: TerminalProgress,
) -> int:
    """Train what is left to train, then fit, save and report."""
    device = choose_device(settings.device)
    begun = time.monotonic()
    if plan.action == "train":
        model = untrained_encoder(settings, miner).to(device)
        task = training_task(model, data.train, data.validation, settings)
        with ExitStack() as stack:
            on_step = stack.enter_context(progress.training(state, settings))
            state = train(
                task,
                state,
                settings,
                checkpoint_dir=command.checkpoint_dir,
                config=settings.model_dump(mode="json"),
                templates=miner.to_json(),
                resumed=resumed,
                should_stop=signals.should_stop,
                take_save_request=signals.take_save_request,
                on_step=on_step,
            )
    trained = time.monotonic()
    eval_id = state.eval_id if plan.action == "train" or resumed is None else resumed.trainer_state.eval_id
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
        pipeline.save(_model_dir(command))
    except OSError as error:
        raise DataError(
            f"{_model_dir(command)}: the model cannot be written ({error.strerror}); the run is saved: make room "
            "or give another --model_dir, and resume"
        ) from error
    logger.info("saved %s (weights of step %d)", _model_dir(command), chosen.checkpoint.step)
    fitted = time.monotonic()
    shown = data.log if data.evaluation is None else data.evaluation
    scored = pipeline.score(shown, progress=progress)
    timings = {"train": trained - begun, "fit": fitted - trained, "score": time.monotonic() - fitted}
    described = describe(pipeline, scored, top_k=50, timings_s=timings, check=lambda: signals.check("the report"))
    folder = Path(command.output_dir)
    write_results(described, folder, top_k=50, history=pipeline.card["history"])
    print_summary(described, folder)
    _write_run(command, state, finished=True)
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
