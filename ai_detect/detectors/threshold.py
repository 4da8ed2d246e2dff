"""Where an alarm begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ai_detect.tables import BoolArray, Float64Array

Rule = Literal["tail_break", "contamination", "false_alarm_rate"]
#: Share of the training sessions that may lie beyond the default threshold where nothing sets any of them apart.
BUDGET = 0.005
#: What lies this many times as far out as the 90th percentile lies above the median is set apart, as long as it is no
#: more than this share of the sessions: a bulk does not reach there, and few abnormal sessions do not move it.
_FAR = 2.5
_MOST_FAR = 0.02


@dataclass(frozen=True)
class Threshold:
    """Alarm where -ln p is at least `surprisal`; `training_share` of the held-out training sessions lie there."""

    surprisal: float
    rule: Rule
    training_share: float


def far_out(statistic: Float64Array) -> float:
    """Where the statistic of training sessions leaves its bulk behind, on its own scale."""
    median, upper = np.quantile(statistic, [0.5, 0.9])
    return float(median + _FAR * (upper - median))


def choose_threshold(
    surprisals: Float64Array,
    suspected: BoolArray,
    far: float,
    *,
    contamination: float | None = None,
    false_alarm_rate: float | None = None,
) -> Threshold:
    """The threshold from the fused -ln p of held-out training sessions, duplicates kept, and from what the user knows.

    Without a number from the user: where more training sessions are suspected than the budget allows for, the threshold
    that tells them best from the others (highest F1); else the budget, or `far` (the -ln p of `far_out`) where that is
    lower; where the budget is no session at all, beyond them all.
    """
    rule: Rule = "tail_break"
    if false_alarm_rate is not None:
        level, rule = float(-np.log(false_alarm_rate)), "false_alarm_rate"
    elif contamination is not None:
        level, rule = _exceeded_by(contamination, len(surprisals)), "contamination"
    elif suspected.mean() > BUDGET:
        level = _between(surprisals, suspected)
    else:
        n = len(surprisals)
        level = max(min(_exceeded_by(BUDGET, n), far), _exceeded_by(_MOST_FAR, n))
    return Threshold(level, rule, float((surprisals >= level).mean()))


def _exceeded_by(share: float, n: int) -> float:
    # the highest training score has p = 2 / (n + 1): with less than a session to exceed it, a tenth beyond that
    return float(np.log((n + 1) / (share * n + 1 if share * n >= 1 else 1.8)))


def _between(surprisals: Float64Array, suspected: BoolArray) -> float:
    order = np.argsort(-surprisals, kind="stable")
    falling = surprisals[order]
    last = np.append(falling[1:] != falling[:-1], True)  # equal scores are on one side
    n_above = np.arange(1, len(falling) + 1)
    f1 = np.where(last, 2 * np.cumsum(suspected[order]) / (n_above + suspected.sum()), 0)
    best = int(f1.argmax())
    return float(falling[best : best + 2].mean())


def score_of(surprisals: Float64Array) -> Float64Array:
    """-ln p on a scale from 0 to 1: one half where one normal session in a hundred scores as high, never quite 1."""
    decades = surprisals / np.log(10)
    return np.asarray(decades / (decades + 2))
