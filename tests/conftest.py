"""Fixtures of the command line: run a command in this process, and one trained model for all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Read when torch is imported: models this small gain nothing from a second thread, which here runs other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from support import SHOP_SESSION, Result, Run, Shop, shop_log

from ai_detect.cli.main import main


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """Commands log to the standard error that they found; pytest gives each test another."""
    yield
    logger = logging.getLogger("ai_detect")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a subcommand in this process, in a folder of its own: what has a default place is written there."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of the report is left empty: drawing it is half of the time of a small run."""
    monkeypatch.setattr("ai_detect.reporting.report.detection_report", lambda *given, **options: "")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Train once for all tests of the command line."""
    folder = tmp_path_factory.mktemp("shop")
    made = Shop(
        folder,
        folder / "train.log",
        folder / "test.log",
        folder / "labels.csv",
        folder / "checkpoint",
        folder / "output",
    )
    faulty = (17, 58, 91)
    made.train.write_text(shop_log(240, seed=1))
    made.test.write_text(shop_log(120, seed=2, faulty=faulty))
    rows = [f"request-{number:05},{'Anomaly' if number in faulty else 'Normal'}" for number in range(120)]
    made.labels.write_text("session,label\n" + "\n".join(rows) + "\n")
    flags = ["--session_regex", SHOP_SESSION, "--num_epochs", "3", "--batch_size", "32", "--quiet"]
    folders = ["--checkpoint_dir", str(made.checkpoints), "--output_dir", str(made.output)]
    assert main(["train", "--train_file", str(made.train), *flags, *folders]) == 0
    return made
