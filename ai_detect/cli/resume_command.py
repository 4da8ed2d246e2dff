"""resume: choose a checkpoint, say what differs, and go on as if never stopped."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ai_detect.cli.command_settings import ResumeCommand
from ai_detect.cli.run_folders import check_model_dir, check_one_run, finished_at, locked
from ai_detect.cli.training_run import (
    Stage,
    cache_of,
    check_folders,
    command_stages,
    device_for,
    evaluation_log,
    finish,
    machine_of,
    model_dir_of,
    training_data,
)
from ai_detect.config import DetectionSettings, TrainingSettings
from ai_detect.errors import CheckpointError, ConfigError
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.ingest.log_reader import find_sources
from ai_detect.pipeline import MODEL_CARD, encoder_of_checkpoint, settings_of_checkpoint
from ai_detect.process_group import ProcessGroup
from ai_detect.sequences.parsed_log import learn_log, match_log
from ai_detect.training.checkpoint import LoadedCheckpoint
from ai_detect.training.checkpoint_store import (
    best_checkpoint,
    given_checkpoint,
    latest_checkpoint,
    next_segment,
)
from ai_detect.training.data_check import check_same_data, is_same_data
from ai_detect.training.epochs import EpochPlan, plan_epochs, plan_fine_tuning
from ai_detect.training.settings_diff import (
    Difference,
    difference_table,
    resumed_settings,
    software_differences,
)
from ai_detect.training.state import TrainerState, fine_tuned_state, resumed_state

logger = logging.getLogger(__name__)


def run(command: ResumeCommand, typed: Mapping[str, Any]) -> int:
    """Go on from a checkpoint; then fit the detectors, save the model, score the evaluation log."""
    with command_stages(command) as stage:
        return _resume(command, typed, stage)


def _resume(command: ResumeCommand, typed: Mapping[str, Any], stage: Stage) -> int:
    if command.checkpoint_path is not None and "checkpoint_dir" not in typed:
        command = command.model_copy(update={"checkpoint_dir": command.checkpoint_path.parent})
    with ExitStack() as stack:
        if stage.group.is_first:
            check_model_dir(model_dir_of(command))
            if (command.checkpoint_dir / MODEL_CARD).exists():
                given_checkpoint(command.checkpoint_dir)  # says that it is a model, and which checkpoint is the nearest
            if command.checkpoint_dir.is_dir():
                stack.enter_context(locked(command.checkpoint_dir))
        loaded = _agreed_checkpoint(command, stage.group)
        if command.verify:
            if stage.group.world_size > 1:
                raise ConfigError("--verify starts processes of its own: call it without torchrun")
            from ai_detect.cli.verify_command import verify

            return verify(command, typed, loaded, stage.signals)
        return _go_on(command, typed, loaded, stage)


def _agreed_checkpoint(command: ResumeCommand, group: ProcessGroup) -> LoadedCheckpoint:
    """The first process's choice, which the others must find with the same content."""
    loaded = _chosen_checkpoint(command) if group.is_first else None
    told = group.told_by(0, None if loaded is None else [str(loaded.checkpoint.path), loaded.checkpoint.hash])
    problem = None
    if loaded is None:
        try:
            loaded = given_checkpoint(Path(told[0]), allow_missing=command.allow_missing)
            if loaded.checkpoint.hash != told[1]:
                problem = f"{told[0]} is not what the first process finds there: give a folder that all processes share"
        except CheckpointError as error:
            problem = f"{error} (the first process goes on from there: give a folder that all processes share)"
    group.raise_together(problem)
    assert loaded is not None
    return loaded


def _chosen_checkpoint(command: ResumeCommand) -> LoadedCheckpoint:
    if command.checkpoint_path is not None:
        return given_checkpoint(command.checkpoint_path, allow_missing=command.allow_missing)
    if command.use_best_checkpoint:
        return best_checkpoint(command.checkpoint_dir)
    return latest_checkpoint(command.checkpoint_dir)


