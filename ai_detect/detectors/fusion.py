"""From what the components say of a session to one statistic: their mean, or a component that is heard alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ai_detect.config import FusionMethod
from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.components import Component
from ai_detect.tables import BoolArray, Float64Array

#: Share of its prior weight that a component keeps where it agrees with no other.
_LEAST_VOICE = 0.1
#: Exponent of the mean over the components: above 1, so that one loud voice is worth more than many that murmur.
_LOUDNESS = 1.5
#: In the place of a component, the mean of all.
MEAN = "mean"
#: Sessions that calibrate before a component is heard alone: fewer do not show how far out normal ones lie.
_LEAST_ALONE = 1000


@dataclass(frozen=True)
class Fusion:
    """How the components of a method become one statistic, frozen at fit."""

    kind: FusionMethod
    weights: Mapping[str, float]  # by component, their sum is 1
    shares: Mapping[str, float]  # by component that is heard alone: about its share of the false alarms
    alone: Mapping[str, TailCalibration]  # of these, and of the mean of all beside them

    @classmethod
    def fit(
        cls,
        kind: FusionMethod,
        components: Sequence[Component],
        held_out: Mapping[str, Float64Array],
        surprisals: Mapping[str, Float64Array],
        normal: BoolArray,
        clean: float,
    ) -> Fusion:
        """By the raw scores of held-out training sessions and their -ln p, both by component, (n_judged,); `normal`
        are those that are trusted, `clean` as by `cleanness`.
        """
        weights = _weights(kind, components, surprisals, clean)
        shares = shares_of(kind, components, int(normal.sum()))
        raw = {name: held_out[name] for name in shares} | {MEAN: _fuse(kind, surprisals, weights)}
        alone = {name: TailCalibration.fit(scores[normal]) for name, scores in raw.items()} if shares else {}
        return cls(kind, weights, shares, alone)

    def statistic(self, raw: Mapping[str, Float64Array], surprisals: Mapping[str, Float64Array]) -> Float64Array:
        """What is calibrated at last, (n_sessions,): the fused -ln p, or the largest of its own -ln p and of those of
        the components that are heard alone, each less -ln of its share. Arguments by component, (n_sessions,).

        One component alone raises an alarm, but does not outrank what many agree on, however far out it goes.
        """
        fused = _fuse(self.kind, surprisals, self.weights)
        if not self.shares:
            return fused
        statistic = self.alone[MEAN].surprisal(fused)
        for name, share in self.shares.items():
            statistic = np.maximum(statistic, self.alone[name].supported(raw[name]) + np.log(share))
        return statistic


def shares_of(kind: FusionMethod, components: Sequence[Component], n_calibrated: int) -> dict[str, float]:
    """By component that is heard alone: its share. None where too few sessions calibrate, and where `max` or `mean`
    treat all alike.
    """
    if kind in ("max", "mean") or n_calibrated < _LEAST_ALONE:
        return {}
    return {component.name: component.alone for component in components if component.alone}


def _weights(
    kind: FusionMethod, components: Sequence[Component], surprisals: Mapping[str, Float64Array], clean: float
) -> dict[str, float]:
    """Weights of components; their sum is 1.

    `dynamic_weight` multiplies the prior by the agreement with the others on the training sessions: a view that is
    noise on this log is hardly heard, and one that sees what no other sees keeps a little of its voice.
    """
    names = [component.name for component in components]
    weights = np.array([1.0 if kind in ("max", "mean") else component.weight(clean) for component in components])
    if kind == "dynamic_weight" and len(names) > 1:
        each = np.stack([surprisals[name] for name in names])
        others = weights @ each - weights[:, None] * each
        weights *= _LEAST_VOICE + np.maximum(_correlation(each, others), 0)
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def _correlation(left: Float64Array, right: Float64Array) -> Float64Array:
    """Of each row with the same row; 0 where one is constant."""
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    size = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.asarray((left * right).sum(axis=1) / np.where(size > 0, size, 1))


def _fuse(kind: FusionMethod, surprisals: Mapping[str, Float64Array], weights: Mapping[str, float]) -> Float64Array:
    """One number a session: the largest -ln p, or their weighted power mean."""
    if kind == "max":
        return np.asarray(np.max([surprisals[name] for name in weights], axis=0))
    total = np.zeros(len(next(iter(surprisals.values()))))
    for name, weight in weights.items():
        total += weight * surprisals[name] ** _LOUDNESS
    return np.asarray(total ** (1 / _LOUDNESS), np.float64)
