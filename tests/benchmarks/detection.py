"""How well it detects, beside what anybody could do: one command makes the tables in docs/benchmarks-detection.md.

    python tests/benchmarks/detection.py --output docs/benchmarks-detection.md
    python tests/benchmarks/detection.py --only openstack --modes clean --seeds 0 1 --work_dir /tmp/detection
    python tests/benchmarks/detection.py --sweep --output docs/benchmarks-detection.md
    python tests/benchmarks/detection.py --ablation --output docs/benchmarks-detection.md

Every run is a log split by detection_splits.py, and two fresh processes with default settings: train.py on one part,
detect.py on the other. The baselines see the same sequences, parsed with templates of the training part alone. Labels
are read when all scores are there. A run leaves one JSON file in --work_dir, and what is there already from the same
code is not measured again: an interrupted benchmark goes on where it stopped, and may be done in several calls; the
tables are made of all that is there (`--seeds` without a number measures nothing more).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detection_ablation import VARIANTS
from detection_baselines import count_invariants, next_event_lstm
from detection_splits import PROTOCOLS, ROOT, Protocol
from detection_tables import OURS, ablation_tables, detection_tables, replace_between, sweep_table
from pipeline import read_scores, run_process

from ai_detect import artifacts
from ai_detect.config import InputSettings
from ai_detect.evaluation.baselines import Baseline, run_baselines
from ai_detect.evaluation.metrics import distinct_sessions, measure, measure_twice, recall_by_kind
from ai_detect.ingest.labels import labels_for, read_label_file
from ai_detect.sequences.parsed_log import learn_log, match_log
from ai_detect.tables import SequenceTable

#: Share of anomalous sessions in the training part; None leaves in it what there is.
MODES: dict[str, float | None] = {"clean": 0.0, "contaminated": None}
SEEDS = (0, 1, 2, 3, 4)
SWEEP, SWEEP_TESTS = (0.0, 0.01, 0.03, 0.05, 0.10), ("hdfs", "openstack")
TABLES = {"detection": detection_tables, "sweep": sweep_table, "ablation": ablation_tables}
#: Baselines alarm above this quantile of held-out training scores: unlike us, they are told which mode it is.
CLEAN_QUANTILE, CONTAMINATED_QUANTILE = 0.99, 0.95


@dataclass(frozen=True)
class Run:
    """One split of one log; with a `variant`, to be trained on with a part changed."""

    protocol: Protocol
    mode: str
    contamination: float | None
    seed: int
    kind: str = "detection"
    variant: str = ""

    def result(self, work_dir: Path) -> Path:
        """Where its figures are."""
        parts = [self.kind, self.protocol.name, self.mode, str(self.seed), *([self.variant] if self.variant else [])]
        return work_dir / f"{'-'.join(parts)}.json"


def measure_run(run: Run, folder: Path) -> dict[str, Any]:
    """Split, train, detect, compare; what the processes wrote stays in `folder`."""
    case = run.protocol.split(folder, run.seed, run.contamination)
    checkpoints, output = folder / "checkpoint", folder / "output"
    places = ["--output_dir", str(output)]
    train_cost, _ = run_process(
        [
            *("ai_detect/train.py", "--train_file", str(case.train), *case.flags, "--seed", str(run.seed)),
            *("--checkpoint_dir", str(checkpoints), *places),
        ]
    )
    detect_cost, _ = run_process(
        ["ai_detect/detect.py", "--log_file", str(case.test), "--model_dir", str(checkpoints), *places]
    )
    summary = json.loads((output / "summary.json").read_text())
    keys, surprisals, flags = read_scores(output / "scores.csv")
    settings = InputSettings(**{case.flags[0].removeprefix("--"): case.flags[1]})
    train_log, miner = learn_log(str(case.train), settings, folder / "cache")
    test_log = match_log(str(case.test), settings, miner)
    if keys != list(test_log.sessions.keys):
        raise RuntimeError(f"{run}: scores.csv does not list the sessions of the test part")
    train, test = train_log.sequences, test_log.sequences
    quantile = CLEAN_QUANTILE if run.contamination == 0 else CONTAMINATED_QUANTILE
    baselines, seconds = all_baselines(train, test, quantile, run.seed)

    label_of = read_label_file(case.labels)
    labels = labels_for(keys, label_of, case.labels)
    train_labels = labels_for(train_log.sessions.keys, label_of, case.labels)
    distinct = distinct_sessions(test, labels)
    methods = {OURS: Baseline(surprisals, flags), **baselines}
    return {
        "test": run.protocol.name,
        "title": run.protocol.title,
        "mode": run.mode,
        "seed": run.seed,
        "train_sessions": len(train),
        "train_contamination": float((train_labels == 1).mean()),
        "test_sessions": len(test),
        "prevalence": float((labels[labels >= 0] == 1).mean()),
        "distinct_prevalence": float((labels[distinct][labels[distinct] >= 0] == 1).mean()),
        "detection": summary["detection"],
        "cost": {
            "train_s": train_cost.seconds,
            "train_mb": train_cost.peak_mb,
            "detect_s": detect_cost.seconds,
            "detect_mb": detect_cost.peak_mb,
            "score_s": summary["timings_s"]["score"],
            **seconds,
        },
        "recall_by_kind": recall_by_kind(labels, flags, test, test_log.events.n_known, int(train.lengths.min())),
        "methods": {
            name: measure_twice(labels, method.scores, method.is_anomaly, distinct) for name, method in methods.items()
        },
    }


def measure_variant(run: Run, folder: Path) -> dict[str, Any]:
    """Split, train with a part changed, and measure every row of the table that comes of it."""
    case = run.protocol.split(folder, run.seed, run.contamination)
    scores = folder / "scores.npz"
    cost, _ = run_process(
        [
            *("tests/benchmarks/detection_ablation.py", run.variant, str(scores), "--log_file", str(case.test)),
            *("--train_file", str(case.train), *case.flags, "--seed", str(run.seed)),
            *("--checkpoint_dir", str(folder / "checkpoint"), "--output_dir", str(folder / "output")),
        ]
    )
    with np.load(scores) as arrays:
        found = dict(arrays)
    labels = labels_for(found.pop("sessions").tolist(), read_label_file(case.labels), case.labels)
    rows = dict.fromkeys(name.rpartition("/")[0] for name in found)
    return {
        "test": run.protocol.name,
        "mode": run.mode,
        "seed": run.seed,
        "variant": run.variant,
        "cost": {"train_s": cost.seconds},
        "methods": {row: measure(labels, found[f"{row}/scores"], found[f"{row}/alarms"]) for row in rows},
    }


def all_baselines(
    train: SequenceTable, test: SequenceTable, quantile: float, seed: int
) -> tuple[dict[str, Baseline], dict[str, float]]:
    """Every opponent by name, and the seconds that the classic ones together, the LSTM and the invariants took."""
    begun = time.monotonic()
    baselines = run_baselines(train, test, quantile=quantile, seed=seed)
    classic = time.monotonic()
    baselines["lstm"] = next_event_lstm(train, test, seed)
    lstm = time.monotonic()
    baselines["invariants"] = count_invariants(train, test)
    seconds = {"classic_s": classic - begun, "lstm_s": lstm - classic, "invariants_s": time.monotonic() - lstm}
    return baselines, seconds


def code_version() -> dict[str, str]:
    """What git calls this version, and a hash of all code that a figure depends on, as there may be changes."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    code = hashlib.sha256()
    for path in [*sorted((ROOT / "ai_detect").rglob("*.py")), *sorted(Path(__file__).parent.glob("detection*.py"))]:
        if path.name != "detection_tables.py":
            code.update(path.read_bytes())
    return {"version": described.stdout.strip() or "unknown", "code": code.hexdigest()[:12]}


