"""`make demo`: the main job on the bundled PostgreSQL log, from training to the report, interrupted and resumed
on the way.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = Path("checkpoint/demo")
OUTPUT = Path("output/demo")
FOLDERS = ["--checkpoint_dir", f"./{CHECKPOINTS}", "--output_dir", f"./{OUTPUT}"]
TRAIN = ["--train_file", "./dataset/train.log", "--eval_file", "./dataset/eval.log"]


def _start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = ["python", f"ai_detect/{script}", *arguments]
    print(f"\n$ {shlex.join(command)}", flush=True)
    return subprocess.Popen([sys.executable, *command[1:]], cwd=ROOT)


def _run(script: str, *arguments: str, expected: int = 0) -> None:
    code = _start(script, *arguments).wait()
    if code != expected:
        sys.exit(f"{script} ended with exit code {code}, expected {expected}")


def n_checkpoints(folder: Path, since: float) -> int:
    """Checkpoints written since then; those of an earlier demo are moved away meanwhile."""
    with suppress(FileNotFoundError):
        return sum(path.stat().st_mtime >= since for path in folder.glob("checkpoint-*"))
    return 0


def main() -> None:
    """Train, interrupt, resume, detect, evaluate; exits non-zero where a step does not end as it should."""
    begun, since = time.monotonic(), time.time()
    os.chdir(ROOT)
    training = _start("train.py", *TRAIN, "--session_field", "session", *FOLDERS, "--overwrite")
    while training.poll() is None and n_checkpoints(CHECKPOINTS, since) < 2:
        time.sleep(0.1)
    if training.poll() is None:
        print("\n(demo: Ctrl-C in the middle of training)", flush=True)
        training.send_signal(signal.SIGINT)
    if (code := training.wait()) != 130:
        sys.exit(f"train.py ended with exit code {code}, expected 130 after the interruption")
    _run("resume_train.py", *TRAIN, *FOLDERS)
    model = ["--model_dir", f"./{CHECKPOINTS}", "--output_dir", f"./{OUTPUT}"]
    _run("detect.py", "--log_file", "./dataset/test.log", *model)
    _run(
        "evaluate.py",
        "--test_file",
        "./dataset/test.log",
        "--label_file",
        "./dataset/labels.csv",
        *model,
        "--eval_all_methods",
    )
    print(f"\ndone in {time.monotonic() - begun:.0f} s; open these in a browser:")
    for name in ("report.html", "evaluation_report.html"):
        print(f"  {(ROOT / OUTPUT / name).as_uri()}")


if __name__ == "__main__":
    main()
