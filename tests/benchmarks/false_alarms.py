"""Whether alarms are as many as was asked for: one command makes the tables in docs/benchmarks-false-alarms.md.

    python tests/benchmarks/false_alarms.py --output docs/benchmarks-false-alarms.md
    python tests/benchmarks/false_alarms.py --only openstack hdfs --seeds 0 1 2 3 4

Every labelled log is split by detection_splits.py, trained on clean with default settings, and the other part is scored
once; labels are read when all scores are there. What was asked for is compared with the share of normal sessions that
are reported, beside a threshold that is a quantile of the training sessions' own scores, as is often done.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detection import code_version
from detection_splits import PROTOCOLS, Protocol
from detection_tables import replace_between
from scipy.stats import beta, betabinom

from ai_detect.cli.main import main as ai_detect
from ai_detect.detectors.threshold import benjamini_hochberg
from ai_detect.evaluation.metrics import measure
from ai_detect.ingest.labels import labels_for, read_label_file
from ai_detect.pipeline import LogAnomalyPipeline
from ai_detect.tables import BoolArray, Float64Array, Int8Array

RATES = (0.05, 0.02, 0.01, 0.005)
PREVALENCES = (0.001, 0.01, 0.05, 0.20)
FDRS = (0.05, 0.1, 0.2)
#: Test logs that are drawn for each prevalence.
DRAWS = 100


@dataclass(frozen=True)
class Measured:
    """The labelled test sessions of one run."""

    protocol: Protocol
    seed: int
    n_calibrated: int
    p_values: Float64Array
    is_anomaly: BoolArray  # by the default rule
    labels: Int8Array  # 1 or 0
    train_p_values: Float64Array  # of the sessions that the model was fitted on

    @property
    def normal(self) -> Float64Array:
        """p-values of the normal test sessions."""
        return self.p_values[self.labels == 0]


def clopper_pearson(n_alarms: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The rates that so many alarms in `n` sessions are compatible with."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, n_alarms, n - n_alarms + 1)) if n_alarms else 0.0
    high = float(beta.ppf(1 - tail, n_alarms + 1, n - n_alarms)) if n_alarms < n else 1.0
    return low, high


def achieved_interval(asked: float, n_calibrated: int, n_fresh: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the share of `n_fresh` sessions that raise an alarm lies, if training and they are exchangeable.

    The calibration sessions are a sample too: the rate behind a conformal threshold is beta-distributed around `asked`.
    """
    beyond = max(int(asked * (n_calibrated + 1)), 1)
    alarms = betabinom(n_fresh, beyond, n_calibrated + 1 - beyond)
    tail = (1 - confidence) / 2
    return float(alarms.ppf(tail)) / n_fresh, float(alarms.ppf(1 - tail)) / n_fresh


def measure_run(protocol: Protocol, seed: int, folder: Path) -> Measured:
    """Split, train on normal sessions, score."""
    case = protocol.split(folder, seed, contamination=0.0)
    flags = [
        "--seed",
        str(seed),
        "--checkpoint_dir",
        str(folder / "run"),
        "--output_dir",
        str(folder / "out"),
        "--quiet",
    ]
    if ai_detect(["train", "--train_file", str(case.train), *case.flags, *flags]) != 0:
        raise RuntimeError(f"{protocol.name}: training failed")
    pipeline = LogAnomalyPipeline.load(folder / "run" / "model")
    trained = pipeline.score(pipeline.parse(str(case.train)))
    log = pipeline.parse(str(case.test))
    scores = pipeline.score(log).scores
    labels = labels_for(log.sessions.keys, read_label_file(case.labels), case.labels)
    known = labels >= 0
    return Measured(
        protocol,
        seed,
        pipeline.bank.n_calibrated,
        scores.p_value[known],
        scores.is_anomaly[known],
        labels[known],
        trained.scores.p_value,
    )


