"""Every command of docs/resume.md runs as it stands there; every row of its acceptance list names tests that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, shop_log

GUIDE = (ROOT / "docs" / "resume.md").read_text("utf-8")


def commands() -> list[str]:
    """Lines of fenced blocks that call the program."""
    blocks = re.findall(r"^```\n(.*?)^```", GUIDE, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith(("python ", "torchrun "))]


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path) -> None:
    (tmp_path / "ai_detect").symlink_to(ROOT / "ai_detect")
    (tmp_path / "dataset").mkdir()
    for name, n, seed in (("train", 150, 1), ("eval", 40, 2), ("new", 150, 3)):
        (tmp_path / "dataset" / f"{name}.log").write_text(shop_log(n, seed))
    (tmp_path / "bin").mkdir()
    for name, program in (("python", ""), ("torchrun", " -m torch.distributed.run --standalone")):
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{program} "$@"\n')
        script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    ran = 0
    for command in commands():
        steps = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint/checkpoint-*"))
        line = command
        for step in (steps[0], steps[-1]) if steps else ():
            line = line.replace("STEP", str(step), 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if "--verify" in line:
            assert "verified: " in done.stdout
        ran += 1
    assert ran >= 14


def test_every_row_of_the_acceptance_list_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (R\d+) \|.*\| ([^|]+) \|$", GUIDE, re.M)
    assert [row for row, _ in rows] == [f"R{number}" for number in range(1, 37)]
    for row, named in rows:
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", named)
        assert tests, row
        for file, name in tests:
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text("utf-8"), re.M), (row, file, name)
        number = int(row[1:])
        assert any(name.startswith(f"test_r{number:02d}_") for _, name in tests), row


def test_the_flags_that_the_guide_names_exist() -> None:
    from ai_detect.cli.main import COMMANDS

    known = {
        f"--{field.alias or name}"
        for command in COMMANDS.values()
        for name, field in command.settings.model_fields.items()
    }
    mine = GUIDE.split("## If you come from another guide")[0]
    named = set(re.findall(r"--[a-z_]{3,}", mine)) - {
        "--nproc_per_node",
        "--nnodes",
        "--rdzv_backend",
        "--rdzv_endpoint",
    }
    assert named <= known, named - known
