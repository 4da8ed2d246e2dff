"""Beside peers, a raw file to scores: one command makes the tables in docs/benchmarks-peers.md.

    python tests/benchmarks/peers.py --output docs/benchmarks-peers.md [--logs hdfs large] [--only detect loglead-tip]
        [--rounds 5] [--large_rounds 1] [--work FOLDER]

The peers live in an environment of their own, whose interpreter is AI_DETECT_PEERS or --peers_python (a peer that is
not installed there is left out). Made by

    python3.11 -m venv peers && P=peers/bin/python
    $P -m pip install drain3==0.9.11 pyod==3.6.7 regex==2026.11.15 pandas==3.1.1 tqdm==4.70.1 \
        "polars[numpy,pandas,pyarrow]==1.44.2" tipping==0.2.1 python-dotenv==1.2.4 PyYAML==6.0.3 psutil==7.2.2 \
        requests==2.34.2 GitPython==3.2.1 py7zr==1.1.4 umap-learn==0.5.12 plotly==6.9.0 scikit-optimize==0.10.2
    $P -m pip install --no-deps xgboost==3.2.0 loglead==2.0.0 logparser3==1.0.4

--no-deps because xgboost's wheel asks for a library of CUDA and logparser3 for a `regex` of 2022.

Each figure is of a whole fresh process, from the command line to the file of scores. Before the rounds every command
runs once, which warms caches and tells which modules it imports; in each round all take turns, and so does a process
that imports those modules and does nothing else. Medians are shown, of the clock and of the processor, which a busy
machine changes less; a ratio is the median of the rounds' ratios. All learn from the very log that they score, without
labels: ours beforehand (`detect`) or in the measured time (`train + detect`). The large log is that of HDFS again and
again, each copy with variable parts of its own (`growing_log`); `detect` has the model of the small one. It is parsed
once before anything else, as that makes the machine code which is kept and used from then on. Labels are read here
alone, after everything has run.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detection_splits import DATA, ROOT

BEGIN, END = "<!-- peers table begins -->", "<!-- peers table ends -->"
SESSION_REGEX = r"blk_-?\d+"
PEERS = {  # names of peer_programs.PROGRAMS, the title, and what must be installed
    "drain3-iforest": ("Drain3 + PyOD's IForest", ("drain3", "pyod")),
    "drain3-knn": ("Drain3 + PyOD's KNN", ("drain3", "pyod")),
    "loglead-tip": ("LogLead, Tipping", ("loglead", "tipping", "xgboost")),
    "loglead-pliplom": ("LogLead, PL-IPLoM", ("loglead", "xgboost")),
    "loglead-drain": ("LogLead, Drain", ("loglead", "drain3", "xgboost")),
    "logparser-iforest": ("logparser's Drain + PyOD's IForest", ("logparser3", "pyod")),
}
OURS = {"csv": "ai-detect detect --format csv", "detect": "ai-detect detect", "train": "ai-detect train + detect"}
#: What the ratios are to: a file of scores and nothing else, which is what peers make, too.
_BASE = "csv"
_IMPORTS = """
import contextlib, importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.stdin.read().split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
_VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
COLUMNS = (
    "raw file to scores",
    "s",
    "beyond imports",
    "processor s",
    "beyond imports",
    "lines/s",
    "peak MB",
    "MB above imports",
    "AUPRC",
    "times ours, s",
    "beyond imports",
    "processor s",
    "beyond imports",
)


@dataclass(frozen=True)
class Cost:
    """One process, or several one after another: seconds of the clock and of the processor, peak memory."""

    seconds: float = 0.0
    processor_s: float = 0.0
    peak_mb: float = 0.0

    def then(self, other: Cost) -> Cost:
        """Both, one after the other."""
        seconds, processor_s = self.seconds + other.seconds, self.processor_s + other.processor_s
        return Cost(seconds, processor_s, max(self.peak_mb, other.peak_mb))


@dataclass(frozen=True)
class Contender:
    """What is measured on a log: command lines that run one after another, and the scores that they leave."""

    title: str
    commands: Sequence[Sequence[str]]
    scores: Path