def rates_table(runs: Sequence[Measured]) -> str:
    """Asked and achieved, with the intervals, beside the quantile of the training sessions' own scores."""
    lines = [
        "| test | seed | asked | achieved | 95 % interval of it | asked lies within | expected if nothing drifts "
        "| lies within | quantile of in-sample scores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        n = len(run.normal)
        for asked in RATES:
            n_alarms = int((run.normal <= asked).sum())
            low, high = clopper_pearson(n_alarms, n)
            least, most = achieved_interval(asked, run.n_calibrated, n)
            naive = float((run.normal <= np.quantile(run.train_p_values, asked)).mean())
            lines.append(
                f"| {run.protocol.title} | {run.seed} | {asked:.1%} | {n_alarms / n:.2%} | {low:.2%} to {high:.2%} "
                f"| {_side(asked, low, high)} | {least:.2%} to {most:.2%} | {_side(n_alarms / n, least, most, -1)} "
                f"| {naive:.2%} |"
            )
    return "\n".join(lines)


def _side(value: float, low: float, high: float, sign: int = 1) -> str:
    """Whether the value lies within, else on which side the alarms are."""
    if low <= value <= high:
        return "yes"
    return "fewer alarms" if (value > high) == (sign > 0) else "more alarms"


def resampled(labels: Int8Array, prevalence: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of as large a test log as can be drawn with this share of anomalies, one at least."""
    normal, anomalous = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    n_anomalous = min(len(anomalous), max(1, round(prevalence / (1 - prevalence) * len(normal))))
    n_normal = min(len(normal), round((1 - prevalence) / prevalence * n_anomalous))
    drawn = [rng.permutation(normal)[:n_normal], rng.permutation(anomalous)[:n_anomalous]]
    return np.concatenate(drawn)


def prevalence_table(runs: Sequence[Measured]) -> str:
    """The rule that needs no number, where anomalies are rare and where they are many; and what `--fdr` keeps."""
    fdr_heads = " | ".join(f"false among alarms, `--fdr {fdr:g}`" for fdr in FDRS)
    lines = [
        "| test | seed | prevalence | F1 (5 % to 95 % of the draws) | false-alarm rate | recall | best F1 (oracle) "
        f"| {fdr_heads} |",
        "|---|---|---|---|---|---|---|" + "---|" * len(FDRS),
    ]
    for run in runs:
        rng = np.random.default_rng(run.seed)
        surprisals = -np.log(np.maximum(run.p_values, np.finfo(np.float64).tiny))
        for prevalence in PREVALENCES:
            figures, false_shares = [], []
            for _ in range(DRAWS):
                rows = resampled(run.labels, prevalence, rng)
                found = measure(run.labels[rows], surprisals[rows], run.is_anomaly[rows])
                figures.append([found["f1"], found["fpr"], found["recall"], found["best_f1"]])
                false_shares.append([_false_share(surprisals[rows], run.labels[rows], fdr) for fdr in FDRS])
            f1, fpr, recall, best = np.mean(np.array(figures, np.float64), axis=0)
            low, high = np.quantile(np.array(figures, np.float64)[:, 0], [0.05, 0.95])
            shares = " | ".join(f"{share:.1%}" for share in np.mean(false_shares, axis=0))
            lines.append(
                f"| {run.protocol.title} | {run.seed} | {prevalence:.1%} | {f1:.3f} ({low:.3f} to {high:.3f}) "
                f"| {fpr:.2%} | {recall:.3f} | {best:.3f} | {shares} |"
            )
    return "\n".join(lines)


def _false_share(surprisals: Float64Array, labels: Int8Array, fdr: float) -> float:
    """Share of normal sessions among those that are reported, 0 where none is."""
    found = surprisals >= benjamini_hochberg(surprisals, fdr)
    return float((labels[found] == 0).mean()) if found.any() else 0.0


def main() -> None:
    """Measure, print, and put the tables between their marks in the output file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="Markdown file whose tables are replaced")
    parser.add_argument("--only", nargs="+", choices=list(PROTOCOLS), default=list(PROTOCOLS), help="some of the tests")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of random halves; else the first one")
    arguments = parser.parse_args()
    runs = []
    for name in arguments.only:
        if missing := PROTOCOLS[name].missing:
            print(f"{name}: skipped, {missing} is not there (set AI_DETECT_DATA)", file=sys.stderr)
            continue
        is_random = not PROTOCOLS[name].in_time_order and PROTOCOLS[name].test_log is None
        for seed in arguments.seeds if is_random else arguments.seeds[:1]:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure_run(PROTOCOLS[name], seed, Path(folder)))
            print(f"{name}, seed {seed}:\n{rates_table(runs[-1:])}\n{prevalence_table(runs[-1:])}\n", flush=True)
    if arguments.output and runs:
        text, version = arguments.output.read_text(), code_version()
        measured = f"Measured at {version['version']} (code {version['code']})."
        for kind, table in (("rates", rates_table(runs)), ("prevalence", prevalence_table(runs))):
            text = replace_between(text, kind, f"{measured}\n\n{table}")
        arguments.output.write_text(text)


if __name__ == "__main__":
    main()
