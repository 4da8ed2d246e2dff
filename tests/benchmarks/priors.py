"""Whether the ensemble listens to its components as it should, judged without a label: makes docs/benchmarks-priors.md.

    python tests/benchmarks/priors.py --output docs/benchmarks-priors.md

Faults of known kinds are planted (planted_faults.py) in held-out sessions of many logs (planted_logs.py), real ones and
made-up ones, whose labels, where there are any, are not read; models are trained on each log as it is, and with faults
in some of its training sessions. Compared are the shipped priors with and without what is heard alone, equal weights,
and for each log the weights that are best on all other logs. What the components say of these sessions is stored, with
--work_dir for the next run too; to fuse it in other ways takes a minute.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from detection_ablation import restricted
from detection_tables import replace_between
from planted_faults import FAULTS
from planted_logs import REAL, SYSTEMS, logs
from planted_scores import Scores, foreign_messages, scores_of
from sklearn.metrics import average_precision_score

from ai_detect.config import DetectionSettings, FusionMethod
from ai_detect.detectors import threshold
from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.components import Component, components_of
from ai_detect.detectors.fusion import Fusion
from ai_detect.detectors.suspicion import cleanness
from ai_detect.tables import BoolArray, Float64Array

#: Weight of the planted sessions, as a share of all: what precision is computed for.
PREVALENCE = 0.05
#: Faults in the training sessions of a dirty log, as a share drawn from here.
DIRT = (0.03, 0.08)
MODES = ("as it is", "dirtied")
#: Weights that are tried, and how much better AUPRC must be for one more component.
_WEIGHTS, _COST = (0.0, 0.1, 0.25, 0.5, 1.0, 1.5), 0.0005
_SHARES = (0.0, 0.1, 0.2, 0.3)
#: Shares of the suspects that are tried as mistaken.
_MISTAKEN = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
_ROUNDS = 2
_FUSION: FusionMethod = "static_weight"


def weights_of(kind: np.ndarray, incidents: float) -> Float64Array:
    """Weight of each session: hosts 1, planted ones together `PREVALENCE` of all, this share of it on incidents; each
    incident and each kind counts the same.
    """
    is_incident = np.char.startswith(kind, "incident")
    weights = (kind == "").astype(np.float64)
    total = PREVALENCE / (1 - PREVALENCE) * weights.sum()
    for part, share in ((is_incident, incidents), (~is_incident & (kind != ""), 1 - incidents)):
        names = np.unique(kind[part])
        for name in names:
            weights[kind == name] = share * total / len(names) / (kind == name).sum()
    return np.asarray(weights)


class Planted:
    """What the components say of one log's sessions in one mode, and what an ensemble of them makes of it."""

    def __init__(self, log: str, mode: str, scores: Scores) -> None:
        self.log, self.mode, self.scores = log, mode, scores
        calibrations = {name: TailCalibration.fit_bulk(raw[scores.normal]) for name, raw in scores.held_out.items()}
        self._held_out = {name: calibrations[name].surprisal(raw) for name, raw in scores.settled.items()}
        self._test = {name: calibrations[name].surprisal(raw) for name, raw in scores.test.items()}
        self._mixed: dict[tuple[Component, ...], float] = {}

    def auprc(self, scores: Float64Array, incidents: float) -> float:
        """Average precision, with this share of incidents among what is planted."""
        kind = self.scores.kind
        return float(average_precision_score(kind != "", scores, sample_weight=weights_of(kind, incidents)))

    def mixed_auprc(self, components: Sequence[Component]) -> float:
        """The same of an ensemble of these components, incidents and single faults half and half."""
        key = tuple(components)
        if key not in self._mixed:
            self._mixed[key] = self.auprc(self._statistics(components)[1], 0.5)
        return self._mixed[key]

    def fused(self, components: Sequence[Component]) -> tuple[Float64Array, BoolArray]:
        """-ln p and alarms of the sessions, as of a model whose ensemble these components are."""
        own, theirs = self._statistics(components)
        calibration = TailCalibration.fit(own[self.scores.normal])
        surprisals = calibration.surprisal(own)
        limit = threshold.choose_threshold(surprisals, self.scores.suspects, self.scores.normal, DetectionSettings())
        found = calibration.surprisal(theirs)
        return found, found >= limit.surprisal

    def _statistics(self, components: Sequence[Component]) -> tuple[Float64Array, Float64Array]:
        """Of the training sessions, held out, and of the others: what DetectorBank.fit and its scores calibrate."""
        scores = self.scores
        with restricted(components):
            clean = cleanness(scores.suspects)
            fusion = Fusion.fit(_FUSION, components, scores.held_out, self._held_out, scores.normal, clean)
            return fusion.statistic(scores.held_out, self._held_out), fusion.statistic(scores.test, self._test)


