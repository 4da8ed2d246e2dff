"""What training costs, beside two published models: one command makes the tables of docs/benchmarks-training.md.

    python tests/benchmarks/training.py --output docs/benchmarks-training.md [--rounds 5] [--steps 10] [--threads 2]

The programs take turns on the same HDFS sessions in one process with one number of threads, so that what else the
machine does falls on all of them; shown are medians over the rounds, by the clock and by the processor. Then train.py
runs as it is, as a fresh process whose stages note their times.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from detection_splits import PROTOCOLS, ROOT
from detection_tables import replace_between
from training_peers import DeepLog, LogBert

from ai_detect.config import RunSettings
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.process_group import ALONE
from ai_detect.run_encoder import samples_of, training_task, untrained_encoder
from ai_detect.sequences.parsed_log import learn_log
from ai_detect.sequences.windowing import distinct_sequences, split_tail
from ai_detect.tables import Int64Array, SequenceTable
from ai_detect.training.optimizer import AdamW
from ai_detect.training.schedule import epoch_order

SESSION = r"blk_-?\d+"
OURS = "ours: session, light view and damaged copy"
#: What train.py is run by: its stages by the functions that they are, in seconds of the clock.
_STAGES = """
import json, sys, time
from collections import defaultdict
spent, begun = defaultdict(float), time.perf_counter()
inside = []
def timed(owner, name, stage):
    inner = getattr(owner, name)
    def outer(*given, **options):
        start = time.perf_counter()
        inside.append(0.0)
        try:
            return inner(*given, **options)
        finally:
            total = time.perf_counter() - start
            spent[stage] += total - inside.pop()
            if inside:
                inside[-1] += total
    setattr(owner, name, classmethod(lambda cls, *given, **options: outer(*given, **options))
            if hasattr(inner, "__self__") else outer)
from ai_detect.cli import train_command
from ai_detect.training import trainer
from ai_detect.pipeline import LogAnomalyPipeline
spent["imports"] = time.perf_counter() - begun
timed(train_command, "learn_log", "parsing")
timed(trainer._Run, "step", "steps")
timed(trainer._Run, "evaluate", "validation")
for name in ("save", "collect", "finish"):
    timed(trainer._Run, name, "checkpoints")
