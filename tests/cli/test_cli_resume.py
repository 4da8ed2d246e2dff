"""A run that is interrupted, even killed, and resumed ends with the bytes of a run that was never touched."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, SHOP_SESSION, shop_log

# What makes a run long enough to be hit: small steps, a checkpoint every few of them, evaluation data.
FLAGS = ["--session_regex", SHOP_SESSION, "--batch_size", "16", "--save_strategy", "steps", "--save_steps", "7"]
EPOCHS = 4
RESULTS = ["model/model.safetensors", "model/detectors.safetensors", "model/detectors.json", "model/normal.safetensors"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("logs")
    train, evaluation = folder / "train.log", folder / "eval.log"
    train.write_text(shop_log(200, seed=1))
    evaluation.write_text(shop_log(40, seed=2))
    return train, evaluation


def command(script: str, logs: tuple[Path, Path], folder: Path, *flags: str) -> list[str]:
    folders = ["--checkpoint_dir", str(folder), "--output_dir", str(folder / "output")]
    files = ["--train_file", str(logs[0]), "--eval_file", str(logs[1])]
    return [sys.executable, str(ROOT / "ai_detect" / script), *files, *folders, *flags]


def digests(folder: Path) -> dict[str, str]:
    """Hashes of what a run leaves behind, its histories included."""
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in [*RESULTS, "output/scores.csv"]}
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    for name in ("step", "epoch", "train_losses", "val_losses", "learning_rates", "best_step"):
        found[name] = json.dumps(state[name])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics"] = json.dumps([{k: v for k, v in row.items() if k not in ("time", "timestamp")} for row in rows])
    return found


@pytest.fixture(scope="module")
def straight(logs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("straight")
    subprocess.run(command("train.py", logs, folder, *FLAGS, "--num_epochs", str(EPOCHS), "--quiet"), check=True)
    return digests(folder)


def wait_for(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and not reached() and time.monotonic() < deadline:
        time.sleep(0.002)


def steps_logged(folder: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), default=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "at_step", "code"),
    [(signal.SIGKILL, 7, -9), (signal.SIGKILL, 21, -9), (signal.SIGINT, 14, 130), (signal.SIGTERM, 28, 143)],
)
def test_stopped_in_training_and_resumed(
    logs: tuple[Path, Path], straight: dict[str, str], tmp_path: Path, number: signal.Signals, at_step: int, code: int
) -> None:
    process = subprocess.Popen(command("train.py", logs, tmp_path, *FLAGS, "--num_epochs", str(EPOCHS), "--quiet"))
    wait_for(process, lambda: steps_logged(tmp_path) >= at_step)
    process.send_signal(number)
    assert process.wait() == code
    assert not (tmp_path / "model").exists()
    subprocess.run(command("resume_train.py", logs, tmp_path, "--quiet"), check=True)
    assert digests(tmp_path) == straight


@pytest.mark.slow
def test_killed_in_the_fit_stage_and_resumed(logs: tuple[Path, Path], straight: dict[str, str], tmp_path: Path) -> None:
    def killed_in_fit_stage(folder: Path) -> bool:
        process = subprocess.Popen(command("train.py", logs, folder, *FLAGS, "--num_epochs", str(EPOCHS), "--quiet"))

        def reached() -> bool:
            states = [json.loads(path.read_text()) for path in folder.glob("checkpoint-*/trainer_state.json")]
            return any(state["phase"] == "fit" for state in states)

        wait_for(process, reached)
        process.kill()
        process.wait()
        return reached() and not (folder / "model").exists()

    # A busy machine may notice the stage only after it: then the kill hit nothing, and another run must be hit.
    folder = next((folder for folder in (tmp_path / str(n) for n in range(5)) if killed_in_fit_stage(folder)), None)
    assert folder is not None, "five runs had saved their model before they could be killed"
    finished = subprocess.run(command("resume_train.py", logs, folder), check=True, capture_output=True, text=True)
    assert "only the fit stage is left" in finished.stderr
    assert digests(folder) == straight


@pytest.mark.slow
def test_the_command_of_the_readme(logs: tuple[Path, Path], tmp_path: Path) -> None:
    """`resume_train.py ... --use_best_checkpoint --detection_method knn`, settings taken from the checkpoint."""
    subprocess.run(command("train.py", logs, tmp_path, *FLAGS, "--num_epochs", "2", "--quiet"), check=True)
    flags = ["--use_best_checkpoint", "--detection_method", "knn"]
    finished = subprocess.run(
        command("resume_train.py", logs, tmp_path, *flags), check=True, capture_output=True, text=True
    )
    assert "detection_method" in finished.stderr
    model = json.loads((tmp_path / "model" / "model.json").read_text())
    assert model["settings"]["detection_method"] == "knn"
    assert model["settings"]["session_regex"] == SHOP_SESSION
