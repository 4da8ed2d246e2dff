"""The real command line, with a signal sent to itself at one chosen point: what a kill at that instant does.

saboteur.py POINT SIGNAL train|resume ...: the point is KIND:K, the K-th call of one of the functions in POINTS. The
page of the report is left out: drawing it is half of the time of a small run, and no test of a kill looks at it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

#: Kind of point -> module and the function in it that is reached there.
POINTS = {
    "fsync": ("os", "fsync"),
    "rename": ("os", "replace"),
    "parse": ("ai_detect.parsing.events", "_events_of_texts"),
    "cache": ("ai_detect.parsing.cache", "write_json"),
    "step": ("ai_detect.training.encoder_task", "EncoderTask.training_loss"),
    "validation": ("ai_detect.training.encoder_task", "EncoderTask.validation_loss"),
    "optimizer": ("ai_detect.training.optimizer", "AdamW.step"),
    "hashing": ("ai_detect.training.checkpoint", "sha256_json"),
    "prune": ("ai_detect.training.checkpoint_writer", "prune_checkpoints"),
    "fit": ("ai_detect.detectors.ensemble", "DetectorBank.fit"),
    "calibration": ("ai_detect.detectors.calibration", "TailCalibration.fit"),
    "model": ("ai_detect.pipeline", "LogAnomalyPipeline.save"),
    "scoring": ("ai_detect.pipeline", "LogAnomalyPipeline.score"),
    "report": ("ai_detect.cli.results", "write_results"),
}


def sabotage(point: str, number: int) -> None:
    """Send this process the signal at the beginning of the point's K-th call."""
    kind, _, count = point.partition(":")
    module, path = POINTS[kind]
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    inner: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def called(*given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), number)
        return inner(*given, **options)

    setattr(owner, name, called if not classes or not hasattr(inner, "__self__") else staticmethod(called))


if __name__ == "__main__":
    from ai_detect.cli import results
    from ai_detect.cli.main import main

    results.detection_report = lambda *given, **options: ""
    if sys.argv[1] != "never":
        sabotage(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
