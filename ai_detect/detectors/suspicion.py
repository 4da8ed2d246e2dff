"""How much of a training log may itself be abnormal, from how improbable the set of events of each session is.

Rarity has a scale of its own (nats): the distance from the median to the 85th percentile, at least a factor of 20 in
probability. Neither end moves while less than 15 % of a log is abnormal, and little while less than a quarter is.
"""

from __future__ import annotations

import numpy as np

from ai_detect.tables import BoolArray, Float64Array

_UPPER = 0.85
_LEAST_SCALE = 3.0
#: Abnormal sessions lie apart: twice as far out there are still this share of them.
_PERSISTENCE = 0.75
#: Where nothing lies apart, sessions that are this many scales out are abnormal.
_FAR = 6.0
#: No log is taken to be more abnormal than this.
_MOST = 0.25
#: Doubt, in spacings of neighbouring rows, of a session two scales out is this times ln 2; a wide range does as well.
_DOUBT = 0.5


def distance_out(rarity: Float64Array) -> Float64Array:
    """How many scales each training session's rarity lies above the median, (n,) float64."""
    median, upper = np.quantile(rarity, [0.5, _UPPER])
    return np.asarray((rarity - median) / max(upper - median, _LEAST_SCALE))


def suspicion(rarity: Float64Array) -> Float64Array:
    """Doubt in each training session as an example of normal, logarithmic, 0 for most; (n,) float64."""
    return np.asarray(np.log1p(np.maximum(0, distance_out(rarity) - 1)) * _DOUBT)


def suspected(rarity: Float64Array) -> BoolArray:
    """Which training sessions look abnormal, (n,) bool: those beyond the first break of the tail, or far out."""
    distance = distance_out(rarity)
    out = np.sort(distance)
    n = len(out)
    starts = np.unique(np.append(out[out > 1], 1.0))
    beyond = (n - np.searchsorted(out, starts, side="right")) / n
    twice = (n - np.searchsorted(out, 2 * starts, side="left")) / n
    breaks = starts[(beyond > 0) & (beyond <= _MOST) & (twice >= _PERSISTENCE * beyond)]
    return np.asarray(distance > max(breaks.min(initial=_FAR), np.quantile(out, 1 - _MOST)))