def _go_on(command: ResumeCommand, typed: Mapping[str, Any], loaded: LoadedCheckpoint, stage: Stage) -> int:
    """Everything after the choice of the checkpoint."""
    state, checkpoint = loaded.trainer_state, loaded.checkpoint
    check_one_run(command.checkpoint_dir, state.run_id)
    settings, differences = resumed_settings(settings_of_checkpoint(loaded), command, typed, force=command.force)
    device = device_for(settings, stage.group)
    machine = machine_of(device, stage.group)
    software = software_differences(state.versions, machine)
    sources = tuple(find_sources(command.train_file))
    fingerprints = fingerprint_sources(sources, cache_of(command))
    is_new = command.new_data and not is_same_data(state.provenance["train_data"], fingerprints)
    if not is_new:
        check_same_data(state.provenance["train_data"], fingerprints, sources, command.train_file)
    plan = plan_fine_tuning(command.num_epochs, command.total_epochs) if is_new else _plan(command, state, differences)
    if is_new:
        logs = (state.provenance["train_file"], command.train_file)
        differences.append(Difference("train_file", *logs, "warn"))
    elif command.new_data:
        logger.info("--new_data: the log is the checkpoint's own; training goes on as without it")
    logger.info("resuming from %s: step %d, epoch %s", checkpoint.path, state.step, state.position)
    logger.info("target: epoch %d (%s)", plan.target_epochs, plan.origin)
    if differences or software:
        logger.info("what differs from the checkpoint:\n%s", difference_table([*differences, *software]))
    if software and not is_new:
        logger.warning(
            "the run goes on with the same samples and rates, but its last bits may not be the straight run's"
        )
    if plan.action == "nothing" and not differences:
        return 0
    if plan.action != "train" and (late := _in_training(differences)):
        raise ConfigError(f"--{', --'.join(late)}: no epoch is left to train; give --num_epochs to train on with it")
    if command.eval_file is None and (eval_file := state.provenance["eval_file"]) is not None:
        logger.info("validating on %s, as before", eval_file)
        command = command.model_copy(update={"eval_file": eval_file})
    miner, _ = encoder_of_checkpoint(loaded)
    with stage.group.first_before_others():
        if is_new:
            cache, progress = cache_of(command), stage.progress
            log, miner = learn_log(command.train_file, settings, cache, progress, miner=miner.continued())
        else:
            found = (sources, fingerprints)
            log = match_log(command.train_file, settings, miner, cache_of(command), stage.progress, found=found)
        data = training_data(command, settings, log, evaluation_log(command, settings, miner, stage))
    if data.eval_id != state.eval_id and not is_new:
        logger.warning("the validation data or objective is not the checkpoint's: best value and patience start anew")
    segment: dict[str, Any] = {
        "segment": next_segment(command.checkpoint_dir, loaded),
        "eval_id": data.eval_id,
        "provenance": data.provenance,
        "overrides": {item.name: [item.checkpoint, item.command] for item in [*differences, *software]},
        "machine": machine,
    }
    begun = (state, checkpoint.hash, settings, plan, len(data.train))
    if is_new:
        resumed = fine_tuned_state(*begun, **segment)
        known = state.provenance["n_templates"]
        logger.info("fine-tuning: %d templates, %d of them new", len(miner.templates), len(miner.templates) - known)
    else:
        resumed = resumed_state(*begun, **segment, lr_policy=command.lr_policy, force=command.force)
    if stage.group.is_first:
        check_folders(command)
    return finish(command, settings, data, resumed, plan, miner, loaded, device, stage, fine_tuned=is_new)


def _plan(command: ResumeCommand, state: TrainerState, differences: Sequence[Difference]) -> EpochPlan:
    """How far to go: what the flags say, or only new detectors where nothing else is asked of a finished run."""
    finished_step = finished_at(command.checkpoint_dir, state.run_id)
    flags = (command.num_epochs, command.total_epochs, command.total_steps)
    detection = {item.name for item in differences} & set(DetectionSettings.model_fields)
    if finished_step is not None and detection and not any(flags) and not _in_training(differences):
        named = ", ".join(f"--{name}" for name in sorted(detection))
        return EpochPlan(
            state.planned_epochs, "fit", f"the run is finished: {named} fits anew, --num_epochs N would train on"
        )
    is_done = state.phase == "fit" and finished_step == state.step
    if command.total_steps is not None and state.step >= command.total_steps:
        origin = f"{state.step}/{command.total_steps} steps are done"
        return EpochPlan(state.planned_epochs, "nothing" if is_done else "fit", f"nothing to train: {origin}")
    return plan_epochs(
        state.epoch,
        state.planned_epochs,
        "done" if is_done else state.phase,
        num_epochs=command.num_epochs,
        total_epochs=command.total_epochs,
    )


def _in_training(differences: Sequence[Difference]) -> list[str]:
    """Names of changed settings that only further training can apply."""
    return [item.name for item in differences if item.name in TrainingSettings.model_fields and item.effect == "warn"]
