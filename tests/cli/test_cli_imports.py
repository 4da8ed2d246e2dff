"""What a command does not import: start-up is most of the time of a short run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, SHOP_SESSION, Shop

#: Packages that cost a tenth of a second or more, and whether anything of them is there once the command is done.
_PROBE = """
import sys
sys.path[:0] = [{root!r}]
from ai_detect.cli.main import main
try:
    main({arguments!r})
finally:
    print(*[name for name in {heavy!r} if name in sys.modules], file=sys.stderr, sep=",")
"""
_HEAVY = ("torch", "pyod", "sklearn", "scipy", "pandas", "numba", "matplotlib")


def imported(*arguments: str, heavy: tuple[str, ...] = _HEAVY) -> str:
    program = _PROBE.format(root=str(ROOT), arguments=list(arguments), heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()[-1]


def test_the_overview_of_commands_imports_next_to_nothing() -> None:
    assert imported("--help", heavy=(*_HEAVY, "numpy", "pydantic")) == ""


def test_the_flags_of_a_command_import_no_arithmetic() -> None:
    assert imported("train", "--help", heavy=(*_HEAVY, "ai_detect.pipeline")) == ""


def test_parsing_imports_neither_torch_nor_detectors(tmp_path: Path, shop: Shop) -> None:
    heavy = tuple(name for name in _HEAVY if name != "numba")
    assert imported("parse", "--log_file", str(shop.test), "--output_dir", str(tmp_path), heavy=heavy) == ""


@pytest.mark.parametrize("method", ["ensemble", "iforest", "knn"])
def test_scoring_imports_neither_torch_nor_pyod(tmp_path: Path, shop: Shop, method: str) -> None:
    heavy = tuple(name for name in _HEAVY if name != "numba")
    arguments = ["--log_file", str(shop.test), "--model_dir", str(shop.model), "--output_dir", str(tmp_path)]
    flags = ["--session_regex", SHOP_SESSION, "--quiet", "--format", "csv", "--detection_method", method]
    assert imported("detect", *arguments, *flags, heavy=heavy) == ""
    assert (tmp_path / "scores.csv").stat().st_size > 1000
