"""How seconds and memory grow with the log: one command makes the table and the picture in docs/benchmarks-growth.md.

    python tests/benchmarks/growth.py --output docs/benchmarks-growth.md [--millions 0.1 1 10] [--commands parse detect]
        [--suffixes "" .gz .zst] [--work FOLDER]

The logs are a real one repeated (`growing_log`), written to the work folder and removed after use. `parse`, `detect`
(with a model trained once on the real log) and `train` (a few steps) run on each in a fresh process.

Memory is told twice, each above what the imports of the same command take in a process that does nothing else:
anonymous memory (RssAnon), which nobody can take from the process, and all resident pages (RSS). The second holds pages
of memory-mapped files, too: what the process reads or writes there the kernel writes to the disk and drops when memory
is short, so that it shows what is convenient, not what is needed. Both are peaks of samples taken every 10 ms.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detection_splits import ROOT
from growing_log import SESSION_REGEX, GrowingLog, real_log

BEGIN, END = "<!-- growth table begins -->", "<!-- growth table ends -->"
COMMANDS = ("parse", "detect", "train")
_SAMPLED_S = 0.01
_TRAIN_STEPS = 20
#: Lines of a log that is long enough for the parser to be compiled, once, before anything is measured.
_LONG_ENOUGH = 700_000
_IMPORTS = """
import contextlib, importlib, sys
for name in sys.stdin.read().split():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(lines["RssAnon"].split()[0], lines["VmRSS"].split()[0])
"""


@dataclass(frozen=True)
class Cost:
    """One process: seconds of the clock, peaks of memory in MB."""

    seconds: float
    anonymous_mb: float
    resident_mb: float

    def above(self, imports: Cost) -> Cost:
        """The same without what the imports take."""
        return Cost(self.seconds, self.anonymous_mb - imports.anonymous_mb, self.resident_mb - imports.resident_mb)


def _status_kb(process: int) -> tuple[int, int]:
    """Anonymous and resident memory; raises OSError where the process is gone."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]), int(lines["VmRSS"].split()[0])


def run(arguments: Sequence[str]) -> tuple[Cost, str]:
    """Run this interpreter on this checkout; what it cost and its standard error, RuntimeError where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has its bytecode beside it
    peaks = [0, 0]

    def watch(process: subprocess.Popen[bytes]) -> None:
        while process.returncode is None:
            try:
                peaks[:] = map(max, peaks, _status_kb(process.pid))
            except (OSError, KeyError):  # it has just ended
                return
            time.sleep(_SAMPLED_S)

    with tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=err, env=environment, cwd=ROOT
        )
        watcher = threading.Thread(target=watch, args=(process,))
        watcher.start()
        process.wait()
        seconds = time.monotonic() - begun
        watcher.join()
        err.seek(0)
        said = err.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{said[-2000:]}")
    return Cost(seconds, peaks[0] / 1024, peaks[1] / 1024), said


def arguments_of(command: str, log: Path, model: Path, work: Path) -> list[str]:
    """The command line, without the interpreter."""
    out = ["--output_dir", str(work / "output"), "--quiet"]
    if command == "parse":
        return ["ai_detect/parse.py", "--log_file", str(log), "--session_regex", SESSION_REGEX, *out]
    if command == "detect":
        return ["ai_detect/detect.py", "--log_file", str(log), "--model_dir", str(model), *out]
    flags = ["--train_file", str(log), "--session_regex", SESSION_REGEX, "--total_steps", str(_TRAIN_STEPS)]
    return ["ai_detect/train.py", *flags, "--checkpoint_dir", str(work / "checkpoint"), "--overwrite", *out]


def imports_of(arguments: Sequence[str]) -> Cost:
    """What all modules take that a command imports; the command runs for it."""
    _, said = run(["-X", "importtime", *arguments])
    names = [line.rsplit("|", 1)[1].strip() for line in said.splitlines() if line.startswith("import time:")]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS],
        input="\n".join(names).encode(),
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    anonymous, resident = done.stdout.split()[-2:]
    return Cost(0, int(anonymous) / 1024, int(resident) / 1024)


def model_of(log: GrowingLog, work: Path) -> Path:
    """The model of the real log, trained once."""
    folder = work / "real-model"
    if not (folder / "model" / "model.json").exists():
        path = work / "real.log"
        path.write_bytes(log.content)
        flags = ["--train_file", str(path), "--session_regex", SESSION_REGEX, "--checkpoint_dir", str(folder)]
        run(["ai_detect/train.py", *flags, "--output_dir", str(work / "real-output"), "--quiet"])
        path.unlink()
    return folder / "model"


def _write(log: GrowingLog, path: Path, n_lines: int) -> int:
    """Write the log, compressed as the name says; returns its bytes before that."""
    if path.suffix == ".zst":
        import zstandard

        plain = path.with_suffix("")
        log.write(plain, n_lines)
        with open(plain, "rb") as source, open(path, "wb") as target:
            zstandard.ZstdCompressor(level=1).copy_stream(source, target)
        n_bytes = plain.stat().st_size
        plain.unlink()
        return n_bytes
    if path.suffix != ".gz":
        log.write(path, n_lines)
        return path.stat().st_size
    n_bytes = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        for part in log.parts(n_lines):
            n_bytes += file.write(part.tobytes())
    return n_bytes


@dataclass(frozen=True)
class Row:
    """One command on one log."""

    command: str
    suffix: str
    n_lines: int
    n_bytes: int
    cost: Cost  # above the imports
    imports: Cost


def measure(
    log: GrowingLog,
    model: Path,
    work: Path,
    millions: Sequence[float],
    suffixes: Sequence[str],
    commands: Sequence[str],
) -> list[Row]:
    """A row for each command on each log, the smallest log first."""
    rows, imports = [], {}
    path = work / "grown-long-enough.log"
    log.write(path, _LONG_ENOUGH)
    run(arguments_of("parse", path, model, work))
    path.unlink()
    for size in sorted(millions):
        for suffix in suffixes:
            path = work / f"grown-{size:g}.log{suffix}"
            n_lines = round(size * 1e6)
            n_bytes = _write(log, path, n_lines)
            for command in commands:
                arguments = arguments_of(command, path, model, work)
                if command not in imports:
                    imports[command] = imports_of(arguments)
                cost, _ = run(arguments)
                rows.append(Row(command, suffix, n_lines, n_bytes, cost.above(imports[command]), imports[command]))
                print(_cells(rows[-1]), flush=True)
            path.unlink()
    return rows


def _cells(row: Row) -> str:
    cells = [
        f"{row.command}{row.suffix and f' ({row.suffix})'}",
        f"{row.n_lines:,}",
        f"{row.n_bytes / 1e6:,.0f}",
        f"{row.cost.seconds:.1f}",
        f"{row.n_lines / row.cost.seconds:,.0f}",
        f"{row.cost.anonymous_mb:.0f}",
        f"{row.cost.resident_mb:.0f}",
        f"{row.imports.anonymous_mb:.0f} / {row.imports.resident_mb:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


_COLUMNS = [
    "command",
    "lines",
    "MB",
    "s",
    "lines/s",
    "anonymous MB",
    "resident MB",
    "imports (anonymous / resident) MB",
]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line through the points on logarithmic axes: 0 is flat, 1 grows as the log does."""
    return float(np.polyfit(np.log(x), np.log(np.maximum(y, 1e-9)), 1)[0])