def run(command: Sequence[str], stdin: str = "") -> tuple[Cost, str]:
    """Run a command; what it cost and its standard error, RuntimeError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if command[0] == sys.executable else dict(os.environ)
    if command[0] != sys.executable:
        environment.pop("PYTHONPATH", None)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode beside it
    with tempfile.TemporaryFile("w+") as feed, tempfile.TemporaryFile() as err:
        feed.write(stdin)
        feed.seek(0)
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdin=feed, stdout=subprocess.DEVNULL, stderr=err, env=environment, cwd=ROOT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        said = err.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{said[-2000:]}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024), said


def imported_by(command: Sequence[str]) -> str:
    """The names of all modules that a command imports, in order; the command runs for it."""
    _, said = run([command[0], "-X", "importtime", *command[1:]])
    return " ".join(line.rsplit("|", 1)[1].strip() for line in said.splitlines() if line.startswith("import time:"))


def versions(python: str) -> dict[str, str]:
    """What of the peers is installed there."""
    names = sorted({name for _, needed in PEERS.values() for name in needed})
    try:
        done = subprocess.run([python, "-c", _VERSIONS, *names], capture_output=True, text=True, check=True)
    except OSError as error:
        print(f"no peers: {python}: {error.strerror} (AI_DETECT_PEERS, --peers_python)", file=sys.stderr)
        return {}
    return dict(line.split() for line in done.stdout.splitlines())


def contenders(log: Path, model: Path, work: Path, peers: str, installed: Mapping[str, str]) -> dict[str, Contender]:
    """Ours and the peers that are there, on a log."""
    out = work / f"out-{log.stem}"
    quiet = ["--output_dir", str(out), "--quiet"]
    detect = [sys.executable, "ai_detect/detect.py", "--log_file", str(log), *quiet, "--model_dir"]
    fresh = work / f"checkpoint-{log.stem}"
    train = [sys.executable, "ai_detect/train.py", "--train_file", str(log), "--session_regex", SESSION_REGEX, *quiet]
    train += ["--checkpoint_dir", str(fresh), "--overwrite"]
    found = {
        "csv": Contender(OURS["csv"], [[*detect, str(model), "--format", "csv"]], out / "scores.csv"),
        "detect": Contender(OURS["detect"], [[*detect, str(model)]], out / "scores.csv"),
        "train": Contender(
            OURS["train"], [train, [*detect, str(fresh / "model"), "--format", "csv"]], out / "scores.csv"
        ),
    }
    program = str(Path(__file__).with_name("peer_programs.py"))
    for name, (title, needed) in PEERS.items():
        if missing := [package for package in needed if package not in installed]:
            print(f"{title}: skipped, {', '.join(missing)} not installed", file=sys.stderr)
            continue
        scores = work / f"{name}-{log.stem}.csv"
        found[name] = Contender(title, [[peers, "-W", "ignore", program, name, str(log), str(scores)]], scores)
    return found


@dataclass(frozen=True)
class Measured:
    """Each round's cost of a contender, of its imports alone, and how well it found what is wrong."""

    costs: Sequence[Cost]
    imports: Sequence[Cost]
    auprc: float

    def seconds(self) -> list[tuple[float, ...]]:
        """For each round seconds of the clock, those beyond imports, of the processor, those beyond imports."""
        return [
            (
                cost.seconds,
                cost.seconds - imports.seconds,
                cost.processor_s,
                cost.processor_s - imports.processor_s,
            )
            for cost, imports in zip(self.costs, self.imports, strict=True)
        ]


def measure(
    log: Path, chosen: Mapping[str, Contender], modules: Mapping[str, Sequence[str]], rounds: int
) -> dict[str, Measured]:
    """All contenders on a log, taking turns; `modules` are what each one's commands import."""
    costs: dict[str, list[Cost]] = {name: [] for name in chosen}
    imports: dict[str, list[Cost]] = {name: [] for name in chosen}
    for number in range(rounds):
        for name, contender in chosen.items():
            cost = only_imports = Cost()
            for command, names in zip(contender.commands, modules[name], strict=True):
                only_imports = only_imports.then(run([command[0], "-c", _IMPORTS], names)[0])
                cost = cost.then(run(command)[0])
            costs[name].append(cost)
            imports[name].append(only_imports)
            said = f"{log.stem} {number + 1}/{rounds} {name}: {cost.seconds:.2f} s, imports {only_imports.seconds:.2f}"
            said += f"; processor {cost.processor_s:.2f} s, imports {only_imports.processor_s:.2f}"
            print(said, file=sys.stderr, flush=True)
    labels = labels_of(log)
    return {name: Measured(costs[name], imports[name], auprc(one.scores, labels)) for name, one in chosen.items()}


def labels_of(log: Path) -> dict[str, int]:
    """Session -> 1 or 0; sessions of a copy come in the order of the real log's."""
    from ai_detect.ingest.labels import read_label_file

    real = read_label_file(DATA / "hdfs_2pct" / "anomaly_label.csv")
    order = [key.decode() for key in _sessions(gzip.decompress((DATA / "hdfs_2pct" / "HDFS.log.gz").read_bytes()))]
    return {key.decode(): real[order[at % len(order)]] for at, key in enumerate(_sessions(log.read_bytes()))}


def _sessions(content: bytes) -> Iterable[bytes]:
    return dict.fromkeys(re.findall(SESSION_REGEX.encode(), content))


def auprc(path: Path, labels: Mapping[str, int]) -> float:
    """Average precision of the scores that a contender has left."""
    from sklearn.metrics import average_precision_score

    scores = dict(_scores(path))
    if set(scores) != set(labels):
        raise RuntimeError(f"{path}: {len(scores):,} sessions were scored, the log has {len(labels):,}")
    return float(average_precision_score([labels[key] for key in scores], list(scores.values())))


