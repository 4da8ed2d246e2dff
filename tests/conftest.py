"""Fixtures of the command line: run a command in this process, and one trained model for all tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
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
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a subcommand in this process."""

    def call(*arguments: str | Path) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


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
