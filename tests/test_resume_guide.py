"""Every command of docs/resume.md runs as it stands there; every row of its acceptance list names tests that exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked
from support import ROOT, shop_log

#: No command of the guide takes as long on a small log, whatever else the machine does.
TIMEOUT_S = 300
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, err = tmp_path / "out", tmp_path / "err"
    ran = 0
    for command in commands():
        steps = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint/checkpoint-*"))
        line = command
        for step in (steps[0], steps[-1]) if steps else ():
            line = line.replace("STEP", str(step), 1)
        program, *arguments = shlex.split(line)
        if program == "python":
            code = Forked(*arguments, cwd=tmp_path, stdout=out, stderr=err).wait(TIMEOUT_S)
        else:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
            with open(out, "wb") as stdout, open(err, "wb") as stderr:
                code = subprocess.run(launcher, cwd=tmp_path, env=environment, stdout=stdout, stderr=stderr).returncode
        assert code == 0, f"{line}\n{out.read_text()}\n{err.read_text()}"
        assert "Traceback" not in err.read_text()
        if "--verify" in line:
            assert "verified: " in out.read_text()
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