def _scores(path: Path) -> Iterator[tuple[str, float]]:
    with open(path, newline="") as file:
        rows = csv.reader(file)
        first = next(rows)
        if first[0] == "session":  # ours, by -ln p
            at = first.index("p_value")
            yield from ((row[0], float(-np.log(max(float(row[at]), 1e-300)))) for row in rows)
        else:
            yield first[0], float(first[1])
            yield from ((key, float(score)) for key, score in rows)


def table(n_lines: int, chosen: Mapping[str, Contender], measured: Mapping[str, Measured]) -> list[str]:
    """The rows, in Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    base = measured.get(_BASE)
    for name, found in measured.items():
        seconds = [statistics.median(column) for column in zip(*found.seconds(), strict=True)]
        peak = statistics.median(cost.peak_mb for cost in found.costs)
        above = peak - statistics.median(cost.peak_mb for cost in found.imports)
        row = [chosen[name].title, *(f"{figure:.2f}" for figure in seconds)]
        row += [f"{n_lines / seconds[0]:,.0f}", f"{peak:.0f}", f"{above:.0f}", f"{found.auprc:.3f}"]
        rounds = zip(found.seconds(), [] if base is None else base.seconds(), strict=base is not None)
        ratios = [[their / our for their, our in zip(theirs, ours, strict=True)] for theirs, ours in rounds]
        row += [f"{statistics.median(column):.1f}" for column in zip(*ratios, strict=True)] or [""] * 4
        lines.append("| " + " | ".join(row) + " |")
    return lines


def write_log(name: str, path: Path, n_lines: int) -> None:
    """The log to score, where it is not there yet."""
    if path.exists():
        return
    if name == "large":
        from growing_log import real_log

        real_log().write(path, n_lines)
        return
    with gzip.open(DATA / "hdfs_2pct" / "HDFS.log.gz", "rb") as source, open(path, "wb") as file:
        shutil.copyfileobj(source, file)


def model_of(log: Path, work: Path) -> Path:
    """The model that `detect` uses, trained once on the real log."""
    folder = work / "model"
    if not (folder / "model" / "model.json").exists():
        flags = ["--train_file", str(log), "--session_regex", SESSION_REGEX, "--output_dir", str(work / "out-model")]
        run([sys.executable, "ai_detect/train.py", *flags, "--checkpoint_dir", str(folder), "--overwrite", "--quiet"])
    return folder / "model"


def main() -> None:
    """Measure, print, and put the tables between the marks of the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--peers_python", default=os.environ.get("AI_DETECT_PEERS", sys.executable))
    parser.add_argument("--logs", nargs="+", choices=["hdfs", "large"], default=["hdfs", "large"])
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], help="contenders; else all")
    parser.add_argument("--rounds", type=int, default=5, help="on the 222,579 lines of HDFS")
    parser.add_argument("--large_rounds", type=int, default=1, help="on the large log")
    parser.add_argument("--large_lines", type=int, default=2_100_000)
    parser.add_argument("--work", type=Path, help="folder for logs and the model, which are used again")
    arguments = parser.parse_args()
    installed = versions(arguments.peers_python)
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for name in ("hdfs", "large"):
            with ProcessPoolExecutor(1) as pool:  # a process counts what its parent held when it began as its own
                pool.submit(write_log, name, work / f"{name}.log", arguments.large_lines).result()
        parse = ["ai_detect/parse.py", "--log_file", str(work / "large.log"), "--session_regex", SESSION_REGEX]
        run([sys.executable, *parse, "--output_dir", str(work / "out-parse"), "--quiet"])
        model = model_of(work / "hdfs.log", work)
        modules: dict[str, list[str]] = {}
        for name in dict.fromkeys(["hdfs", *arguments.logs]):
            log = work / f"{name}.log"
            every = contenders(log, model, work, arguments.peers_python, installed)
            chosen = {key: one for key, one in every.items() if not arguments.only or key in arguments.only}
            if name == "hdfs":
                modules = {key: [imported_by(command) for command in one.commands] for key, one in chosen.items()}
            if name not in arguments.logs:
                continue
            rounds = arguments.rounds if name == "hdfs" else arguments.large_rounds
            with open(log, "rb") as content:
                n_lines = sum(1 for _ in content)
            title = "HDFS 2 %" if name == "hdfs" else "HDFS 2 % repeated"
            megabytes = log.stat().st_size / 1e6
            lines += [f"{title}, {n_lines:,} lines, {megabytes:.0f} MB, {rounds} round{'s' * (rounds > 1)}:", ""]
            lines += [*table(n_lines, chosen, measure(log, chosen, modules, rounds)), ""]
    print("\n".join(lines))
    if arguments.output:
        text = arguments.output.read_text()
        head, rest = text.split(BEGIN)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        known = ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
        said = "\n".join([f"Measured on {machine}; {known}.", "", *lines])
        arguments.output.write_text(f"{head}{BEGIN}\n\n{said}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