def best_of(planted: Sequence[Planted], components: Sequence[Component]) -> list[Component]:
    """The components with the weights of the highest mean AUPRC, one changed at a time from equal ones; who is heard
    alone keeps its own.
    """

    def value(tried: Sequence[Component]) -> float:
        each = [one.mixed_auprc(tried) for one in planted]
        return float(np.mean(each)) - _COST * sum(component.prior > 0 for component in tried)

    chosen = equal(components)
    best = value(chosen)
    for _ in range(_ROUNDS):
        before = best
        for at in [at for at, component in enumerate(components) if not component.alone]:
            for weight in _WEIGHTS:
                tried = [*chosen[:at], replace(chosen[at], prior=weight, prior_if_dirty=None), *chosen[at + 1 :]]
                if (found := value(tried)) > best:
                    chosen, best = tried, found
        if best == before:
            break
    return chosen


def equal(components: Sequence[Component]) -> list[Component]:
    """The components with weight 1, but for those that are heard alone."""
    return [
        component if component.alone else replace(component, prior=1.0, prior_if_dirty=None) for component in components
    ]


@dataclass(frozen=True)
class Row:
    """Figures of one log in one mode."""

    singles: float  # AUPRC of single faults, of incidents
    incidents: float
    found_singles: float  # share of them over the default threshold
    found_incidents: float
    false_alarms: float  # share of the hosts
    by_kind: dict[str, float]

    @classmethod
    def of(cls, planted: Planted, components: Sequence[Component]) -> Row:
        """With these components as the ensemble."""
        scores, alarms = planted.fused(components)
        kinds = planted.scores.kind
        found = {str(kind): float(alarms[kinds == kind].mean()) for kind in np.unique(kinds)}
        incidents = float(np.mean([share for kind, share in found.items() if kind.startswith("incident")]))
        singles = {kind: share for kind, share in found.items() if kind in FAULTS}
        return cls(
            singles=planted.auprc(scores, 0),
            incidents=planted.auprc(scores, 1),
            found_singles=float(np.mean(list(singles.values()))),
            found_incidents=incidents,
            false_alarms=found[""],
            by_kind={**singles, "incident": incidents},
        )


def measured(folder: Path, only: Sequence[str], seed: int) -> Iterator[Planted]:
    """The scores of each log in each mode; those that `folder` holds are not computed again."""
    wanted = [name for name in (*REAL, *SYSTEMS) if not only or name in only]
    paths = {(name, mode): folder / f"{name} {mode} {seed}.npz" for name in wanted for mode in MODES}
    # messages of other logs are planted, so that all are needed where one is missing
    all_logs = {} if all(path.exists() for path in paths.values()) else dict(logs())
    for (name, mode), path in paths.items():
        if not path.exists() and name in all_logs:
            dirt = 0.0 if mode == MODES[0] else random.Random(f"{name} {seed}").uniform(*DIRT)
            scores_of(all_logs[name], foreign_messages(name, all_logs, seed), dirt, seed).save(path)
        if path.exists():
            yield Planted(name, mode, Scores.load(path))


def tables(planted: Sequence[Planted]) -> str:
    """All tables of the document."""
    shipped = components_of("ensemble")
    ways: dict[str, Callable[[Planted], Sequence[Component]]] = {
        "shipped": lambda one: shipped,
        "nothing alone": lambda one: [replace(component, alone=0.0) for component in shipped],
        "equal weights": lambda one: equal(shipped),
    }
    names = list(dict.fromkeys(one.log for one in planted))
    chosen = {log: best_of([one for one in planted if one.log != log], shipped) for log in names if len(names) > 1}
    if chosen:
        ways["best on the other logs"] = lambda one: chosen[one.log]
    rows = {way: [Row.of(one, make(one)) for one in planted] for way, make in ways.items()}
    parts = [_by_log(planted, rows), _by_kind(planted, rows), _by_share(planted, shipped), _by_mistaken(planted)]
    if chosen:
        parts.append(_weights(shipped, best_of(planted, shipped), list(chosen.values())))
    return "\n".join(parts)


