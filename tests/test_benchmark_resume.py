"""The benchmark of resume runs, ours alone, and fills its tables."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from forked import Forked, start_server
from support import ROOT

DOCUMENT = "# Resume\n\nbefore\n<!-- resume tables begin -->\nold\n<!-- resume tables end -->\nafter\n"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program on smaller logs, its processes forked."""
    spec = importlib.util.spec_from_file_location("benchmark_resume", ROOT / "tests" / "benchmarks" / "resume.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "benchmark_resume", module)  # dataclasses look for it there
    spec.loader.exec_module(module)

    @contextmanager
    def running(arguments: Sequence[str], output: Path) -> Iterator[Forked]:
        process = Forked(*arguments, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)

    make_data = module.make_data
    monkeypatch.setattr(module, "running", running)
    monkeypatch.setattr(module, "make_data", lambda folder, n_sessions: make_data(folder, max(1000, n_sessions // 3)))
    return module


@pytest.mark.slow
def test_a_quick_run_fills_the_tables_and_leaves_nothing_behind(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, temporary = tmp_path / "resume.md", tmp_path / "temporary"
    document.write_text(DOCUMENT)
    temporary.mkdir()
    start_server()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(sys, "argv", ["resume.py", "--quick", "--only", "ours", "--output", str(document)])
    benchmark.main()
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
