"""Every command that the README shows is run, in a folder of its own, in the order in which it stands there."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def commands(path: Path) -> list[str]:
    """Commands in fenced blocks (not the output of the demo) and in code spans."""
    text = path.read_text("utf-8")
    found = []
    for block in re.findall(r"^```\n(.*?)^```", text, re.M | re.S):
        if not block.lstrip().startswith("$"):
            found += [line for line in block.splitlines() if re.match(r"(\S*ai-detect|python|make|zcat) ", line)]
    prose = re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S)
    found += [
        span
        for span in re.findall(r"`([^`\n]+)`", prose)
        if re.match(r"(zcat .*\| )?ai-detect [a-z]+ -|ai-detect [a-z]+ [a-z]+$", span)
    ]
    return found


def test_both_languages_show_the_same_commands() -> None:
    assert commands(CHINESE) == commands(README)
    assert len(commands(README)) >= 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the project, where commands may write."""
    made = tmp_path_factory.mktemp("readme")
    for name in ("ai_detect", "dataset"):
        (made / name).symlink_to(ROOT / name)
    lines = gzip.decompress((ROOT / "dataset" / "eval.log.gz").read_bytes()).splitlines(keepends=True)
    (made / "app.log").write_bytes(b"".join(lines[:6000]))
    (made / "today.log").write_bytes(b"".join(lines[6000:9000]))
    with gzip.open(made / "today.log.gz", "wb") as file:
        file.writelines(lines[6000:9000])
    (made / "bin").mkdir()
    for name, program in (("ai-detect", Path(sys.executable).parent / "ai-detect"), ("python", sys.executable)):
        # a link would leave the virtual environment
        (made / "bin" / name).write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
        (made / "bin" / name).chmod(0o755)
    return made


@pytest.mark.slow
def test_every_command_runs(folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    if not (Path(sys.executable).parent / "ai-detect").exists():
        pytest.skip("the console command is not installed beside this Python")
    ran = 0
    for command in commands(README):
        if command.startswith("make ") or "benchmarks" in command:
            continue  # test_the_two_commands; the benchmark takes minutes
        if "--engine ray" in command and importlib.util.find_spec("ray") is None:
            continue  # an extra
        line = command.replace(".venv/bin/", "").replace("/path/to/", "./")
        if "COMMAND" in line:
            line = line.replace("COMMAND", "detect")
        done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += 1
        if "--output_dir -" in line:
            assert all(json.loads(found)["schema_version"] for found in done.stdout.splitlines())
    assert ran >= 6
    assert (folder / "output" / "app" / "report.html").is_file()


def test_the_two_commands() -> None:
    """What make would do; the demo itself is run by test_demo."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    for target, part in (("demo", "tests/demo.py"), ("test", "-m pytest")):
        plan = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        assert part in plan.stdout
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """The demo is interrupted, resumes and ends with its reports, twice, in a copy with the head of the logs."""
    for name in ("ai_detect", "dataset", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "dataset").glob("*.log.gz"):
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        path.write_bytes(gzip.compress(b"".join(lines[: len(lines) // 5])))
    for _ in range(2):
        done = subprocess.run([sys.executable, "tests/demo.py"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for name in ("report.html", "evaluation_report.html"):
            assert (tmp_path / "output" / "demo" / name).is_file()
            assert name in done.stdout


def test_the_flags_that_the_readme_names_exist() -> None:
    from ai_detect.cli.main import COMMANDS

    known = {
        f"--{field.alias or name}"
        for command in COMMANDS.values()
        for name, field in command.settings.model_fields.items()
    } | {"--help", "--version"}
    for path in (README, CHINESE):
        named = set(re.findall(r"--[a-z_]{3,}", path.read_text("utf-8"))) - {"--output", "--nproc_per_node"}  # not ours
        assert named <= known, named - known
