"""All detectors over all views, calibrated on held-out training sessions and fused into one score.

fit     five folds of training sessions -> held-out scores -> a calibration for each component, weights, and a
        calibration and threshold for each method; then detectors on all training sessions
scores  a component's score -> -ln p -> weighted power mean, or the -ln p of a component that is heard alone where that
        is louder -> calibrated again -> score in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.config import AlarmSettings, DetectionMethod, DetectionSettings, FusionMethod
from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.comparison import Comparison
from ai_detect.detectors.components import COMPONENTS, METHODS, Component, components_of
from ai_detect.detectors.stored_bank import FORMAT, MOST_SURPRISED, StoredBank
from ai_detect.detectors.suspicion import cleanness, trusted
from ai_detect.detectors.threshold import Threshold, asked_threshold, choose_threshold, score_of
from ai_detect.detectors.views import SessionEvidence
from ai_detect.errors import ConfigError, DataError
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int64Array, ScoreTable

_FOLDS = 5
#: Neighbouring sessions are held out together, in this many runs: an incident seldom comes alone.
_RUNS = 100
#: So many equal sessions in other folds settle what a session's score will be.
_LIKE = 5
#: Share of its prior weight that a component keeps where it agrees with no other.
_LEAST_VOICE = 0.1
#: Exponent of the mean over the components: above 1, so that one loud voice is worth more than many that murmur.
_LOUDNESS = 1.5
#: In the place of a component, the mean of all.
_MEAN = "mean"
#: Sessions that calibrate before a component is heard alone: fewer do not show how far out normal ones lie.
_LEAST_ALONE = 1000
#: Training sessions that calibrate; more would cost time and change nothing but p-values below .0001.
_MOST_JUDGED = 10_000


@dataclass(frozen=True)
class MethodFit:
    """How a method turns its components into one score, and where its alarm begins."""

    weights: Mapping[str, float]  # by component, their sum is 1
    alone: Mapping[str, TailCalibration]  # of components that are heard alone, and of the mean of all beside them
    calibration: TailCalibration  # of the statistic
    threshold: Threshold
    held_out: Float64Array  # (n_judged,) -ln p of training sessions that were held out


class DetectorBank:
    """Every method, fitted; `suspicious` (n_training,) marks training sessions that the chosen method would report.

    `n_judged` training sessions were held out in turn, and the `n_calibrated` of them that are trusted made the
    calibration. `suspicion` (n_suspected,) is the -ln p of the sessions that `suspected` marks.
    """

    def __init__(
        self,
        comparison: Comparison,
        calibrations: Mapping[str, TailCalibration],
        methods: Mapping[str, MethodFit],
        default_method: DetectionMethod,
        fusion: FusionMethod,
        n_judged: int,
        n_calibrated: int,
        suspicious: BoolArray,
        suspicion: Float64Array,
        sessions_per_day: float | None,
    ) -> None:
        self._comparison = comparison
        self._calibrations = calibrations
        self.methods = methods
        self.default_method = default_method
        self._fusion = fusion
        self.n_judged = n_judged
        self.n_calibrated = n_calibrated
        self.suspicious = suspicious
        self.suspicion = suspicion
        self.sessions_per_day = sessions_per_day

    @classmethod
    def fit(
        cls,
        evidence: SessionEvidence,
        event_vectors: Float32Array,
        settings: DetectionSettings,
        seed: int,
        *,
        suspects: BoolArray,
        sessions_per_day: float | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> DetectorBank:
        """Fit all detectors and calibrate them on sessions that they were not fitted on.

        `event_vectors` (n_templates, d) float32 describes the text of each event; `suspects` (n_sessions,) are the
        sessions that look abnormal themselves, as by `suspected`; `sessions_per_day` of the training log, None where it
        has no times. `check` is called now and then and may raise to stop. The result depends on the sessions in their
        order and on the seed alone.
        """
        if len(evidence) == 0:
            raise DataError("there is no session to fit the detectors on")
        judged, fold, held_out = _held_out_scores(evidence, event_vectors, suspects, seed, check)
        comparison = Comparison.fit(evidence, event_vectors, seed, suspects)
        normal = trusted(suspects)[judged]
        calibrations = {name: TailCalibration.fit_bulk(raw[normal]) for name, raw in held_out.items()}
        settled = _settled(held_out, comparison, evidence.take(judged), event_vectors, fold)
        surprisals = {name: calibrations[name].surprisal(raw) for name, raw in settled.items()}
        comparison.keep_checks(evidence, event_vectors, check)
        methods: dict[str, MethodFit] = {}
        fused: dict[str, Float64Array] = {}
        for method in METHODS:
            weights = _weights(components_of(method), surprisals, settings.fusion_method, cleanness(suspects))
            names = _alone_and_mean(method, settings.fusion_method, int(normal.sum()))
            alone = _fit_alone(names, held_out, surprisals, weights, settings.fusion_method, normal)
            statistic = _statistic(held_out, surprisals, weights, alone, settings.fusion_method)
            calibration = TailCalibration.fit(statistic[normal])
            fused[method] = calibration.surprisal(statistic)
            threshold = choose_threshold(
                fused[method],
                comparison.suspected[judged],
                normal,
                settings,
                sessions_per_day,
            )
            methods[method] = MethodFit(weights, alone, calibration, threshold, fused[method])
        chosen = settings.detection_method
        suspicious = comparison.suspected.copy()
        suspicious[judged] = fused[chosen] >= methods[chosen].threshold.surprisal
        made = cls(
            comparison,
            calibrations,
            methods,
            chosen,
            settings.fusion_method,
            len(judged),
            int(normal.sum()),
            suspicious,
            np.zeros(0),
            sessions_per_day,
        )
        made.suspicion = made._suspicion_of(evidence, event_vectors, judged)
        return made

    @property
    def suspected(self) -> BoolArray:
        """Training sessions that look abnormal by the set of their events, (n_training,)."""
        return self._comparison.suspected

    @property
    def suspected_share(self) -> float:
        """Share of the training sessions that look abnormal by the set of their events."""
        return float(self.suspected.mean())

    def threshold(self, method: str | None = None, alarm: AlarmSettings | None = None) -> Threshold:
        """A method's own threshold, or the one that `alarm` asks for; raises ConfigError as `asked_threshold` does and
        for a method that does not exist.
        """
        name = method or self.default_method
        if name not in self.methods:
            raise ConfigError(f"unknown detection method '{name}'; this model holds {', '.join(self.methods)}")
        fit = self.methods[name]
        return asked_threshold(fit.held_out, alarm or AlarmSettings(), self.sessions_per_day) or fit.threshold

    def scores(
        self,
        evidence: SessionEvidence,
        event_vectors: Float32Array,
        *,
        method: str | None = None,
        alarm: AlarmSettings | None = None,
    ) -> ScoreTable:
        """Score sessions by one method; a session's scores do not depend on the sessions beside it.

        Only with `fdr` do the threshold and with it `is_anomaly` depend on them. `event_vectors` must cover every event
        id of the sessions; `alarm` takes the place of the model's own threshold. Raises ConfigError as `threshold`.
        """
        name = method or self.default_method
        return self.scores_by_method(evidence, event_vectors, [name], alarm=alarm)[name]

    def scores_by_method(
        self,
        evidence: SessionEvidence,
        event_vectors: Float32Array,
        methods: Sequence[str] = METHODS,
        *,
        alarm: AlarmSettings | None = None,
    ) -> dict[str, ScoreTable]:
        """A ScoreTable for each method; what they share is computed once."""
        thresholds = {method: self.threshold(method, alarm) for method in methods}
        needed = {name for method in methods for name in self.methods[method].weights}
        raw = self._comparison.raw_scores(evidence, event_vectors, needed)
        surprisals = {name: self._calibrations[name].surprisal(values) for name, values in raw.items()}
        return {method: self._table(self.methods[method], thresholds[method], raw, surprisals) for method in methods}

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `from_state` takes: JSON values, and arrays by name."""
        arrays = {f"comparison/{name}": array for name, array in self._comparison.state().items()}
        for kind, fits in (
            ("component", self._calibrations),
            ("method", {name: fit.calibration for name, fit in self.methods.items()}),
        ):
            for name, calibration in fits.items():
                arrays |= {f"{kind}/{name}/{part}": array for part, array in calibration.state().items()}
        for name, fit in self.methods.items():
            for component, calibration in fit.alone.items():
                arrays |= {f"alone/{name}/{component}/{part}": array for part, array in calibration.state().items()}
        arrays |= {f"held_out/{name}": fit.held_out for name, fit in self.methods.items()}
        arrays["suspicious"] = self.suspicious.astype(np.uint8)
        arrays["suspicion"] = self.suspicion
        values = {
            "format_version": FORMAT,
            "seed": self._comparison.seed,
            "detection_method": self.default_method,
            "fusion_method": self._fusion,
            "n_judged": self.n_judged,
            "n_calibrated": self.n_calibrated,
            "sessions_per_day": self.sessions_per_day,
            "components": sorted(self._calibrations),
            "methods": {
                name: {"weights": dict(fit.weights), "threshold": asdict(fit.threshold)}
                for name, fit in self.methods.items()
            },
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> DetectorBank:
        """The bank that was saved; raises ValueError or KeyError where the state is not one.

        Detectors but for forests are refitted when first needed; a warning is logged where the stored scores of some
        training sessions come out differently, as another version of a library may make them.
        """
        stored = StoredBank.of(values)
        methods: dict[str, MethodFit] = {}
        for name, fit in stored.methods.items():
            weights = {component.name: fit.weights[component.name] for component in components_of(name)}
            calibration = TailCalibration.from_state(_under(arrays, f"method/{name}/"))
            alone = {
                component: TailCalibration.from_state(_under(arrays, f"alone/{name}/{component}/"))
                for component in _alone_and_mean(name, stored.fusion_method, stored.n_calibrated)
            }
            held_out = arrays[f"held_out/{name}"]
            check_array(f"held_out of {name}", held_out, np.float64, (stored.n_judged,), low=0, high=MOST_SURPRISED)
            methods[name] = MethodFit(weights, alone, calibration, Threshold(**fit.threshold.model_dump()), held_out)
        comparison = Comparison.from_state(stored.seed, _under(arrays, "comparison/"))
        n_sessions = len(comparison.suspected)
        check_array("suspicious", arrays["suspicious"], np.uint8, (n_sessions,), high=1)
        suspicion, n_suspected = arrays["suspicion"], int(comparison.suspected.sum())
        check_array("suspicion", suspicion, np.float64, (n_suspected,), low=0, high=MOST_SURPRISED)
        if not stored.n_calibrated <= stored.n_judged <= n_sessions:
            raise ValueError(f"{stored.n_judged} of {n_sessions} sessions cannot have been judged")
        made = cls(
            comparison,
            {name: TailCalibration.from_state(_under(arrays, f"component/{name}/")) for name in stored.components},
            methods,
            stored.detection_method,
            stored.fusion_method,
            stored.n_judged,
            stored.n_calibrated,
            arrays["suspicious"].astype(np.bool_),
            suspicion,
            stored.sessions_per_day,
        )
        if unknown := arrays.keys() - made.state()[1].keys():
            raise ValueError(f"the model's detectors have no {min(unknown)!r:.100}")
        return made

    @property
    def widths(self) -> tuple[int, int]:
        """Lengths of the event vectors and the session vectors that this was fitted on."""
        return self._comparison.widths

    def _suspicion_of(self, evidence: SessionEvidence, event_vectors: Float32Array, judged: Int64Array) -> Float64Array:
        """-ln p of the suspected sessions: held out where they were judged; where they are so many that they are not
        trusted, the detectors have not learned from the others either.
        """
        suspects = np.flatnonzero(self.suspected)
        is_judged = np.isin(suspects, judged)
        suspicion = np.zeros(len(suspects))
        held_out = self.methods[self.default_method].held_out
        suspicion[is_judged] = held_out[np.searchsorted(judged, suspects[is_judged])]
        if not is_judged.all():
            others = self.scores(evidence.take(suspects[~is_judged]), event_vectors)
            suspicion[~is_judged] = -np.log(np.maximum(others.p_value, np.finfo(np.float64).tiny))
        return suspicion

    def _table(
        self,
        fit: MethodFit,
        limit: Threshold,
        raw: Mapping[str, Float64Array],
        surprisals: Mapping[str, Float64Array],
    ) -> ScoreTable:
        surprisal = fit.calibration.surprisal(_statistic(raw, surprisals, fit.weights, fit.alone, self._fusion))
        score, threshold = score_of(surprisal), float(score_of(np.array([limit.on(surprisal)]))[0])
        return ScoreTable(
            score=score,
            p_value=np.exp(-surprisal),
            is_anomaly=score >= threshold,
            threshold=threshold,
            raw={name: raw[name] for name in fit.weights},
            p_values={name: np.exp(-surprisals[name]) for name in fit.weights},
        )


def _held_out_scores(
    evidence: SessionEvidence,
    event_vectors: Float32Array,
    suspects: BoolArray,
    seed: int,
    check: Callable[[], None],
) -> tuple[Int64Array, Int64Array, dict[str, Float64Array]]:
    """Which training sessions were judged, at most `_MOST_JUDGED`, the fold of each, and what detectors that have not
    seen that fold say.
    """
    n = len(evidence)
    n_runs = min(n, _RUNS)
    random = np.random.default_rng(seed)
    # in random order, or what comes back at regular times would be held out as a whole
    fold = (random.permutation(n_runs) % _FOLDS)[np.arange(n) * n_runs // n]
    judged = np.sort(random.permutation(n)[:_MOST_JUDGED])
    names, normal = [component.name for component in COMPONENTS], trusted(suspects)
    held_out = {name: np.zeros(len(judged)) for name in names}
    for number in np.unique(fold[judged]):
        check()
        inside, outside = fold[judged] == number, np.flatnonzero((fold != number) & normal)
        outside = outside if len(outside) else judged  # a lone session has nothing to be held out from
        comparison = Comparison.fit(evidence.take(outside), event_vectors, seed, np.zeros(len(outside), np.bool_))
        for name, raw in comparison.raw_scores(evidence.take(judged[inside]), event_vectors, names).items():
            held_out[name][inside] = raw
    return judged, fold[judged], held_out


def _settled(
    held_out: Mapping[str, Float64Array],
    comparison: Comparison,
    evidence: SessionEvidence,
    event_vectors: Float32Array,
    fold: Int64Array,
) -> dict[str, Float64Array]:
    """Held-out scores, but those of the final detectors for sessions that have their like in other folds.

    Five folds give one kind of session five scores, which the final detectors give one: without this, p-values are too
    high by what the folds differ. Where at least `_LIKE` equal sessions lie in other folds, a session hardly tells the
    final detectors anything about itself.
    """
    rows = comparison.equal_rows(evidence, event_vectors)
    final = comparison.raw_scores(evidence, event_vectors, list(held_out))
    settled = {}
    for component in COMPONENTS:
        row = rows[component.view]
        in_fold = row * _FOLDS + fold
        elsewhere = np.bincount(row)[row] - np.bincount(in_fold)[in_fold]
        settled[component.name] = np.where(elsewhere >= _LIKE, final[component.name], held_out[component.name])
    return settled


def _alone_and_mean(method: DetectionMethod, fusion: FusionMethod, n_calibrated: int) -> list[str]:
    """`_MEAN` and the components that are heard alone beside it; none where too few sessions calibrate, and where
    `max` or `mean` treat all alike.
    """
    alone = [component.name for component in components_of(method) if component.alone]
    return [_MEAN, *alone] if alone and fusion not in ("max", "mean") and n_calibrated >= _LEAST_ALONE else []


def _fit_alone(
    names: Sequence[str],
    held_out: Mapping[str, Float64Array],
    surprisals: Mapping[str, Float64Array],
    weights: Mapping[str, float],
    fusion: FusionMethod,
    normal: BoolArray,
) -> dict[str, TailCalibration]:
    """Calibrations of the mean (`_MEAN`) and of components that are heard alone, their highest scores included."""
    scores = {name: _fuse(surprisals, weights, fusion) if name == _MEAN else held_out[name] for name in names}
    return {name: TailCalibration.fit(raw[normal]) for name, raw in scores.items()}


def _statistic(
    raw: Mapping[str, Float64Array],
    surprisals: Mapping[str, Float64Array],
    weights: Mapping[str, float],
    alone: Mapping[str, TailCalibration],
    fusion: FusionMethod,
) -> Float64Array:
    """What is calibrated at last: the fused -ln p, or the largest of its own -ln p and of those of the components that
    are heard alone, each less -ln of its share.
    """
    fused = _fuse(surprisals, weights, fusion)
    if not alone:
        return fused
    shares = {component.name: component.alone for component in COMPONENTS}
    statistic = alone[_MEAN].surprisal(fused)
    for name in alone.keys() - {_MEAN}:
        statistic = np.maximum(statistic, alone[name].surprisal(raw[name]) + np.log(shares[name]))
    return statistic


def _weights(
    components: Sequence[Component], surprisals: Mapping[str, Float64Array], fusion: FusionMethod, clean: float
) -> dict[str, float]:
    """Weights of a method's components, frozen at fit; their sum is 1. `clean` as by `cleanness`.

    `dynamic_weight` multiplies the prior by the agreement with the others on the training sessions: a view that is
    noise on this log is hardly heard, and one that sees what no other sees keeps a little of its voice.
    """
    names = [component.name for component in components]
    weights = np.array([1.0 if fusion in ("max", "mean") else component.weight(clean) for component in components])
    if fusion == "dynamic_weight" and len(names) > 1:
        each = np.stack([surprisals[name] for name in names])
        others = weights @ each - weights[:, None] * each
        weights *= _LEAST_VOICE + np.maximum(_correlation(each, others), 0)
    return dict(zip(names, (weights / weights.sum()).tolist(), strict=True))


def _correlation(left: Float64Array, right: Float64Array) -> Float64Array:
    """Of each row with the same row; 0 where one is constant."""
    left, right = left - left.mean(axis=1, keepdims=True), right - right.mean(axis=1, keepdims=True)
    size = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.asarray((left * right).sum(axis=1) / np.where(size > 0, size, 1))


def _fuse(surprisals: Mapping[str, Float64Array], weights: Mapping[str, float], fusion: FusionMethod) -> Float64Array:
    """One statistic a session: the largest -ln p, or their weighted power mean."""
    if fusion == "max":
        return np.asarray(np.max([surprisals[name] for name in weights], axis=0))
    total = np.zeros(len(next(iter(surprisals.values()))))
    for name, weight in weights.items():
        total += weight * surprisals[name] ** _LOUDNESS
    return np.asarray(total ** (1 / _LOUDNESS), np.float64)


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
