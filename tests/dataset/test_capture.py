"""The capture program: its plan, and a tiny capture where PostgreSQL is at hand."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from postgres_server import find_binaries
from session_labels import read_labels, read_sessions
from summary import PARTS, read_log

CAPTURE = Path(__file__).resolve().parents[2] / "dataset" / "capture.py"

needs_psycopg = pytest.mark.skipif(
    find_spec("psycopg") is None, reason="psycopg is not installed: pip install .[capture]"
)
needs_postgres = pytest.mark.skipif(find_binaries() is None, reason="PostgreSQL's server programs are not installed")


@needs_psycopg
def test_the_plan_is_the_seeds() -> None:
    from capture import plan_part

    plan = plan_part("train", 300, 60.0, seed=1)
    assert plan == plan_part("train", 300, 60.0, seed=1)
    assert plan != plan_part("train", 300, 60.0, seed=2)
    assert all(0 <= event.second <= 60 for event in plan)
    assert [event.second for event in plan] == sorted(event.second for event in plan)


@needs_psycopg
def test_new_kinds_are_planned_for_test_alone() -> None:
    from capture import plan_part

    planned = {part: {event.name for event in plan_part(part, 900, 60.0, seed=1) if event.is_fault} for part in PARTS}
    assert planned["test"] - planned["train"] - planned["eval"] >= {"disk_full", "backdoor", "port_scan"}
    assert planned["eval"] <= planned["train"]


@pytest.mark.slow
@needs_psycopg
@needs_postgres
def test_a_tiny_capture_labels_every_session(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(prefix="tiny_capture_"))
    place.chmod(0o755)
    options = ["--sessions", "60", "--minutes", "0.3", "--port", str(50_000 + os.getpid() % 10_000)]
    options += ["--output_dir", str(tmp_path), "--server_dir", str(place / "server")]
    try:
        subprocess.run([sys.executable, str(CAPTURE), *options], check=True, timeout=120)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    labels = read_labels(tmp_path / "labels.csv")
    assert {session for part in PARTS for session in read_sessions(read_log(tmp_path, part))} == set(labels)
    kinds = {kind for _, kind in labels.values()}
    assert kinds >= {"normal", "deadlock", "backend_killed", "crash_recovery", "password_guessing", "disk_full"}
