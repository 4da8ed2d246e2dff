"""From a score of any scale to the share of normal sessions that score at least as high."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.tables import Float64Array

#: Share of the highest scores, and their least number, that the tail is fitted on.
_TAIL_SHARE, _TAIL_LEAST = 0.05, 10
#: Range of the tail's shape: above 0 no score is impossible, and a view that runs away is taken ever less seriously.
_SHAPES = (0.1, 0.5)
#: Share of the scores that `fit_bulk` does not go by.
_BULK_TAIL = 0.05
#: Distinct scores that are kept; beyond that the lower ones are thinned out.
_KEPT = 4096
#: Beyond any score; sums and differences of numbers below it stay finite.
_LARGEST = 1e150


@dataclass(frozen=True)
class TailCalibration:
    """Conformal p-values, continued beyond the highest training score (with `fit_bulk`, beyond the bulk) by a
    generalised Pareto tail.

    p is (1 + sessions that score at least as high) / (1 + sessions) at each score of training, and -ln p is linear in
    between; it rises strictly above the lowest score, so that no order is lost to ties.
    """

    values: Float64Array  # distinct training scores, ascending
    surprisals: Float64Array  # -ln p there
    scale: float
    shape: float

    @classmethod
    def fit(cls, scores: Float64Array, weights: Float64Array | None = None) -> TailCalibration:
        """Fit to held-out scores of training sessions, duplicates kept (or one row each with its number as weight).

        Scale and shape of the tail: probability-weighted moments (Hosking and Wallis, 1987) of the highest scores.
        Raises ValueError where there is no score or one is not finite.
        """
        if len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError("calibration needs at least one score, and finite ones")
        values, inverse = np.unique(np.asarray(scores, np.float64), return_inverse=True)
        mass = np.bincount(inverse, weights, len(values)).astype(np.float64)
        at_least = np.cumsum(mass[::-1])[::-1]
        surprisals = np.log((at_least[0] + 1) / (at_least + 1))
        scale, shape = _fit_tail(values, mass)
        scale = max(scale, 1e-9 * max(abs(float(values[-1])), 1.0))
        if len(values) > _KEPT:
            lower = np.linspace(0, len(values) - _KEPT // 2, _KEPT // 2, endpoint=False).astype(np.int64)
            kept = np.concatenate([lower, np.arange(len(values) - _KEPT // 2, len(values))])
            values, surprisals = values[kept], surprisals[kept]
        return cls(values, surprisals, scale, shape)

    @classmethod
    def fit_bulk(cls, scores: Float64Array) -> TailCalibration:
        """Fit to held-out scores of training sessions, but for the highest: the tail goes on as the bulk falls off.

        What a dirty log holds beyond the bulk, or one odd session of a clean one, so does not make its like usual; how
        far out a score lies is not lost to its rank. Raises ValueError as `fit`.
        """
        ranked = cls.fit(scores)
        median, upper = np.quantile(scores, [0.5, 1 - _BULK_TAIL])
        if upper - median <= 1e-6 * max(abs(float(upper)), 1.0):  # there is no bulk to go by
            return ranked
        level = -float(np.log(_BULK_TAIL))
        below = ranked.values < upper
        values = np.append(ranked.values[below], upper)
        surprisals = np.append(np.minimum(ranked.surprisals[below], level), level)
        return cls(values, surprisals, float(upper - median) / float(np.log(0.5 / _BULK_TAIL)), _SHAPES[0])

    def surprisal(self, scores: Float64Array) -> Float64Array:
        """-ln of the p-values, (n,) float64, at least 0."""
        right = np.minimum(np.searchsorted(self.values, scores), len(self.values) - 1)
        left = np.maximum(right - 1, 0)
        # interpolation may round to more than the value at the right end
        within = np.clip(np.interp(scores, self.values, self.surprisals), self.surprisals[left], self.surprisals[right])
        beyond = np.maximum(scores - self.values[-1], 0) / self.scale
        return np.asarray(within + np.log1p(self.shape * beyond) / self.shape, np.float64)

    def supported(self, scores: Float64Array) -> Float64Array:
        """As `surprisal`, but nothing is taken to be more than twice as rare as the highest score of training: with one
        session that scored so high, that is the least that training can show.
        """
        return np.asarray(np.minimum(self.surprisal(scores), self.surprisals[-1] + np.log(2)))

    def state(self) -> dict[str, Float64Array]:
        """The arrays that `from_state` takes."""
        tail = np.array([self.scale, self.shape])
        return {"values": self.values, "surprisals": self.surprisals, "tail": tail}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> TailCalibration:
        """The calibration that was saved; raises KeyError or ValueError where the arrays are not one."""
        values, surprisals, tail = (arrays[name] for name in ("values", "surprisals", "tail"))
        check_array("values of a calibration", values, np.float64, (None,), low=-_LARGEST, high=_LARGEST)
        check_array("surprisals of a calibration", surprisals, np.float64, values.shape, low=0, high=_LARGEST)
        check_array("tail of a calibration", tail, np.float64, (2,), low=np.finfo(np.float64).tiny, high=_LARGEST)
        if len(values) == 0 or (np.diff(values) <= 0).any() or (np.diff(surprisals) < 0).any():
            raise ValueError("not a calibration: its scores do not rise")
        return cls(values, surprisals, float(tail[0]), float(tail[1]))


def _fit_tail(values: Float64Array, mass: Float64Array) -> tuple[float, float]:
    total = mass.sum()
    above = np.cumsum(mass[::-1])[::-1]
    start = int(np.flatnonzero(above >= min(total, max(_TAIL_LEAST, _TAIL_SHARE * total)))[-1])
    excess, weight = values[start:] - values[start], mass[start:]
    share = weight / weight.sum()
    rank = np.cumsum(share) - share / 2
    mean = float(excess @ share)
    if mean <= 0:  # all of the tail is one value: fall back to the spread of all scores, then to their size
        spread = float(np.sqrt(np.average((values - np.average(values, weights=mass)) ** 2, weights=mass)))
        return spread or max(abs(float(values[-1])), 1.0) * 0.1, _SHAPES[1]
    moment = float((excess * (1 - rank)) @ share)
    shape = 2 - mean / (mean - 2 * moment) if mean > 2 * moment else _SHAPES[0]
    shape = float(np.clip(shape, *_SHAPES))
    # the mean excess of a Pareto tail grows with the level it is taken at: scale at the highest score
    return mean * (1 - shape) + shape * float(excess[-1]), shape
