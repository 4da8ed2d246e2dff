"""From the results of runs, one JSON object each, to the tables of docs/benchmarks-detection.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Result = Mapping[str, Any]
#: Of an ablation: how the encoder was trained, and what of the model scores.
Row = tuple[str, str]
OURS = "ai_detect"
METRICS = {
    "auprc": "AUPRC",
    "auroc": "AUROC",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "fpr": "FPR",
    "best_f1": "best F1 (oracle)",
}
#: Targets, (F1, AUPRC); None: more than every baseline, in AUPRC too.
TARGETS: Mapping[tuple[str, str], tuple[float | None, float]] = {
    ("hdfs", "clean"): (0.98, 0.998),
    ("hdfs", "contaminated"): (0.94, 0.97),
    ("hdfs_time", "clean"): (0.95, 0.96),
    ("hdfs_time", "contaminated"): (0.85, 0.90),
    ("bgl", "clean"): (None, 0.90),
    ("bgl", "contaminated"): (None, 0.85),
    ("openstack", "clean"): (0.99, 0.998),
    ("openstack", "contaminated"): (0.95, 0.99),
    ("postgresql", "clean"): (0.95, 0.98),
    ("postgresql", "contaminated"): (0.85, 0.90),
}
#: Against the best single baseline of each test: what may be lost on one of them, and what must be won in the mean.
MOST_BELOW = 0.01
LEAD = {"clean": 0.03, "contaminated": 0.10}
#: Ways to train the encoder, by the name of the variant.
ENCODERS = {
    "trained": "trained (default)",
    "untrained": "untrained",
    "no_contrastive": "without contrastive loss",
    "no_augmentation": "without augmentation",
    "no_negatives": "without shifted negatives",
    "no_words": "without words",
}
SWEEP_METHODS = (OURS, "knn1_uniq", "ecod", "iforest", "lstm", "invariants")


@dataclass(frozen=True)
class Group:
    """All seeds of one test in one mode."""

    test: str
    mode: str
    results: Sequence[Result]

    @cached_property
    def baselines(self) -> list[str]:
        """Names of the methods that are not ours."""
        return [name for name in self.results[0]["methods"] if name != OURS]

    def values(self, method: str, metric: str, part: str | None = None) -> np.ndarray:
        """A figure of every seed, of all sessions or of a `part` of them; NaN where it is undefined."""
        rows = [result["methods"][method] for result in self.results]
        found = [(row[part] if part else row)[metric] for row in rows]
        return np.array([np.nan if value is None else value for value in found])

    def mean(self, method: str, metric: str, part: str | None = None) -> float:
        """The mean over the seeds for which it is defined."""
        values = self.values(method, metric, part)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def best(self, metric: str, part: str | None = None) -> str:
        """The baseline of the highest mean: with hindsight."""
        return max(self.baselines, key=lambda name: np.nan_to_num(self.mean(name, metric, part), nan=-1.0))

    def average(self, *keys: str) -> float:
        """The mean of a number that is not of a method."""
        values: list[Any] = list(self.results)
        for key in keys:
            values = [value[key] for value in values]
        return float(np.mean(values))


def groups_of(results: Iterable[Result]) -> list[Group]:
    """The results by test and mode, in their order."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result["test"], result["mode"]), []).append(result)
    return [Group(*key, members) for key, members in found.items()]


def detection_tables(results: Sequence[Result]) -> str:
    """Summary and targets, the same on distinct sessions, cost, then every test with every baseline."""
    groups = groups_of(results)
    parts = [_measured(results), "### Against the best single baseline of each test"]
    for mode in _modes(groups):
        parts += [_summary(mode, [group for group in groups if group.mode == mode], None)]
    parts += ["### The same on distinct sessions"]
    for mode in _modes(groups):
        parts += [_summary(mode, [group for group in groups if group.mode == mode], "distinct")]
    parts += ["### Cost", _cost(groups), "### Every test, every baseline"]
    for group in groups:
        parts += [_methods(group)]
    return "\n\n".join(parts) + "\n"


def sweep_table(results: Sequence[Result]) -> str:
    """AUPRC / F1 / FPR as the training part grows dirtier, and what the model itself says of that."""
    rows = []
    for group in sorted(groups_of(results), key=lambda group: group.average("train_contamination")):
        cells = [
            " / ".join(_figure(group.mean(name, metric), metric) for metric in ("auprc", "f1", "fpr"))
            for name in SWEEP_METHODS
        ]
        shares = [group.average("train_contamination"), group.average("detection", "suspected_contamination")]
        n_train = f"{group.average('train_sessions'):,.0f}"
        rows.append([group.test, f"{shares[0]:.1%}", n_train, f"{shares[1]:.1%}", *cells])
    rows.sort(key=lambda row: row[0])  # stable: shares rise within a test
    columns = ["test", "anomalous", "training sessions", "suspected by the model", *SWEEP_METHODS]
    return f"{_measured(results)}\n\nAUPRC / F1 / FPR.\n\n{_table(columns, rows)}\n"


