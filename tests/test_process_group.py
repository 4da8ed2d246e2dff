"""Processes that torchrun starts add up to what one would compute; one alone needs nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT

from ai_detect.process_group import ALONE, torchrun_processes

WORKER = Path(__file__).with_name("process_group_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_a_group_computes_what_one_process_does(tmp_path: Path, n: int) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={n}", "--standalone"]
    done = subprocess.run(
        [*launcher, str(WORKER), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("done-*")) == [f"done-{rank}" for rank in range(n)]


def test_alone_every_operation_is_the_identity() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    assert ALONE.gather_rows(rows) == (rows, 0)
    assert ALONE.total(rows) is rows
    assert ALONE.share(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert ALONE.told_by(0, {"a": 1}) == {"a": 1}
    assert ALONE.largest(3, 4) == [3, 4]


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # set by a scheduler for something else
    monkeypatch.delenv("RANK", raising=False)
    with torchrun_processes() as group:
        assert group is ALONE
