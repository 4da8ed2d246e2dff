"""detect --engine ray: the same scores, made in parts by the processes of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ai_detect.cli.command_settings import DetectCommand
from ai_detect.config import InputSettings
from ai_detect.distributed.job import Job
from ai_detect.distributed.ray_engine import RayEngine, cluster
from ai_detect.pipeline import LogAnomalyPipeline, Scored
from ai_detect.sequences.parsed_log import Progress


def score_in_parts(
    command: DetectCommand,
    pipeline: LogAnomalyPipeline,
    reading: InputSettings,
    progress: Progress,
    check: Callable[[str], None],
) -> tuple[Job, Scored, float]:
    """The job, what it has scored, and when (`time.monotonic`) its log was parsed; `check` may raise to stop."""
    with cluster(command.ray_address, command.ray_workers) as ray:
        engine = RayEngine(ray, progress, check)
        job = Job(pipeline, reading, engine, Path(command.output_dir), command.block_bytes)
        log = job.parse(command.log_file)
        parsed = time.monotonic()
        scored = job.score(log, method=command.detection_method, threshold=command.threshold, alarm=command)
    return job, scored, parsed
