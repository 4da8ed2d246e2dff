"""Which model a --model_dir names: a model folder, a checkpoint folder that holds model/, or a checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path

from ai_detect.errors import CheckpointError
from ai_detect.pipeline import LogAnomalyPipeline, fit_checkpoint
from ai_detect.sequences.parsed_log import Progress

logger = logging.getLogger(__name__)


def load_model(model_dir: Path, train_file: str | None, progress: Progress) -> LogAnomalyPipeline:
    """The finished model, or a checkpoint's with its detectors fitted first; raises CheckpointError where there
    is neither.
    """
    if (model_dir / "manifest.json").exists():
        from ai_detect.training.checkpoint_store import given_checkpoint  # imports torch

        logger.info("%s is a checkpoint: its detectors are fitted first", model_dir)
        return fit_checkpoint(given_checkpoint(model_dir), train_file, progress)
    if (model_dir / "model.json").exists():
        return LogAnomalyPipeline.load(model_dir)
    if (model_dir / "model" / "model.json").exists():
        return LogAnomalyPipeline.load(model_dir / "model")
    if not model_dir.is_dir():
        raise CheckpointError(
            f"{model_dir}: no such folder; train first (python ai_detect/train.py), or give --model_dir"
        )
    raise CheckpointError(
        f"{model_dir} holds no finished model; complete the run (python ai_detect/resume_train.py), or "
        f"give --model_dir a checkpoint-*"
    )
