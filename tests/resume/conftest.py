"""Fixtures of the acceptance list: runs of the command line that many rows look at, trained once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import SHOP_SESSION, shop_log

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / "training")]  # for kill_points, and for training_toy

from kill_points import Chain, Trained, killed_chain  # noqa: E402

from ai_detect.training import trainer  # noqa: E402
from ai_detect.training.encoder_task import EncoderTask  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test can see what a power failure would, and no full disk here gets room again: waits are most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(trainer, "FINAL_WAITS_S", (0.0, 0.0))
        yield


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A log to train on, of 50 sessions, and one to validate on."""
    folder = tmp_path_factory.mktemp("logs")
    (folder / "train.log").write_text(shop_log(50, seed=1))
    (folder / "eval.log").write_text(shop_log(15, seed=2))
    return folder / "train.log", folder / "eval.log"


@pytest.fixture(scope="session")
def finished(logs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of 10 epochs of 5 steps that came to its end, best after epoch 7, its folder moved since; read only."""
    losses = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.01, 0.3, 0.2, 0.1])
    folder = tmp_path_factory.mktemp("finished")
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "10", "--batch_size", "10", "--learning_rate", "0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EncoderTask, "validation_loss", lambda task: next(losses))
        ended = Trained(*logs, folder / "as trained").run("train", *flags, "--not_early_stopping")
    assert ended.code == 0, ended.err
    shutil.move(folder / "as trained", folder / "moved")
    return Trained(*logs, folder / "moved")


@pytest.fixture
def trained(finished: Trained, tmp_path: Path) -> Trained:
    """A copy of the finished run, to do with as one likes."""
    return finished.copied_to(tmp_path / "run")


@pytest.fixture(scope="session")
def straight(logs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Four epochs on the command line, never touched."""
    return killed_chain(Trained(*logs, tmp_path_factory.mktemp("straight") / "run"), [])


@pytest.fixture(scope="session")
def chain(logs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The same run killed at every kind of instant, and resumed each time."""
    points = ["step:1", "step:8", "step:4", "validation:2", "save:3", "fit"]
    return killed_chain(Trained(*logs, tmp_path_factory.mktemp("chain") / "run"), points)