def ablation_tables(results: Sequence[Result]) -> str:
    """AUPRC / F1 with the encoder changed, and of the parts of the default model, alone and left out."""
    rows: dict[Row, list[Result]] = {}
    for result in results:
        for method in result["methods"]:
            rows.setdefault((result["variant"], method), []).append(result)
    default, variants = ("trained", OURS), list(ENCODERS)
    parts = [_measured(results), "AUPRC / F1; differences are to the first row, over runs that both have."]
    encoder = {(variant, OURS): ENCODERS[variant] for variant in variants} | {("untrained", "no_encoder"): "no encoder"}
    parts += ["### The encoder changed or taken away, all of the ensemble", _ablation(encoder, rows)]
    for component in ("knn:embedding", "reconstruction:surprise"):
        names = {(variant, f"alone {component}"): ENCODERS[variant] for variant in variants}
        parts += [f"### The encoder changed, `{component}` alone", _ablation(names, rows)]
    for title, prefix in (
        ("A view left out: of the components and the profile", "no "),
        ("A component left out, its numbers still in the profile", "without "),
        ("A component alone", "alone "),
    ):
        found = {
            row: f"`{row[1].removeprefix(prefix)}`" for row in rows if row[0] == "trained" and row[1].startswith(prefix)
        }
        parts += [f"### {title}", _ablation({default: "all (default)", **found}, rows)]
    methods = {row: f"`{row[1]}`" for row in rows if row[0] == "trained" and " " not in row[1] and row != default}
    parts += ["### Every method", _ablation({default: "`ensemble` (default)", **methods}, rows)]
    return "\n\n".join(parts) + "\n"


def _ablation(titles: Mapping[Row, str], rows: Mapping[Row, Sequence[Result]]) -> str:
    """A line for each row that was measured, the first one being what the others are compared with."""
    titles = {row: title for row, title in titles.items() if row in rows}
    groups = list(dict.fromkeys((result["test"], result["mode"]) for row in titles for result in rows[row]))
    figures = {
        row: {(each["test"], each["mode"], each["seed"]): _auprc_f1(each["methods"][row[1]]) for each in rows[row]}
        for row in titles
    }
    first = next(iter(figures.values()), {})
    lines = []
    for row, title in titles.items():
        found = figures[row]
        of_group = [[found[run] for run in found if run[:2] == group] for group in groups]
        gained = [[found[run] - first[run] for run in found if run[:2] == group and run in first] for group in groups]
        means = [np.mean(values, axis=0) if values else None for values in of_group]
        cells = ["-" if mean is None else f"{mean[0]:.3f} / {mean[1]:.3f}" for mean in means]
        mean = np.mean([mean for mean in means if mean is not None], axis=0)
        line = [title, *cells, f"**{mean[0]:.3f} / {mean[1]:.3f}**", ""]
        if found is not first and any(gained):
            difference = np.mean([np.mean(values, axis=0) for values in gained if values], axis=0).round(3) + 0.0
            line[-1] = f"{difference[0]:+.3f} / {difference[1]:+.3f}"
        lines.append(line)
    return _table(["", *(f"{test} {mode}" for test, mode in groups), "mean", "difference"], lines)


def _auprc_f1(figures: Mapping[str, Any]) -> np.ndarray:
    return np.array([np.nan if figures[name] is None else figures[name] for name in ("auprc", "f1")])


def replace_between(text: str, kind: str, tables: str) -> str:
    """The document with these tables between its marks; raises ValueError where it has none."""
    begin, end = f"<!-- {kind} tables begin -->", f"<!-- {kind} tables end -->"
    head, mark, rest = text.partition(begin)
    _, closing, tail = rest.partition(end)
    if not mark or not closing:
        raise ValueError(f"the output file has no lines {begin} and {end} to put tables between")
    return f"{head}{begin}\n\n{tables}\n{end}{tail}"


def _modes(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(group.mode for group in groups))


def _measured(results: Sequence[Result]) -> str:
    versions = " and ".join(sorted({f"{result['version']} (code {result['code']})" for result in results}))
    seeds = ", ".join(map(str, sorted({result["seed"] for result in results})))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"Measured at {versions} on {machine}; seeds {seeds}."