def _by_log(planted: Sequence[Planted], rows: dict[str, list[Row]]) -> str:
    lines = [
        "### By log\n",
        "AUPRC of single faults / of incidents; in brackets found single faults / incidents / false alarms, at the "
        "default threshold.\n",
        f"| log | training | {' | '.join(rows)} |",
        f"|---|---|{'---|' * len(rows)}",
    ]

    def cell(found: Sequence[Row]) -> str:
        columns = np.array(
            [[r.singles, r.incidents, r.found_singles, r.found_incidents, r.false_alarms] for r in found]
        )
        one, other, single, incident, false = columns.mean(axis=0)
        return f"{one:.3f} / {other:.3f} ({single:.2f} / {incident:.2f} / {false:.4f})"

    for at, one in enumerate(planted):
        cells = [cell([found[at]]) for found in rows.values()]
        lines.append(f"| {one.log} | {one.mode} | {' | '.join(cells)} |")
    for mode in MODES:
        cells = [
            cell([row for row, one in zip(found, planted, strict=True) if one.mode == mode]) for found in rows.values()
        ]
        lines.append(f"| **mean** | {mode} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _by_kind(planted: Sequence[Planted], rows: dict[str, list[Row]]) -> str:
    lines = [
        "### Found at the default threshold, by kind\n",
        "Mean over the logs, as they are / dirtied.\n",
        f"| fault | {' | '.join(rows)} |",
        f"|---|{'---|' * len(rows)}",
    ]
    for kind in (*FAULTS, "incident"):
        cells = []
        for found in rows.values():
            shares = [
                np.mean(
                    [
                        row.by_kind[kind]
                        for row, one in zip(found, planted, strict=True)
                        if one.mode == mode and kind in row.by_kind
                    ]
                    or [np.nan]
                )
                for mode in MODES
            ]
            cells.append(" / ".join(f"{share:.2f}" for share in shares))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _by_share(planted: Sequence[Planted], shipped: Sequence[Component]) -> str:
    heard = {component.view: component.alone for component in shipped if component.alone}
    tried = [heard] + [{**heard, view: share} for view in heard for share in _SHARES if share != heard[view]]
    lines = [
        "### The share of the false alarms that a view may raise alone\n",
        "As shipped, and with one of them changed.\n",
        f"| {' | '.join(heard)} | single faults | incidents | mean | found | false alarms |",
        f"|{'--:|' * (len(heard) + 5)}",
    ]
    for shares in tried:
        found = [Row.of(one, [replace(part, alone=shares.get(part.view, 0.0)) for part in shipped]) for one in planted]
        single, incident, over, false = (
            float(np.mean([getattr(row, name) for row in found]))
            for name in ("singles", "incidents", "found_singles", "false_alarms")
        )
        cells = [f"{share:g}" for share in shares.values()]
        figures = f"{single:.3f} | {incident:.3f} | {(single + incident) / 2:.3f} | {over:.3f} | {false:.4f}"
        lines.append(f"| {' | '.join(cells)} | {figures} |")
    return "\n".join([*lines, ""])


def _by_mistaken(planted: Sequence[Planted]) -> str:
    dirty = [one for one in planted if not one.scores.normal.all()]
    lines = [
        "### The share of the suspects that may be mistaken\n",
        f"At the default threshold, mean over the {len(dirty)} runs in which some training sessions are not trusted.\n",
        "| mistaken | found single faults | incidents | false alarms |",
        "|--:|--:|--:|--:|",
    ]
    for share in _MISTAKEN if dirty else ():
        with patch.object(threshold, "_MISTAKEN", share):
            found = [Row.of(one, components_of("ensemble")) for one in dirty]
        names = ("found_singles", "found_incidents", "false_alarms")
        single, incident, false = (float(np.mean([getattr(row, name) for row in found])) for name in names)
        lines.append(f"| {share:g} | {single:.3f} | {incident:.3f} | {false:.4f} |")
    return "\n".join([*lines, ""])


def _weights(shipped: Sequence[Component], best: Sequence[Component], each: Sequence[Sequence[Component]]) -> str:
    lines = [
        "### Weights\n",
        "Those shipped, the best on all logs, and the range of those that are best with a log left out.\n",
        "| component | shipped | best | least | most |",
        "|---|--:|--:|--:|--:|",
    ]
    priors = np.array([[component.prior for component in components] for components in each])
    columns = zip(shipped, best, priors.min(axis=0), priors.max(axis=0), strict=True)
    lines += [
        f"| `{own.name}` | {own.prior:g} | {one.prior:g} | {low:g} | {high:g} |" for own, one, low, high in columns
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, help="Markdown file whose tables are replaced; else they are printed only"
    )
    parser.add_argument("--work_dir", type=Path, help="where the scores are kept; what is there is not measured again")
    parser.add_argument("--only", nargs="+", choices=[*REAL, *SYSTEMS], default=[], help="these logs alone")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work_dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        planted = list(measured(folder, arguments.only, arguments.seed))
    text = tables(planted)
    print(text)
    if arguments.output:
        document = replace_between(arguments.output.read_text("utf-8"), "priors", text)
        arguments.output.write_text(document, "utf-8")


if __name__ == "__main__":
    main()
