"""What it costs to start and to score: commands as fresh processes, and sessions a second once all is imported.

    python tests/benchmarks/scoring.py [--roots OTHER_CHECKOUT .] [--protocol hdfs] [--rounds 5]

Each checkout trains its own model on the training half; then the checkouts take turns, and medians are shown: seconds
of the clock and, of the processor, which a busy machine changes less. Beside them stands plain PyOD on count vectors of
the same sessions, which neither explains nor calibrates. What was trained is kept in --work and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from detection_splits import PROTOCOLS, ROOT, Case

_SMALL_LINES = 2000
_RATE = """
import json, sys, time
from pathlib import Path
from ai_detect.pipeline import LogAnomalyPipeline
pipeline = LogAnomalyPipeline.load(Path(sys.argv[1]))
log = pipeline.parse(sys.argv[2])
costs = []
for _ in range(6):
    begun = time.process_time(), time.perf_counter()
    pipeline.score(log)
    costs.append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
print(json.dumps([len(log.sessions), *map(min, zip(*costs[1:]))]))
"""
_PYOD = """
import json, sys, time
from pathlib import Path
import numpy as np
from ai_detect.pipeline import LogAnomalyPipeline
pipeline = LogAnomalyPipeline.load(Path(sys.argv[1]))
width = len(pipeline.miner.templates) + 1
def counts(path):
    table = pipeline.parse(path).sequences
    session, event = np.repeat(np.arange(len(table)), table.lengths), np.minimum(table.event_id, width - 1)
    return np.bincount(session * width + event, minlength=len(table) * width).reshape(-1, width).astype(float)
train, test = counts(sys.argv[3]), counts(sys.argv[2])
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
detectors = [IForest(random_state=0).fit(train), KNN().fit(train)]
costs = []
for _ in range(6):
    begun = time.process_time(), time.perf_counter()
    for detector in detectors:
        detector.decision_function(test)
    costs.append((time.process_time() - begun[0], time.perf_counter() - begun[1]))
print(json.dumps([len(test), *map(min, zip(*costs[1:]))]))
"""


@dataclass(frozen=True)
class Cost:
    """One process: seconds of the processor and of the clock, peak memory."""

    processor_s: float
    clock_s: float
    peak_mb: float


def run(root: Path, arguments: Sequence[str]) -> tuple[Cost, str]:
    """Run Python with this checkout; RuntimeError where it fails."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": str(root)}  # as the commands set it
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=err, env=environment, cwd=root)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {err.read().decode()[-2000:]}")
        return Cost(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss / 1024), out.read().decode()


def model_of(root: Path, case: Case, work: Path) -> Path:
    """The model of this checkout, trained once."""
    folder = work / f"model-{str(root).strip('/').replace('/', '-')}"
    if not (folder / "model" / "model.json").exists():
        flags = ["--train_file", str(case.train), *case.flags, "--checkpoint_dir", str(folder)]
        cost, _ = run(root, ["ai_detect/train.py", *flags, "--output_dir", str(folder) + "-out", "--quiet"])
        print(f"trained {folder}: {cost.processor_s:.0f} s of the processor, {cost.clock_s:.0f} s", file=sys.stderr)
    return folder / "model"


def commands(case: Case, small: Path, model: Path, out: Path) -> dict[str, list[str]]:
    """What is run, by what it is called in the table."""
    overview = "import sys; sys.argv[1:] = ['--help']; from ai_detect.cli.main import main; main()"
    detect = ["ai_detect/detect.py", "--model_dir", str(model), "--output_dir", str(out), "--quiet", "--log_file"]
    parse = ["ai_detect/parse.py", "--output_dir", str(out), "--quiet", "--log_file"]
    return {
        "ai-detect --help": ["-c", overview],
        "detect --help": ["ai_detect/detect.py", "--help"],
        f"parse, {_SMALL_LINES:,} lines": [*parse, str(small)],
        f"detect, {_SMALL_LINES:,} lines": [*detect, str(small)],
        f"detect --format csv, {_SMALL_LINES:,} lines": [*detect, str(small), "--format", "csv"],
        "detect": [*detect, str(case.test)],
        "detect --format csv": [*detect, str(case.test), "--format", "csv"],
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roots", type=Path, nargs="+", default=[ROOT], help="checkouts to compare")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="hdfs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for logs and models that are used again")
    arguments = parser.parse_args()
    roots = [root.resolve() for root in arguments.roots]
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        with ProcessPoolExecutor(1) as pool:  # a process counts what its parent held when it began as its own
            case = pool.submit(PROTOCOLS[arguments.protocol].split, work / arguments.protocol, 0).result()
        small = work / arguments.protocol / "small.log"
        with open(case.test, "rb") as lines:
            small.write_bytes(b"".join(line for _, line in zip(range(_SMALL_LINES), lines, strict=False)))
        models = [model_of(root, case, work / arguments.protocol) for root in roots]
        costs: dict[tuple[str, Path], list[Cost]] = {}
        rates: dict[tuple[str, Path], list[tuple[float, float]]] = {}
        for _ in range(arguments.rounds):
            for root, model in zip(roots, models, strict=True):
                for name, command in commands(case, small, model, work / "out").items():
                    costs.setdefault((name, root), []).append(run(root, command)[0])
            for root, model in zip(roots, models, strict=True):
                programs = {
                    "scoring": [_RATE],
                    **({"plain PyOD: IForest and KNN": [_PYOD]} if root == roots[-1] else {}),
                }
                for name, (program,) in programs.items():
                    _, out = run(root, ["-c", program, str(model), str(case.test), str(case.train)])
                    n, processor_s, clock_s = json.loads(out)
                    rates.setdefault((name, root), []).append((n / processor_s, n / clock_s))
    print("| process | checkout | processor s | clock s | peak MB |\n|---|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in costs):
        for root in roots:
            found = costs[name, root]
            figures = [statistics.median(getattr(cost, kind) for cost in found) for kind in Cost.__annotations__]
            print("| {} | {} | {:.2f} | {:.2f} | {:.0f} |".format(name, root.name, *figures))
    print("\n| warm | checkout | sessions/s of the processor | sessions/s of the clock |\n|---|---|---|---|")
    for (name, root), found_rates in rates.items():
        processor, clock = (statistics.median(column) for column in zip(*found_rates, strict=True))
        print(f"| {name} | {root.name} | {processor:,.0f} | {clock:,.0f} |")


if __name__ == "__main__":
    main()
