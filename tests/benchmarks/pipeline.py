"""What train and detect cost and find on every log at hand: one command makes the table in docs/benchmarks.md.

    python tests/benchmarks/pipeline.py --output docs/benchmarks.md [--only hdfs] [--seed 0]

Every row is two fresh processes, train.py and detect.py with default settings; seconds and peak memory are those of
the whole process, imports included. Labels are read here alone, after scoring. Beside our figures stand, from the same
split, the parser that everybody has (plain Drain3 with the same masks) and the best of the usual baselines on counts.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detection_splits import DATA, PROTOCOLS, ROOT

from ai_detect.config import InputSettings
from ai_detect.evaluation.baselines import run_baselines
from ai_detect.evaluation.metrics import measure as measure_quality
from ai_detect.ingest.labels import read_label_file
from ai_detect.sequences.parsed_log import learn_log, match_log
from ai_detect.tables import BoolArray, Float64Array

BEGIN, END = "<!-- pipeline table begins -->", "<!-- pipeline table ends -->"


@dataclass(frozen=True)
class Case:
    """One log, split into what is trained on and what is scored."""

    name: str
    train: str
    test: str
    flags: tuple[str, ...] = ()
    labels: Path | None = None


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from file


def _write(path: Path, lines: Sequence[bytes]) -> str:
    path.write_bytes(b"".join(lines))
    return str(path)


def _labelled(name: str, folder: Path, seed: int) -> Iterator[Case]:
    """The clean and the contaminated split of a labelled log."""
    for mode, contamination in (("clean", 0.0), ("contaminated", None)):
        split = PROTOCOLS[name].split(folder / f"{name}-{mode}", seed, contamination)
        yield Case(f"{name}, {mode}", str(split.train), str(split.test), split.flags, split.labels)


def _halves(name: str, log: Path, folder: Path, change: Callable[[bytes], bytes] = lambda line: line) -> Iterator[Case]:
    lines = [change(line) for line in _lines(log)]
    half = len(lines) // 2
    yield Case(name, _write(folder / f"{name}-1.log", lines[:half]), _write(folder / f"{name}-2.log", lines[half:]))


def _as_json(line: bytes) -> bytes:
    text = line.decode("utf-8", "replace").rstrip("\n")
    month, day, clock, host, message = [*text.split(None, 4), "", "", "", "", ""][:5]
    return (json.dumps({"time": f"{month} {day} {clock}", "host": host, "message": message}) + "\n").encode()


def _hadoop(folder: Path) -> Iterator[Case]:
    with tarfile.open(DATA / "hadoop" / "hadoop_raw.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    applications = sorted((folder / "hadoop_raw").iterdir())
    for part, chosen in (("train", applications[::2]), ("test", applications[1::2])):
        (folder / f"hadoop-{part}").mkdir()
        for application in chosen:
            application.rename(folder / f"hadoop-{part}" / application.name)
    yield Case("hadoop folder", str(folder / "hadoop-train"), str(folder / "hadoop-test"), ("--session_by_file",))


def cases(folder: Path, seed: int) -> Iterator[tuple[str, Callable[[], Iterator[Case]]]]:
    """Every log of the table and how it is split; made only when it is its turn."""
    for name in ("postgresql", "hdfs", "bgl", "openstack"):
        yield name, lambda name=name: _labelled(name, folder, seed)
    yield "linux", lambda: _halves("linux", DATA / "linux" / "Linux.log.gz", folder)
    yield "json", lambda: _halves("json lines", DATA / "linux" / "Linux.log.gz", folder, _as_json)
    yield "hadoop", lambda: _hadoop(folder)
    for system in ("Apache", "BGL", "HDFS", "Hadoop", "HealthApp", "Linux", "OpenSSH", "Zookeeper"):
        path = DATA / "loghub_2k" / system / f"{system}_2k.log.gz"
        yield f"2k-{system}", lambda path=path, system=system: iter([Case(f"{system} 2k", str(path), str(path))])
    yield "var-log", lambda: iter([Case("/var/log here", "/var/log", "/var/log")])


@dataclass(frozen=True)
class Cost:
    """One process."""

    seconds: float
    peak_mb: float


def run_process(arguments: Sequence[str], stdin: bytes | None = None) -> tuple[Cost, bytes]:
    """Run this interpreter in the root of the project; cost and standard output, RuntimeError where it fails."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as feed:
        feed.write(stdin or b"")
        feed.seek(0)
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=err, stdin=feed, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begun
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{err.read().decode()[-2000:]}")
        return Cost(seconds, usage.ru_maxrss / 1024), out.read()


def _plain_drain3(case: Case) -> float:
    """Lines/s of drain3's own TemplateMiner with our masks on the messages of the test log, in this process."""
    from drain3 import TemplateMiner as Drain3
    from drain3.masking import MaskingInstruction
    from drain3.template_miner_config import TemplateMinerConfig

    from ai_detect.ingest.log_sources import find_sources
    from ai_detect.ingest.messages import MessageReader
    from ai_detect.parsing.masking import DEFAULT_MASKS

    reader = MessageReader(find_sources(case.test), InputSettings(**_reading(case)))
    texts = [text for batch in reader for text in batch.text]
    settings = TemplateMinerConfig()
    settings.masking_instructions = [MaskingInstruction(pattern, name) for name, pattern in DEFAULT_MASKS.patterns]
    miner = Drain3(config=settings)
    begun = time.monotonic()
    for text in texts:
        miner.add_log_message(text)
    return len(texts) / (time.monotonic() - begun)


