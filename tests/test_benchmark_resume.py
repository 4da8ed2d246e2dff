"""The benchmark of resume runs, ours alone, and fills its tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

DOCUMENT = "# Resume\n\nbefore\n<!-- resume tables begin -->\nold\n<!-- resume tables end -->\nafter\n"


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 12 processes one after the other, some 80 s where the machine has nothing else to do
def test_a_quick_run_fills_the_tables_and_leaves_nothing_behind(tmp_path: Path) -> None:
    document, temporary = tmp_path / "resume.md", tmp_path / "temporary"
    document.write_text(DOCUMENT)
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "tests/benchmarks/resume.py", "--quick", "--only", "ours", "--output", str(document)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = document.read_text()
    assert text.startswith("# Resume\n\nbefore\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    torch_alone, start, saves, faults = [row for row in rows if row[0] in ("`import torch` alone", "ai_detect")]
    seconds = r"\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)"
    assert all(re.fullmatch(seconds, cell) for cell in [*torch_alone[1:], *start[1:]]) and len(start) == 4
    _, parameters, count, held_up, at_end, share = saves
    assert int(parameters.replace(",", "")) > 100_000 and int(count) >= 3
    assert re.fullmatch(r"\d+\.\d \(.*\)", held_up) and re.fullmatch(r"\d+\.\d", at_end)
    assert re.fullmatch(r"\d+\.\d\d %", share)
    assert faults[1] == "same bytes"
    assert len(faults) == 5
    assert set(faults[2:]) == {"falls back to checkpoint-15, says so; same bytes"}
    assert not list(temporary.iterdir())
