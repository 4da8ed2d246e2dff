"""Runs of the real command line in processes of their own, and what must not depend on how often they are killed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from forked import Forked, Process
from support import ROOT, SHOP_SESSION, shop_log

SABOTEUR = Path(__file__).with_name("saboteur.py")
#: One thread: two of them wait for each other on a busy machine. Both runs of a comparison have the same.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
#: No save may be cut short by a slow disk of the machine that tests.
TIMEOUT_S = 240


@dataclass(frozen=True)
class Job:
    """One run: its logs, its flags and its folder."""

    train_log: Path
    eval_log: Path
    flags: tuple[str, ...]
    folder: Path

    @classmethod
    def make(cls, folder: Path, n_sessions: int, *flags: str) -> Job:
        """A job on a small shop's log, written beside the folder of the run."""
        folder.mkdir(parents=True, exist_ok=True)
        train_log, eval_log = folder / "train.log", folder / "eval.log"
        train_log.write_text(shop_log(n_sessions, seed=1))
        eval_log.write_text(shop_log(30, seed=2, faulty=(7, 20)))
        return cls(train_log, eval_log, ("--session_regex", SHOP_SESSION, *flags), folder / "run")

    def at(self, folder: Path) -> Job:
        """The same job in another folder."""
        return Job(self.train_log, self.eval_log, self.flags, folder)

    def arguments(self, *more: str) -> list[str]:
        """What to call the command line with: train where there is no checkpoint yet, else resume."""
        files = ["--train_file", str(self.train_log), "--eval_file", str(self.eval_log)]
        folders = ["--checkpoint_dir", str(self.folder), "--output_dir", str(self.folder / "output")]
        begun = any(self.folder.glob("checkpoint-*/manifest.json"))
        return ["resume", *files, *folders, *more] if begun else ["train", *files, *folders, *self.flags, *more]

    def process(self, point: str = "never", number: int = 0, *more: str, stderr: Path | None = None) -> Forked:
        """Start it, with a signal to itself at a point."""
        return Forked(SABOTEUR, point, str(int(number)), *self.arguments(*more), stderr=stderr)

    def run(self, point: str = "never", number: int = 0, *more: str) -> tuple[int, str]:
        """Exit code and standard error of the process."""
        with tempfile.NamedTemporaryFile() as stderr:
            code = self.process(point, number, *more, stderr=Path(stderr.name)).wait(TIMEOUT_S)
            return code, stderr.read().decode()

    def processes(self, n: int) -> subprocess.Popen[str]:
        """Start it on n processes."""
        name, *arguments = self.arguments()
        script = {"train": "train.py", "resume": "resume_train.py"}[name]
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={n}", "--standalone"]
        command = [*launcher, str(ROOT / "ai_detect" / script), *arguments]
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run_on(self, n: int) -> tuple[int, str]:
        """Exit code and standard error of n processes' launcher."""
        launcher = self.processes(n)
        err = launcher.communicate(timeout=TIMEOUT_S)[1]
        return launcher.returncode, err

    def step(self) -> int:
        """The last step in metrics.jsonl, 0 before the first."""
        try:
            return int(json.loads((self.folder / "metrics.jsonl").read_bytes().splitlines()[-1])["step"])
        except (OSError, IndexError, ValueError):
            return 0

    def newest(self) -> Path:
        """The checkpoint of the largest step."""
        return self.checkpoints()[-1]

    def checkpoints(self) -> list[Path]:
        """The folders of that name, by step."""
        return sorted(self.folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))

    def state(self) -> dict[str, object]:
        """trainer_state.json of the newest checkpoint."""
        state: dict[str, object] = json.loads((self.newest() / "trainer_state.json").read_bytes())
        return state


def wait_until(process: Process, reached: Callable[[], bool], after_s: float = 0.0) -> bool:
    """Wait for something that the process does; False where it ended before."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if reached():
            time.sleep(after_s)
            return process.poll() is None
        time.sleep(0.002)
    return False


HISTORY = ("step", "epoch", "samples_in_epoch", "loss_steps", "train_losses", "val_losses", "learning_rates")
PATIENCE = ("best_val_loss", "best_step", "patience_counter", "stopped")


def ending(job: Job, leave_out: Sequence[str] = ()) -> dict[str, str]:
    """sha256 of weights, optimizer, detectors, metrics and scores, and the histories, of a finished run."""
    state = job.state()
    folder = job.folder
    files = [job.newest() / name for name in ("model.safetensors", "optimizer.pt", "templates.json")]
    files += [folder / "metrics.jsonl", folder / "output" / "scores.csv"]
    files += [path for path in (folder / "model").iterdir() if path.name != "model.json"]  # it names the resumes
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    found |= {name: json.dumps(state[name]) for name in (*HISTORY, *PATIENCE)}
    return {name: value for name, value in found.items() if name not in leave_out}