def _reading(case: Case) -> dict[str, object]:
    names = [flag.removeprefix("--") for flag in case.flags if flag.startswith("--")]
    values = [value for value in case.flags if not value.startswith("--")]
    return {"session_by_file": True} if "session_by_file" in names else dict(zip(names, values, strict=True))


def read_scores(path: Path) -> tuple[list[str], Float64Array, BoolArray]:
    """Sessions, -ln p (what they are ranked by) and alarms of a scores.csv, in its order."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    surprisals = np.array([-np.log(max(float(row["p_value"]), 1e-300)) for row in rows])
    flags = np.array([row["is_anomaly"] in ("1", "True", "true") for row in rows])
    return [row["session"] for row in rows], surprisals, flags


def _quality(case: Case, output: Path, folder: Path) -> tuple[dict[str, float | None], str, float]:
    """Our figures, and the best baseline by AUPRC, on the test log."""
    keys, surprisals, flags = read_scores(output / "scores.csv")
    label_of = read_label_file(case.labels) if case.labels else {}
    labels = np.array([label_of.get(key, -1) for key in keys], np.int8)
    ours = measure_quality(labels, surprisals, flags)
    settings = InputSettings(**_reading(case))
    log, miner = learn_log(case.train, settings, folder / "cache")
    test = match_log(case.test, settings, miner)
    figures = {
        name: measure_quality(labels, baseline.scores, baseline.is_anomaly)["auprc"] or 0.0
        for name, baseline in run_baselines(log.sequences, test.sequences).items()
    }
    best = max(figures, key=lambda name: figures[name])
    return ours, best, figures[best]


def measure(case: Case, folder: Path) -> list[str]:
    """One row of the table."""
    run = Path(tempfile.mkdtemp(dir=folder))
    checkpoints, output = run / "checkpoint", run / "output"
    train, _ = run_process(
        [
            "ai_detect/train.py",
            "--train_file",
            case.train,
            *case.flags,
            "--checkpoint_dir",
            str(checkpoints),
            "--output_dir",
            str(output),
        ]
    )
    trained_lines = json.loads((output / "summary.json").read_text())["n_lines"]
    detect, _ = run_process(
        ["ai_detect/detect.py", "--log_file", case.test, "--model_dir", str(checkpoints), "--output_dir", str(output)]
    )
    summary = json.loads((output / "summary.json").read_text())
    row = [
        case.name,
        f"{trained_lines:,}",
        f"{train.seconds:.1f}",
        f"{trained_lines / train.seconds:,.0f}",
        f"{train.peak_mb:.0f}",
        f"{summary['n_lines']:,}",
        f"{detect.seconds:.1f}",
        f"{summary['n_lines'] / detect.seconds:,.0f}",
        f"{detect.peak_mb:.0f}",
        f"{_plain_drain3(case):,.0f}",
        f"{summary['n_anomalies']:,} / {summary['n_sessions']:,}",
    ]
    if case.labels is None:
        return [*row, "", "", "", ""]
    ours, best, baseline = _quality(case, output, run)
    return [*row, f"{ours['auprc']:.3f}", f"{ours['f1']:.3f}", f"{ours['fpr']:.4f}", f"{baseline:.3f} ({best})"]


def _stdin_row(folder: Path) -> list[str]:
    """`zcat ... | detect --log_file - --output_dir -` with the model of the first case."""
    path = DATA / "linux" / "Linux.log.gz"
    run = Path(tempfile.mkdtemp(dir=folder))
    run_process(
        ["ai_detect/train.py", "--train_file", str(path), "--checkpoint_dir", str(run), "--output_dir", str(run)]
    )
    content = gzip.decompress(path.read_bytes())
    cost, out = run_process(
        ["ai_detect/detect.py", "--log_file", "-", "--output_dir", "-", "--model_dir", str(run)], content
    )
    found = [json.loads(line) for line in out.splitlines()]
    n_lines = content.count(b"\n")
    row = [
        "linux through stdin",
        "",
        "",
        "",
        "",
        f"{n_lines:,}",
        f"{cost.seconds:.1f}",
        f"{n_lines / cost.seconds:,.0f}",
    ]
    return [*row, f"{cost.peak_mb:.0f}", "", f"{len(found)}", "", "", "", ""]


COLUMNS = [
    "log",
    "train lines",
    "train s",
    "lines/s",
    "peak MB",
    "detect lines",
    "detect s",
    "lines/s",
    "peak MB",
    "plain Drain3 lines/s",
    "anomalies / sessions",
    "AUPRC",
    "F1",
    "FPR",
    "best baseline AUPRC",
]


def _table(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    print("| " + " | ".join(COLUMNS) + " |", file=text)
    print("|---" * len(COLUMNS) + "|", file=text)
    for row in rows:
        print("| " + " | ".join(row) + " |", file=text)
    return text.getvalue()


def main() -> None:
    """Measure, print, and put the table between the marks of the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose table is replaced")
    parser.add_argument("--only", nargs="*", help="names of logs, such as hdfs bgl 2k-Apache")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random halves")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, make in cases(folder, arguments.seed):
            if arguments.only and name not in arguments.only:
                continue
            if name not in ("postgresql", "var-log") and not DATA.is_dir():
                print(f"{name}: skipped, {DATA} is not there (AI_DETECT_DATA)", file=sys.stderr)
                continue
            for case in make():
                rows.append(measure(case, folder))
                print(" | ".join(rows[-1]), flush=True)
        if DATA.is_dir() and (not arguments.only or "stdin" in arguments.only):
            rows.append(_stdin_row(folder))
    table = _table(rows)
    print(table)
    if arguments.output:
        text = arguments.output.read_text()
        head, rest = text.split(BEGIN)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        arguments.output.write_text(f"{head}{BEGIN}\n\nMeasured on {machine}.\n\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