def _summary(mode: str, groups: Sequence[Group], part: str | None) -> str:
    """Ours beside the best baseline by AUPRC and by F1 of every test, the means, and whether targets are reached."""
    rows = []
    pairs: dict[str, list[tuple[float, float]]] = {"auprc": [], "f1": []}
    for group in groups:
        row = [group.test]
        for metric, found in pairs.items():
            best = group.best(metric, part)
            ours, theirs = group.mean(OURS, metric, part), group.mean(best, metric, part)
            found.append((ours, theirs))
            row += [_spread(group, OURS, metric, part), f"{theirs:.3f} ({best})", f"{ours - theirs:+.3f}"]
        rows.append(row + ([] if part else _target(group)))
    means = [f"**mean of {len(groups)}**"]
    for found in pairs.values():
        ours, theirs = np.mean(found, axis=0).tolist()
        means += [f"**{ours:.3f}**", f"{theirs:.3f}", f"**{ours - theirs:+.3f}**"]
    rows.append(means + ([] if part else ["", ""]))
    columns = ["test", "AUPRC", "best baseline", "difference", "F1", "best baseline", "difference"]
    table = _table(columns + ([] if part else ["target F1 / AUPRC", "reached"]), rows)
    text = f"**{mode}**\n\n{table}"
    if part:
        return text
    verdicts = []
    for metric, found in pairs.items():
        gained = [ours - theirs for ours, theirs in found]
        worst, mean = min(gained), float(np.mean(gained))
        verdicts.append(
            f"{METRICS[metric]}: below the best baseline of a test by more than {MOST_BELOW}: "
            f"{'no' if worst >= -MOST_BELOW else 'yes'} (worst {worst:+.3f}); above it in the mean by {LEAD[mode]}: "
            f"{'reached' if mean >= LEAD[mode] else 'not reached'} ({mean:+.3f})."
        )
    return text + "\n\n" + "\n".join(f"- {verdict}" for verdict in verdicts)


def _target(group: Group) -> list[str]:
    """What is asked for and whether it is there."""
    f1, auprc = TARGETS[group.test, group.mode]
    ours_f1, ours_auprc = group.mean(OURS, "f1"), group.mean(OURS, "auprc")
    if f1 is None:
        best = max(auprc, group.mean(group.best("auprc"), "auprc"))
        reached = ours_f1 > group.mean(group.best("f1"), "f1"), ours_auprc >= best
    else:
        reached = ours_f1 >= f1, ours_auprc >= auprc
    words = " / ".join("yes" if each else "no" for each in reached)
    return [f"{'best' if f1 is None else f'{f1:.2f}'} / {auprc:.3f}", words]


def _methods(group: Group) -> str:
    """Every figure of every method."""
    rows = [
        [f"**{name}**" if name == OURS else name, *(_spread(group, name, metric, None) for metric in METRICS)]
        for name in (OURS, *group.baselines)
    ]
    kinds = group.results[0]["recall_by_kind"]
    names = [name.removeprefix("recall_") for name in kinds if name.startswith("recall_")]
    recalls = []
    for name in names:
        found = [result["recall_by_kind"][f"recall_{name}"] for result in group.results]
        known = [value for value in found if value is not None]
        n = group.average("recall_by_kind", f"n_{name}")
        recalls.append(
            f"{name.replace('_', ' ')} {np.mean(known):.3f} of {n:.0f}" if known else f"{name.replace('_', ' ')} none"
        )
    first = group.results[0]
    return (
        f"#### {first['title']}, {group.mode}\n\n"
        f"{group.average('train_sessions'):,.0f} training sessions, {group.average('train_contamination'):.1%} of them "
        f"anomalous; {group.average('test_sessions'):,.0f} test sessions, prevalence "
        f"{group.average('prevalence'):.1%}, F1 of flagging everything {group.mean('flag_all', 'f1'):.3f}; "
        f"on distinct sessions {group.average('distinct_prevalence'):.1%} and "
        f"{group.mean('flag_all', 'f1', 'distinct'):.3f}. Our recall by kind of anomaly: {', '.join(recalls)}.\n\n"
        f"{_table(['', *METRICS.values()], rows)}"
    )


def _cost(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        cost = {key: group.average("cost", key) for key in group.results[0]["cost"]}
        rows.append(
            [
                f"{group.test}, {group.mode}",
                f"{group.average('train_sessions'):,.0f}",
                f"{cost['train_s']:.1f}",
                f"{cost['train_mb']:.0f}",
                f"{group.average('test_sessions'):,.0f}",
                f"{cost['detect_s']:.1f}",
                f"{cost['detect_mb']:.0f}",
                f"{group.average('test_sessions') / cost['score_s']:,.0f}",
                *(f"{cost[key]:.1f}" for key in ("classic_s", "lstm_s", "invariants_s")),
            ]
        )
    columns = [
        "",
        "training sessions",
        "train s",
        "peak MB",
        "test sessions",
        "detect s",
        "peak MB",
        "scored sessions/s",
    ]
    return _table([*columns, "classic baselines s", "LSTM s", "invariants s"], rows)


def _spread(group: Group, method: str, metric: str, part: str | None) -> str:
    """Mean, and deviation over the seeds where there is any."""
    values = group.values(method, metric, part)
    deviation = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    text = _figure(group.mean(method, metric, part), metric)
    return f"{text} ± {_figure(deviation, metric)}" if deviation > 0 else text


def _figure(value: float, metric: str) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}" if metric == "fpr" else f"{value:.3f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])
