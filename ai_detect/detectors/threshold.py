"""Where an alarm begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ai_detect.config import AlarmSettings
from ai_detect.errors import ConfigError
from ai_detect.tables import NO_TIME, BoolArray, Float64Array, Int64Array

#: The first two need no number; the others are named after the flag that gives it.
Rule = Literal["budget", "suspects", "contamination", "false_alarm_rate", "max_alerts_per_day", "fdr", "threshold"]
#: Share of normal sessions that may raise an alarm where the user does not say; what a clean log holds by chance.
BUDGET = 0.003
#: Share of the suspects that may be normal after all: rare sets of events make a session suspect, and nothing else.
_MISTAKEN = 0.1
#: Share of normal sessions that may raise an alarm at most so that suspects do: a method that does not see these would
#: flag nearly all.
_MOST_FOR_SUSPECTS = 0.01
#: More than half of all sessions are never reported as false alarms, whatever number of them a day would be allowed.
_HIGHEST_RATE = 0.5
_NS_PER_DAY = 86_400 * 1e9


@dataclass(frozen=True)
class Threshold:
    """Alarm where -ln p is at least `surprisal`; `training_share` of the held-out training sessions lie there.

    `asked` is the number that the rule was given, None where it needs none.
    """

    surprisal: float
    rule: Rule
    training_share: float
    asked: float | None = None

    def on(self, surprisals: Float64Array) -> float:
        """The -ln p from which sessions of a log with these values are reported; only "fdr" looks at them."""
        if self.rule == "fdr" and self.asked is not None:
            return benjamini_hochberg(surprisals, self.asked)
        return self.surprisal


def choose_threshold(
    surprisals: Float64Array,
    suspected: BoolArray,
    trusted: BoolArray,
    alarm: AlarmSettings,
    sessions_per_day: float | None = None,
) -> Threshold:
    """The threshold from the fused -ln p of held-out training sessions, duplicates kept, and from what the user knows.

    Without a number from the user `BUDGET` of the sessions may lie beyond, and where that is no session at all, the
    threshold lies beyond them all. Where suspects are so many that they are not trusted, it is as low as all but
    `_MISTAKEN` of them need to raise an alarm, too, but not below what `_MOST_FOR_SUSPECTS` allows: what else is wrong
    in such a log is among those that calibrate, and hides in their tail.
    """
    if (asked := asked_threshold(surprisals, alarm, sessions_per_day)) is not None:
        return asked
    rule: Rule = "budget"
    n = int(trusted.sum())
    level = _exceeded_by(BUDGET, n)
    if not trusted.all():
        of_suspects = np.sort(surprisals[suspected])
        lowest = max(float(of_suspects[int(_MISTAKEN * len(of_suspects))]), _exceeded_by(_MOST_FOR_SUSPECTS, n))
        if lowest < level:
            level, rule = lowest, "suspects"
    return Threshold(level, rule, float((surprisals >= level).mean()))


def asked_threshold(surprisals: Float64Array, alarm: AlarmSettings, sessions_per_day: float | None) -> Threshold | None:
    """The threshold in the user's own terms, None where there is no number in `alarm`; arguments as above.

    Raises ConfigError where alerts a day were asked for and it is not known how many sessions a day there are.
    """
    rule: Rule
    if alarm.false_alarm_rate is not None:
        rule, asked, level = "false_alarm_rate", alarm.false_alarm_rate, float(-np.log(alarm.false_alarm_rate))
    elif alarm.max_alerts_per_day is not None:
        rule, asked = "max_alerts_per_day", alarm.max_alerts_per_day
        level = float(-np.log(rate_of_alerts(asked, sessions_per_day)))
    elif alarm.contamination is not None:
        rule, asked = "contamination", alarm.contamination
        level = _at_most(asked, surprisals)
    elif alarm.fdr is not None:
        rule, asked, level = "fdr", alarm.fdr, benjamini_hochberg(surprisals, alarm.fdr)
    else:
        return None
    return Threshold(level, rule, float((surprisals >= level).mean()), asked)


def rate_of_alerts(alerts_per_day: float, sessions_per_day: float | None) -> float:
    """The false-alarm rate that gives so many alerts a day, one half at most; raises ConfigError where the sessions a
    day are not known.
    """
    if sessions_per_day is None:
        raise ConfigError(
            f"--max_alerts_per_day {alerts_per_day:g}: the training log has no times that tell how many sessions a day "
            "there are; give --false_alarm_rate"
        )
    return min(alerts_per_day / sessions_per_day, _HIGHEST_RATE)


def daily_sessions(start_times: Int64Array) -> float | None:
    """Sessions a day of a log, from the times in ns at which they start (NO_TIME where a session has none).

    The first and the last hundredth do not count, so that a wrong date does not stretch the log. None without times.
    """
    known = np.sort(start_times[start_times != NO_TIME])
    if len(known) == 0:
        return None
    first, last = np.quantile(known - known[0], [0.01, 0.99])
    days = float(last - first) / _NS_PER_DAY
    return 0.98 * (len(known) - 1) / days * len(start_times) / len(known) if days > 0 else None


def benjamini_hochberg(surprisals: Float64Array, fdr: float) -> float:
    """The -ln p from which the sessions of a log are reported, so that on average `fdr` of the reports are false.

    Benjamini and Hochberg (1995): the largest k for which k sessions have p <= k * fdr / n; where there is none, the
    level that one session alone would have to reach. p-values from one set of calibration sessions depend on each
    other, and so do equal sessions, which come and go together; as one that is small makes others small rather than
    large, the rate holds on average over logs all the same (Bates et al., 2023), while a single log may well hold a
    frequent harmless novelty that is reported many times.
    """
    n = max(len(surprisals), 1)
    levels = np.log(n) - np.log(np.arange(1, n + 1)) - np.log(fdr)
    reached = np.flatnonzero(np.sort(surprisals)[::-1] >= levels[: len(surprisals)])
    return float(levels[reached[-1] if len(reached) else 0])


def _at_most(share: float, surprisals: Float64Array) -> float:
    """The lowest level that no more than this share of the sessions reach; equal sessions are on one side."""
    falling = np.sort(surprisals)[::-1]
    n = int(np.floor(share * len(falling) + 1e-9))
    first = int(np.searchsorted(-falling, -falling[min(n, len(falling) - 1)]))  # of those equal to the first one left
    if first:
        return float(falling[first - 1 : first + 1].mean())
    return max(_exceeded_by(0, len(falling)), float(falling[0]) + 0.1)


def _exceeded_by(share: float, n: int) -> float:
    # the highest training score has p = 2 / (n + 1): with less than a session to exceed it, a tenth beyond that
    return float(np.log((n + 1) / (share * n + 1 if share * n >= 1 else 1.8)))


def score_of(surprisals: Float64Array) -> Float64Array:
    """-ln p on a scale from 0 to 1: one half where one normal session in a hundred scores as high, never quite 1."""
    decades = surprisals / np.log(10)
    return np.asarray(decades / (decades + 2))


def surprisal_of(score: float) -> float:
    """-ln p of a score below 1, infinite for 1."""
    return float(2 * np.log(10) * score / (1 - score)) if score < 1 else float("inf")
