"""detect: score a log with a trained model."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_detect.cli.command_settings import DetectCommand
from ai_detect.cli.model_folder import load_model
from ai_detect.cli.progress import TerminalProgress
from ai_detect.cli.results import describe, print_notes, print_summary, write_results
from ai_detect.config import MODEL_BOUND, InputSettings, RunSettings
from ai_detect.errors import ConfigError
from ai_detect.training.signals import SignalFlag

if TYPE_CHECKING:
    from ai_detect.distributed.job import Job


def run(command: DetectCommand, typed: Mapping[str, Any]) -> int:
    """Score the log, write the findings; exit code 3 with --fail_on_anomaly where there are any, 1 where parts of the
    log were set aside.
    """
    with SignalFlag() as signals:
        progress = TerminalProgress(command.quiet, signals)
        begun = time.monotonic()
        pipeline = load_model(command.model_dir, command.train_file, progress)
        loaded = time.monotonic()
        reading = reading_settings(command, typed, pipeline.settings)
        job: Job | None = None
        if command.engine == "ray":
            from ai_detect.cli.detect_in_parts import score_in_parts

            job, scored, parsed = score_in_parts(command, pipeline, reading, progress, signals.check)
        else:
            log = pipeline.parse(command.log_file, reading, progress=progress)
            parsed = time.monotonic()
            scored = pipeline.score(
                log,
                method=command.detection_method,
                threshold=command.threshold,
                alarm=command,
                progress=progress,
            )
        timings = {"load": loaded - begun, "parse": parsed - loaded, "score": time.monotonic() - parsed}
        described = describe(
            pipeline,
            scored,
            top_k=command.top_k,
            timings_s=timings,
            check=lambda: signals.check("explaining"),
            each=command.format != "csv" or command.output_dir == "-",
        )
    if job is not None and job.set_aside:
        described = dataclasses.replace(described, summary=job.told_in(described.summary))
    if command.output_dir == "-":
        sys.stdout.writelines(described.findings.jsonl())
        if not command.quiet:
            print_notes(described)
    else:
        folder = Path(command.output_dir)
        write_results(described, folder, top_k=command.top_k, history=pipeline.card["history"], wanted=command.format)
        print_summary(described, folder)
    if job is not None:
        job.finish()
        if job.set_aside:
            return 1
    return 3 if command.fail_on_anomaly and described.summary["n_anomalies"] else 0


def reading_settings(command: InputSettings, typed: Mapping[str, Any], model: RunSettings) -> InputSettings:
    """The model's way to read logs with what was typed on top; raises ConfigError where sessions would be cut
    differently.
    """
    names = [name for name in InputSettings.model_fields if name in typed]
    values = {name: getattr(model, name) for name in InputSettings.model_fields}
    if {"session_regex", "session_field", "session_by_file"} & set(names):
        values |= {"session_regex": None, "session_field": None, "session_by_file": False}
    reading = InputSettings(**{**values, **{name: getattr(command, name) for name in names}})
    changed = [
        f"--{name} {getattr(reading, name)} (model: {getattr(model, name)})"
        for name in (*MODEL_BOUND, "session_by_file")
        if name != "window_type" and getattr(reading, name) != getattr(model, name)
    ]
    if reading.windowing != model.windowing:
        typed_how = f"--window_type {reading.window_type}, " if "window_type" in names else ""
        changed.append(f"{typed_how}sessions by {reading.windowing} (model: {model.windowing})")
    if changed:
        raise ConfigError(
            f"{'; '.join(changed)}: the model knows sessions of its own shape only; leave it out or train anew"
        )
    return reading
