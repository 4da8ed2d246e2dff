"""train: a new run, from the log's first line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from ai_detect.cli.command_settings import TrainCommand
from ai_detect.cli.run_folders import check_model_dir, locked, overwritten
from ai_detect.cli.training_run import (
    Stage,
    cache_of,
    check_folders,
    command_stages,
    describe_data,
    device_for,
    evaluation_log,
    finish,
    machine_of,
    model_dir_of,
    told_how_to_go_on,
    training_data,
    write_run,
)
from ai_detect.config import RunSettings
from ai_detect.errors import ConfigError
from ai_detect.model_file import MODEL_CARD
from ai_detect.sequences.parsed_log import learn_log
from ai_detect.training.checkpoint_store import refuse_occupied, sweep_stale
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.state import new_state


def run(command: TrainCommand, typed: Mapping[str, Any]) -> int:
    """Train; then fit the detectors, save the model, score the evaluation log."""
    with command_stages(command) as stage:
        return _train(command, stage)


def _train(command: TrainCommand, stage: Stage) -> int:
    settings = RunSettings(**command.model_dump(include=set(RunSettings.model_fields)))
    device = device_for(settings, stage.group)
    is_new_folder = not command.checkpoint_dir.exists()
    with ExitStack() as stack:
        with stage.group.first_before_others():
            if stage.group.is_first and not is_new_folder:
                _enter(command, stack)
            log, miner = learn_log(command.train_file, settings, cache_of(command), stage.progress)
            data = training_data(command, settings, log, evaluation_log(command, settings, miner, stage))
        plan = plan_fresh(command.num_epochs)
        state = new_state(
            settings,
            plan,
            len(data.samples),
            eval_id=data.eval_id,
            provenance=data.provenance,
            machine=machine_of(device, stage.group),
        )
        describe_data(data)
        if stage.group.is_first:
            if is_new_folder:  # not made for a log that cannot be read
                _enter(command, stack)
            check_folders(command)
            if command.overwrite:
                stack.enter_context(overwritten(command.checkpoint_dir))
            write_run(command, state)
        with told_how_to_go_on(command, state, stage):
            return finish(command, settings, data, state, plan, miner, None, device, stage)


def _enter(command: TrainCommand, stack: ExitStack) -> None:
    """Lock the folder until the command ends; raises ConfigError where something is there that must not be mixed."""
    check_model_dir(model_dir_of(command))
    if (command.checkpoint_dir / MODEL_CARD).exists():
        raise ConfigError(f"--checkpoint_dir {command.checkpoint_dir} is a finished model; give another folder")
    stack.enter_context(locked(command.checkpoint_dir))
    sweep_stale(command.checkpoint_dir)
    if not command.overwrite:
        refuse_occupied(command.checkpoint_dir)