def slopes(rows: Sequence[Row]) -> str:
    """The slopes of each command from the second smallest log on, where there are three, else from the smallest on."""
    lines = ["| command | slope of seconds | of anonymous MB | of resident MB |", "|---|---|---|---|"]
    for command, suffix in dict.fromkeys((row.command, row.suffix) for row in rows):
        own = [row for row in rows if (row.command, row.suffix) == (command, suffix)]
        own = own[1:] if len(own) > 2 else own
        if len(own) > 1:
            x = [row.n_lines for row in own]
            values = ([getattr(row.cost, name) for row in own] for name in ("seconds", "anonymous_mb", "resident_mb"))
            figures = " | ".join(f"{_slope(x, column):.2f}" for column in values)
            lines.append(f"| {command}{suffix and f' ({suffix})'} | {figures} |")
    return "\n".join(lines)


def picture(rows: Sequence[Row], path: Path) -> None:
    """Seconds and anonymous memory by the lines of the log, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for ax, name, title in zip(
        figure.subplots(1, 2), ("seconds", "anonymous_mb"), ("seconds", "anonymous MB above the imports"), strict=True
    ):
        for command in dict.fromkeys(row.command for row in rows):
            own = [row for row in rows if row.command == command and not row.suffix]
            ax.plot([row.n_lines for row in own], [getattr(row.cost, name) for row in own], "o-", label=command)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("lines")
        ax.set_title(title, fontsize=10)
        ax.grid(color="#ddd", linewidth=0.7)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.axes[1].axhline(150, color="#888", linewidth=1, linestyle=(0, (4, 3)))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure, print, and put table and picture where the document has them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose table is replaced; the picture goes beside it")
    parser.add_argument("--millions", type=float, nargs="+", default=[0.1, 1, 10], help="lines of the logs")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--suffixes", nargs="+", default=[""], help="how the logs are stored: '', .gz, .zst")
    parser.add_argument("--work", type=Path, help="folder for logs and the model, which is used again")
    parser.add_argument("--rows", type=Path, help="file that keeps the rows, to which a later call adds its own")
    arguments = parser.parse_args()
    log = real_log()
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        model = model_of(log, work)
        rows = _kept(arguments.rows)
        rows += measure(log, model, work, arguments.millions, arguments.suffixes, arguments.commands)
    if arguments.rows:
        arguments.rows.write_text(json.dumps([_as_json(row) for row in rows]))
    order = {command: at for at, command in enumerate(COMMANDS)}
    rows.sort(key=lambda row: (order[row.command], row.suffix, row.n_lines))
    table = "\n".join(["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|", *map(_cells, rows)])
    found = f"{table}\n\n{slopes(rows)}"
    print(found)
    if arguments.output:
        text = arguments.output.read_text()
        head, rest = text.split(BEGIN)
        machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        image = arguments.output.with_suffix(".svg")
        picture(rows, image)
        arguments.output.write_text(
            f"{head}{BEGIN}\n\nMeasured on {machine}.\n\n{found}\n\n![seconds and memory]({image.name})\n\n{END}"
            f"{rest.split(END)[1]}"
        )


def _as_json(row: Row) -> dict[str, object]:
    return {**vars(row), "cost": vars(row.cost), "imports": vars(row.imports)}


def _kept(path: Path | None) -> list[Row]:
    """The rows of earlier calls."""
    if path is None or not path.exists():
        return []
    found = json.loads(path.read_text())
    return [Row(**{**row, "cost": Cost(**row["cost"]), "imports": Cost(**row["imports"])}) for row in found]


if __name__ == "__main__":
    main()