timed(LogAnomalyPipeline, "fit", "detectors fitted")
timed(LogAnomalyPipeline, "save", "model saved")
timed(LogAnomalyPipeline, "score", "log scored")
from ai_detect.cli.main import main
code = main(["train", *sys.argv[2:]])
spent["reports and all else"] = time.perf_counter() - begun - sum(spent.values())
open(sys.argv[1], "w").write(json.dumps(spent))
sys.exit(code)
"""


def training_sessions(log: Path, settings: RunSettings) -> tuple[TemplateMiner, SequenceTable]:
    """What train.py would train on: the first four fifths of the sessions."""
    with tempfile.TemporaryDirectory() as folder:
        parsed, miner = learn_log(str(log), settings, Path(folder))
        head, _ = split_tail(parsed.events, parsed.sessions, settings.eval_ratio)
        return miner, parsed.sequences.take(np.sort(head))


@dataclass(frozen=True)
class Program:
    """What takes a step: on batches of so many of its samples, each of which stands for some sessions on average."""

    steps: Callable[[Sequence[Int64Array]], None]
    batch_size: int
    n_samples: int
    sessions_each: float = 1.0


def our_steps(miner: TemplateMiner, sessions: SequenceTable, settings: RunSettings) -> Program:
    """Steps as the trainer takes them."""
    model, samples = untrained_encoder(settings, miner), samples_of(sessions)
    task = training_task(model, sessions, samples, None, settings, ALONE)
    optimizer = AdamW(model, settings.weight_decay)
    model.train()

    def steps(batches: Sequence[Int64Array]) -> None:
        for indices, following in pairwise([*batches, np.zeros(0, np.int64)]):
            optimizer.zero_grad()
            loss, _ = task.training_loss(indices, 0)
            task.prepare(following, 0)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step(settings.learning_rate)

    return Program(steps, settings.batch_size, len(samples), int(samples.copies.sum()) / len(samples))


def their_steps(program: DeepLog | LogBert, n_sessions: int) -> Program:
    """Steps of a model that sees every session."""

    def steps(batches: Sequence[Int64Array]) -> None:
        for indices in batches:
            program.step(indices)

    return Program(steps, program.batch_size, n_sessions)


def speeds(log: Path, n_rounds: int, n_steps: int) -> str:
    """The table of sessions a second."""
    settings = RunSettings(session_regex=SESSION)
    miner, sessions = training_sessions(log, settings)
    torch.manual_seed(0)
    n = len(sessions)
    programs = {
        OURS: our_steps(miner, sessions, settings),
        "DeepLog: LSTM, every window": their_steps(DeepLog(sessions, once=False), n),
        "DeepLog: equal windows of a batch once": their_steps(DeepLog(sessions, once=True), n),
        "LogBERT-like: masked transformer": their_steps(LogBert(sessions), n),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for at in range(n_rounds + 1):  # the first warms up
        for name, program in programs.items():
            order = epoch_order(program.n_samples, 0, 0)
            batches = np.resize(order, n_steps * program.batch_size).reshape(n_steps, program.batch_size)
            begun = time.perf_counter(), time.process_time()
            program.steps(batches)
            spent = time.perf_counter() - begun[0], time.process_time() - begun[1]
            if at:
                n_sessions = batches.size * program.sessions_each
                rates[name].append((n_sessions / spent[0], n_sessions / spent[1]))
    n_distinct, ours = len(distinct_sequences(sessions)[0]), programs[OURS]
    lines = [
        f"{n:,} sessions to train on, {n_distinct:,} of them distinct, for which {ours.n_samples:,} samples stand; "
        f"{torch.get_num_threads()} threads, "
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; load average "
        f"{os.getloadavg()[0]:.1f} at the end; medians of {n_rounds} rounds of {n_steps} batches.\n",
        "| program | batch | sessions/s of the clock | of the processor | s an epoch, clock | ours is faster by |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in rates.items()
    }
    for name, (clock, processor) in medians.items():
        ratio = statistics.median(ours[1] / other[1] for ours, other in zip(rates[OURS], rates[name], strict=True))
        lines.append(
            f"| {name} | {programs[name].batch_size} | {clock:,.0f} | {processor:,.0f} | {n / clock:.1f} "
            f"| {ratio:.2f} |"
        )
    return "\n".join([*lines, ""])


def stages(log: Path, n_threads: int) -> str:
    """The table of where train.py spends its time."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flags = ["--train_file", str(log), "--session_regex", SESSION, "--quiet"]
        flags += ["--checkpoint_dir", str(folder / "run"), "--output_dir", str(folder / "out")]
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(n_threads)}
        program = [sys.executable, "-c", _STAGES, str(folder / "stages.json"), *flags]
        begun = time.perf_counter()
        process = subprocess.Popen(
            program, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"train.py ended with {process.returncode}")
        spent: dict[str, float] = json.loads((folder / "stages.json").read_bytes())
    lines = [
        f"Whole process: {seconds:.1f} s of the clock, {usage.ru_utime + usage.ru_stime:.1f} s of the processor, peak "
        f"{usage.ru_maxrss / 1024:,.0f} MB; {n_threads} threads; load average {os.getloadavg()[0]:.1f} at the end.\n",
        "| part of train.py | s of the clock | share |",
        "|---|--:|--:|",
    ]
    lines += [f"| {stage} | {part:.1f} | {part / seconds:.0%} |" for stage, part in spent.items()]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print, and put the tables into the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="batches of each program a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--part", nargs="*", choices=["speeds", "stages"], default=["speeds", "stages"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    made: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "HDFS.log"
        with gzip.open(PROTOCOLS["hdfs"].log, "rb") as packed, log.open("wb") as plain:
            shutil.copyfileobj(packed, plain)
        if "stages" in arguments.part:
            made["stages"] = stages(log, arguments.threads)
        if "speeds" in arguments.part:
            made["speeds"] = speeds(log, arguments.rounds, arguments.steps)
    print("\n".join(made.values()))
    if arguments.output:
        text = arguments.output.read_text("utf-8")
        for kind, tables in made.items():
            text = replace_between(text, kind, tables)
        arguments.output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
