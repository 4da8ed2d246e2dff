"""resume: choose a checkpoint, say what differs, and go on as if never stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ai_detect.cli.command_settings import ResumeCommand
from ai_detect.cli.run_folders import check_model_dir, check_one_run, finished_at, folder_of_run, locked
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
    told_how_to_go_on,
    training_data,
)
from ai_detect.config import DetectionSettings, TrainingSettings
from ai_detect.errors import CheckpointError, ConfigError, DataError
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.ingest.log_sources import find_sources
from ai_detect.model_file import MODEL_CARD, is_older_format, settings_of_checkpoint
from ai_detect.process_group import ProcessGroup
from ai_detect.run_encoder import encoder_of_checkpoint
from ai_detect.sequences.parsed_log import learn_log, match_log
from ai_detect.training.checkpoint import OPTIMIZER, LoadedCheckpoint
from ai_detect.training.checkpoint_store import (
    best_checkpoint,
    given_checkpoint,
    latest_checkpoint,
    next_segment,
    scan_checkpoints,
    sweep_stale,
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
        command = command.model_copy(update={"checkpoint_dir": folder_of_run(command.checkpoint_path)})
    with ExitStack() as stack:
        if stage.group.is_first:
            check_model_dir(model_dir_of(command))
            if (command.checkpoint_dir / MODEL_CARD).exists():
                given_checkpoint(command.checkpoint_dir)  # says that it is a model, and which checkpoint is the nearest
            if command.checkpoint_dir.is_dir() or command.checkpoint_path is not None:
                stack.enter_context(locked(command.checkpoint_dir))
                sweep_stale(command.checkpoint_dir)
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
    with stage.group.first_before_others():  # who finds it remembered
        sources = tuple(find_sources(command.train_file))
        fingerprints = fingerprint_sources(sources, cache_of(command))
    is_new = command.new_data and not is_same_data(state.provenance["train_data"], fingerprints)
    if not is_new:
        check_same_data(state.provenance["train_data"], fingerprints, sources, command.train_file)
    plan = _plan_new_data(command, state) if is_new else _plan(command, state, differences)
    if command.new_data and not is_new:
        logger.info("--new_data: the log is the checkpoint's own; training goes on as without it")
    differences += _other_differences(command, typed, state, is_new=is_new)
    logger.info("resuming from %s: step %d, epoch %s", checkpoint.path, state.step, state.position)
    logger.info("target: epoch %d (%s)", plan.target_epochs, plan.origin)
    if differences or software:
        logger.info("what differs from the checkpoint:\n%s", difference_table([*differences, *software]))
    if software and not is_new:
        logger.warning(
            "the run goes on with the same samples and rates, but its last bits may not be the straight run's"
        )
    if plan.action != "train" and (late := [*_in_training(differences), *({"lr_policy"} & typed.keys())]):
        raise ConfigError(f"--{', --'.join(late)}: no epoch is left to train; give --num_epochs to train on with it")
    if plan.action == "nothing" and not _asks_for_results(command, differences):
        return 0
    if command.eval_file is None and (eval_file := state.provenance["eval_file"]) is not None:
        _check_still_there(eval_file)
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
    begun = (state, checkpoint.hash, settings, plan, len(data.samples))
    if is_new:
        resumed = fine_tuned_state(*begun, **segment)
        known = state.provenance["n_templates"]
        logger.info("fine-tuning: %d templates, %d of them new", len(miner.templates), len(miner.templates) - known)
    else:
        resumed = resumed_state(*begun, **segment, lr_policy=command.lr_policy, force=command.force)
    if stage.group.is_first:
        check_folders(command)
    with told_how_to_go_on(command, resumed, stage):
        return finish(command, settings, data, resumed, plan, miner, loaded, device, stage, fine_tuned=is_new)


def _plan(command: ResumeCommand, state: TrainerState, differences: Sequence[Difference]) -> EpochPlan:
    """How far to go: what the flags say, or only new detectors where nothing else is asked of a finished run."""
    finished_step = finished_at(command.checkpoint_dir, state.run_id)
    own = [item for item in scan_checkpoints(command.checkpoint_dir)[0] if item.manifest.run_id == state.run_id]
    is_finished = finished_step is not None and bool(own) and own[-1].step == finished_step
    flags = (command.num_epochs, command.total_epochs, command.total_steps)
    detection = {item.name for item in differences} & set(DetectionSettings.model_fields)
    if is_finished and detection and not any(flags) and not _in_training(differences):
        named = ", ".join(f"--{name}" for name in sorted(detection))
        return EpochPlan(
            state.planned_epochs, "fit", f"the run is finished: {named} fits anew, --num_epochs N would train on"
        )
    is_done = state.phase == "fit" and finished_step == state.step and not is_older_format(model_dir_of(command))
    if command.total_steps is not None and state.step >= command.total_steps:
        origin = f"{state.step}/{command.total_steps} steps are done"
        return EpochPlan(state.planned_epochs, "nothing" if is_done else "fit", f"nothing to train: {origin}")
    if command.total_steps is not None and state.epoch < state.planned_epochs and not state.early_stopping.stopped:
        origin = f"--total_steps {command.total_steps}, at most the {state.planned_epochs} epochs planned"
        if command.num_epochs is None and command.total_epochs is None:
            return EpochPlan(state.planned_epochs, "train", origin)
    return plan_epochs(
        state.epoch,
        state.planned_epochs,
        "done" if is_done else state.phase,
        num_epochs=command.num_epochs,
        total_epochs=command.total_epochs,
    )


def _check_still_there(eval_file: str) -> None:
    remedy = "it is what the run validated on so far: give it, or another, with --eval_file"
    if eval_file == "-":
        raise ConfigError(f"the evaluation log came from standard input; {remedy}")
    try:
        find_sources(eval_file)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from error


def _plan_new_data(command: ResumeCommand, state: TrainerState) -> EpochPlan:
    if command.total_steps is not None and command.total_steps <= state.step:
        raise ConfigError(f"--total_steps {command.total_steps}: the checkpoint is at step {state.step} already")
    if command.lr_policy != "continue":
        raise ConfigError(
            f"--lr_policy {command.lr_policy}: with --new_data the learning rate starts anew; leave it out"
        )
    return plan_fine_tuning(command.num_epochs, command.total_epochs)


def _other_differences(
    command: ResumeCommand, typed: Mapping[str, Any], state: TrainerState, *, is_new: bool
) -> list[Difference]:
    """What differs beside the settings of a run: its logs, and what happens to rate and optimizer."""
    found = []
    if is_new:
        found.append(Difference("train_file", state.provenance["train_file"], command.train_file, "warn"))
    before = state.provenance["eval_file"]
    if command.eval_file is not None and os.path.abspath(command.eval_file) != before:
        found.append(Difference("eval_file", before, command.eval_file, "warn"))
    if command.lr_policy != "continue":
        found.append(Difference("lr_policy", "continue", command.lr_policy, "warn"))
    path = command.checkpoint_path
    if command.allow_missing and path is not None and not (path / OPTIMIZER).exists():
        found.append(Difference("optimizer", OPTIMIZER, "starts from nothing", "warn"))
    return found


def _asks_for_results(command: ResumeCommand, differences: Sequence[Difference]) -> bool:
    """Whether a finished run is asked for a model or a report that is not there yet."""
    names = {item.name for item in differences} & {*DetectionSettings.model_fields, "eval_file"}
    return bool(names) or not model_dir_of(command).exists() or not Path(command.output_dir).exists()


def _in_training(differences: Sequence[Difference]) -> list[str]:
    """Names of changed settings that only further training can apply."""
    return [item.name for item in differences if item.name in TrainingSettings.model_fields and item.effect == "warn"]