def is_done(path: Path, version: dict[str, str]) -> bool:
    """Whether the run was measured with the code as it is."""
    return path.exists() and artifacts.read_json(path)["code"] == version["code"]


def chosen_runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """The runs that the command line asks for, all tests of one seed first; what cannot be run is said."""
    names = [name for name in (arguments.only or PROTOCOLS) if not arguments.sweep or name in SWEEP_TESTS]
    missing = {name: PROTOCOLS[name].missing for name in names}
    for name, path in missing.items():
        if path:
            print(f"{name}: skipped, {path} is not there (set AI_DETECT_DATA)", file=sys.stderr)
    most: int = 1 if arguments.sweep else 3 if arguments.ablation else len(SEEDS)
    seeds: Sequence[int] = SEEDS[:most] if arguments.seeds is None else arguments.seeds
    for seed in seeds:
        for name in names:
            if missing[name]:
                continue
            if arguments.ablation:
                for mode in arguments.modes:
                    for variant in VARIANTS:
                        yield Run(PROTOCOLS[name], mode, MODES[mode], seed, "ablation", variant)
            elif arguments.sweep:
                yield from (Run(PROTOCOLS[name], f"{share:.0%}", share, seed, "sweep") for share in SWEEP)
            else:
                yield from (Run(PROTOCOLS[name], mode, MODES[mode], seed) for mode in arguments.modes)


def measure_all(runs: Iterator[Run], work_dir: Path) -> None:
    """Measure what is not there yet, one JSON file a run."""
    for run in runs:
        version = code_version()
        path = run.result(work_dir)
        if is_done(path, version):
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = (measure_variant if run.variant else measure_run)(run, Path(folder))
        artifacts.write_json(path, {**version, **result})
        ours = {key: value for key, value in result["methods"][OURS].items() if isinstance(value, float)}
        figures = " ".join(f"{key} {value:.3f}" for key, value in ours.items())
        print(f"{path.stem}: train {result['cost']['train_s']:.0f} s, {figures}", flush=True)


def stored(work_dir: Path, kind: str) -> list[dict[str, Any]]:
    """All results of a kind, tests in the order of the protocols."""
    results: list[dict[str, Any]] = [artifacts.read_json(path) for path in work_dir.glob(f"{kind}-*.json")]
    order = list(PROTOCOLS)
    return sorted(results, key=lambda result: (order.index(result["test"]), result["mode"], result["seed"]))


def main() -> None:
    """Measure, print, and put the tables between their marks in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--work_dir", type=Path, help="folder of the results (default: a temporary one)")
    parser.add_argument("--only", nargs="+", choices=list(PROTOCOLS), help="some of the tests")
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES), help="one of the modes")
    parser.add_argument(
        "--seeds", nargs="*", type=int, help="default: 0 1 2 3 4, with --sweep 0, with --ablation 0 1 2"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--sweep", action="store_true", help="instead: 0 to 10 %% of anomalies in the training part")
    instead.add_argument("--ablation", action="store_true", help="instead: every part changed, alone and left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work_dir = (arguments.work_dir or Path(temporary)).resolve()
        work_dir.mkdir(parents=True, exist_ok=True)
        measure_all(chosen_runs(arguments), work_dir)
        kind = "sweep" if arguments.sweep else "ablation" if arguments.ablation else "detection"
        results = stored(work_dir, kind)
    if not results:
        sys.exit("nothing was measured, and nothing is in --work_dir: there are no tables")
    tables = TABLES[kind](results)
    print(tables)
    if arguments.output:
        arguments.output.write_text(replace_between(arguments.output.read_text(), kind, tables))


if __name__ == "__main__":
    main()
