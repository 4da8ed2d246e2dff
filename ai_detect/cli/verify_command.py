"""resume --verify: prove on the user's own run and log that resuming is exact.

Copies of the checkpoint are trained on in a temporary folder by the program itself: one never touched, the other killed
again and again and resumed. Every byte of what they end with must be equal.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ai_detect
from ai_detect.cli.command_settings import ResumeCommand
from ai_detect.errors import TrainingError
from ai_detect.training.checkpoint import LoadedCheckpoint
from ai_detect.training.checkpoint_store import latest_checkpoint
from ai_detect.training.signals import SignalFlag
from ai_detect.training.state import samples_per_step
from ai_detect.training.tracking import metrics_up_to

logger = logging.getLogger(__name__)

#: Steps compared where --steps does not say: an epoch's, but between these.
_FEWEST_STEPS, _MOST_STEPS = 20, 200
_N_KILLS = 3
_NOT_PASSED_ON = {
    *("verify", "steps", "config", "quiet", "checkpoint_path", "use_best_checkpoint", "checkpoint_dir", "output_dir"),
    "not_early_stopping",
}
_HISTORY = ("step", "epoch", "samples_in_epoch", "loss_steps", "train_losses", "val_losses", "learning_rates")


def verify(command: ResumeCommand, typed: Mapping[str, Any], loaded: LoadedCheckpoint, signals: SignalFlag) -> int:
    """Compare a straight run from this checkpoint with one that is killed; 0 where they are equal, else 1.

    Raises TrainingError where a run fails for another reason.
    """
    folder = Path(tempfile.mkdtemp(prefix="ai-detect-verify-"))
    straight, killed = folder / "straight", folder / "killed"
    for run in (straight, killed):
        _copy_run(command.checkpoint_dir, loaded, run)
    last_step, flags = _flags(command, typed, loaded)
    logger.info("verifying from %s to step %d in %s", loaded.checkpoint.path, last_step, folder)
    try:
        begun = time.monotonic()
        _run(straight, flags, signals, until=lambda: False)
        logger.info("straight run: done in %.0f s", time.monotonic() - begun)
        for reached, where in _kill_points(killed, loaded.checkpoint.step, last_step):
            if not _run(killed, flags, signals, until=reached):
                raise TrainingError(
                    f"the run ended before it could be killed {where}, so nothing is proved; give more --steps"
                )
            logger.info("killed %s, at step %d", where, _last_metric(killed))
        _run(killed, flags, signals, until=lambda: False)
        logger.info("killed run: resumed to its end")
    except BaseException:
        shutil.rmtree(folder)
        raise
    rows = [(name, first, _results(killed).get(name)) for name, first in _results(straight).items()]
    for name, first, second in rows:
        print(
            f"{'same     ' if first == second else 'DIFFERENT'}  {name:<28}  {first[:16]}  {(second or 'absent')[:16]}"
        )
    if all(first == second for _, first, second in rows):
        shutil.rmtree(folder)
        print(f"verified: killed and resumed, the run ends with the bytes of the straight run ({len(rows)} compared)")
        return 0
    print(f"NOT verified: the two runs differ; they are kept in {folder}: please report it with their files")
    return 1


def _copy_run(checkpoint_dir: Path, loaded: LoadedCheckpoint, run: Path) -> None:
    run.mkdir()
    shutil.copytree(loaded.checkpoint.path, run / f"checkpoint-{loaded.checkpoint.step}")
    # Of the history what the checkpoint has seen: later steps would look as if they had been taken already.
    (run / "metrics.jsonl").write_bytes(metrics_up_to(checkpoint_dir / "metrics.jsonl", loaded.checkpoint.step))
    (checkpoint_dir / "cache").mkdir(exist_ok=True)
    (run / "cache").symlink_to((checkpoint_dir / "cache").resolve())


def _flags(command: ResumeCommand, typed: Mapping[str, Any], loaded: LoadedCheckpoint) -> tuple[int, list[str]]:
    """The step to go to, and the flags of all child processes."""
    state = loaded.trainer_state
    per_step = samples_per_step(command.model_copy(update={**loaded.config, **typed}))
    per_epoch = -(-state.n_samples // per_step)
    n_steps = command.steps or min(max(per_epoch, _FEWEST_STEPS), _MOST_STEPS)
    last_step = state.step + n_steps
    needed_epochs = state.epoch + 1 + n_steps // per_epoch + 1
    values: dict[str, Any] = {name: value for name, value in typed.items() if name not in _NOT_PASSED_ON}
    values |= {"total_steps": last_step, "save_strategy": "steps", "save_steps": max(1, n_steps // 5)}
    values |= {"not_early_stopping": True, "quiet": True}
    if needed_epochs > state.planned_epochs:
        values["total_epochs"] = needed_epochs
    flags = []
    for name, value in values.items():
        if value is not False:
            flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return last_step, flags


def _kill_points(run: Path, first_step: int, last_step: int) -> list[tuple[Callable[[], bool], str]]:
    """When to kill: at random steps of training, at the end of it, and at a random instant of the fit stage."""
    draw = random.Random()  # another place each time: the proof must hold for all
    steps = sorted(draw.randrange(first_step, last_step) for _ in range(_N_KILLS))
    points: list[tuple[Callable[[], bool], str]] = [
        (lambda step=step: _last_metric(run) > step, "in training")  # type: ignore[misc]
        for step in steps
    ]
    points.append((lambda: (run / f"checkpoint-{last_step}").is_dir(), "in the fit stage"))
    return points


def _run(run: Path, flags: list[str], signals: SignalFlag, *, until: Callable[[], bool]) -> bool:
    """Resume in this folder; kill the process as soon as `until` holds and say whether it was killed."""
    script = Path(ai_detect.__file__).parent / "resume_train.py"
    folders = ["--checkpoint_dir", str(run), "--output_dir", str(run / "output")]
    with (run / "log.txt").open("ab") as log:
        process = subprocess.Popen([sys.executable, str(script), *flags, *folders], stdout=log, stderr=log)
    try:
        while process.poll() is None:
            signals.check("verification")
            if until():
                process.kill()
                return process.wait() < 0
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        last = (run / "log.txt").read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise TrainingError(f"a run of the verification failed: {' '.join(last)}")
    return False


def _last_metric(run: Path) -> int:
    """The last step in metrics.jsonl, 0 where there is none; a line being written does not count."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, IndexError, KeyError):
        return 0


def _results(run: Path) -> dict[str, str]:
    """sha256 of everything that a run ends with and that must not depend on kills."""
    newest = latest_checkpoint(run)
    state = newest.trainer_state.model_dump(mode="json")
    found = {"losses, rates and position": json.dumps([state[name] for name in _HISTORY]).encode()}
    files = [newest.checkpoint.path / name for name in ("model.safetensors", "optimizer.pt", "templates.json")]
    files += [run / "metrics.jsonl", run / "output" / "scores.csv"]
    files += sorted(path for path in (run / "model").iterdir() if path.name != "model.json")  # it names the resumes
    found |= {str(path.relative_to(run)): path.read_bytes() for path in files}
    return {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
