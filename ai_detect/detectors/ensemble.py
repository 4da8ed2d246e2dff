"""All detectors over all views, calibrated on held-out training sessions and fused into one score.

fit     five folds of training sessions -> held-out scores -> a calibration for each component, weights, and a
        calibration and threshold for each method; then detectors on all training sessions
scores  a component's score -> -ln p -> weighted power mean, or the -ln p of a component that is heard alone where that
        is louder -> calibrated again -> score in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ai_detect import scratch
from ai_detect.artifacts import check_array
from ai_detect.config import AlarmSettings, DetectionMethod, DetectionSettings, FusionMethod
from ai_detect.detectors.calibration import TailCalibration
from ai_detect.detectors.comparison import Comparison
from ai_detect.detectors.components import METHODS, components_of
from ai_detect.detectors.fusion import MEAN, Fusion, shares_of
from ai_detect.detectors.held_out import held_out_scores, settled
from ai_detect.detectors.stored_bank import FORMAT, MOST_SURPRISED, StoredBank
from ai_detect.detectors.suspicion import cleanness, trusted
from ai_detect.detectors.threshold import Threshold, asked_threshold, choose_threshold, score_of
from ai_detect.detectors.views import SessionEvidence
from ai_detect.errors import ConfigError, DataError
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int64Array, ScoreTable


@dataclass(frozen=True)
class MethodFit:
    """How a method turns its components into one score, and where its alarm begins."""

    fusion: Fusion
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
        judged, fold, held_out = held_out_scores(evidence, event_vectors, suspects, seed, check)
        comparison = Comparison.fit(evidence, event_vectors, seed, suspects)
        normal = trusted(suspects)[judged]
        calibrations = {name: TailCalibration.fit_bulk(raw[normal]) for name, raw in held_out.items()}
        fair = settled(held_out, comparison, evidence.take(judged), event_vectors, fold)
        surprisals = {name: calibrations[name].surprisal(raw) for name, raw in fair.items()}
        comparison.keep_checks(evidence, event_vectors, check)
        methods: dict[str, MethodFit] = {}
        fused: dict[str, Float64Array] = {}
        for method in METHODS:
            components, clean = components_of(method), cleanness(suspects)
            fusion = Fusion.fit(settings.fusion_method, components, held_out, surprisals, normal, clean)
            statistic = fusion.statistic(held_out, surprisals)
            calibration = TailCalibration.fit(statistic[normal])
            fused[method] = calibration.surprisal(statistic)
            threshold = choose_threshold(
                fused[method],
                comparison.suspected[judged],
                normal,
                settings,
                sessions_per_day,
            )
            methods[method] = MethodFit(fusion, calibration, threshold, fused[method])
        chosen = settings.detection_method
        suspicious = comparison.suspected.copy()
        suspicious[judged] = fused[chosen] >= methods[chosen].threshold.surprisal
        made = cls(
            comparison,
            calibrations,
            methods,
            chosen,
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
        return self.scores_in_blocks([evidence], len(evidence), event_vectors, methods, alarm=alarm)

    def scores_in_blocks(
        self,
        blocks: Iterable[SessionEvidence],
        n_sessions: int,
        event_vectors: Float32Array,
        methods: Sequence[str],
        *,
        alarm: AlarmSettings | None = None,
    ) -> dict[str, ScoreTable]:
        """As `scores_by_method`, of sessions whose evidence comes block by block and need not be held."""
        return self.judged(self.raw_in_blocks(blocks, event_vectors, methods), n_sessions, methods, alarm=alarm)

    def raw_in_blocks(
        self, blocks: Iterable[SessionEvidence], event_vectors: Float32Array, methods: Sequence[str]
    ) -> Iterator[dict[str, Float64Array]]:
        """What the components of these methods say of the sessions of each block, before any calibration."""
        needed = self._components_of(methods)
        for evidence in blocks:
            yield self._comparison.raw_scores(evidence, event_vectors, needed)

    def judged(
        self,
        blocks: Iterable[Mapping[str, Float64Array]],
        n_sessions: int,
        methods: Sequence[str],
        *,
        alarm: AlarmSettings | None = None,
    ) -> dict[str, ScoreTable]:
        """The scores of all sessions by each method, from what `raw_in_blocks` gave of them; raises ValueError where
        that is not of `n_sessions`.
        """
        thresholds = {method: self.threshold(method, alarm) for method in methods}
        needed = self._components_of(methods)
        raw = {name: scratch.zeros(n_sessions, np.float64) for name in needed}
        p_values = {name: scratch.zeros(n_sessions, np.float64) for name in needed}
        fused = {method: scratch.zeros(n_sessions, np.float64) for method in methods}
        begin = 0
        for scores in blocks:
            block = slice(begin, begin + len(scores[needed[0]]))
            surprisals = {name: self._calibrations[name].surprisal(values) for name, values in scores.items()}
            for name in needed:
                raw[name][block], p_values[name][block] = scores[name], np.exp(-surprisals[name])
            for method in methods:
                fit = self.methods[method]
                fused[method][block] = fit.calibration.surprisal(fit.fusion.statistic(scores, surprisals))
            begin = block.stop
        if begin != n_sessions:
            raise ValueError(f"the scores are those of {begin} sessions, not of {n_sessions}")
        return {
            method: _table(
                fused[method],
                thresholds[method],
                *({name: columns[name] for name in self.methods[method].fusion.weights} for columns in (raw, p_values)),
            )
            for method in methods
        }

    def _components_of(self, methods: Sequence[str]) -> list[str]:
        return sorted({name for method in methods for name in self.methods[method].fusion.weights})

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
            for component, calibration in fit.fusion.alone.items():
                arrays |= {f"alone/{name}/{component}/{part}": array for part, array in calibration.state().items()}
        arrays |= {f"held_out/{name}": fit.held_out for name, fit in self.methods.items()}
        arrays["suspicious"] = self.suspicious.astype(np.uint8)
        arrays["suspicion"] = self.suspicion
        values = {
            "format_version": FORMAT,
            "seed": self._comparison.seed,
            "detection_method": self.default_method,
            "fusion_method": self.fusion_method,
            "n_judged": self.n_judged,
            "n_calibrated": self.n_calibrated,
            "sessions_per_day": self.sessions_per_day,
            "components": sorted(self._calibrations),
            "methods": {
                name: {"weights": dict(fit.fusion.weights), "threshold": asdict(fit.threshold)}
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
            components = components_of(name)
            weights = {component.name: fit.weights[component.name] for component in components}
            shares = shares_of(stored.fusion_method, components, stored.n_calibrated)
            alone = {
                component: TailCalibration.from_state(_under(arrays, f"alone/{name}/{component}/"))
                for component in ([MEAN, *shares] if shares else [])
            }
            fusion = Fusion(stored.fusion_method, weights, shares, alone)
            calibration = TailCalibration.from_state(_under(arrays, f"method/{name}/"))
            held_out = arrays[f"held_out/{name}"]
            check_array(f"held_out of {name}", held_out, np.float64, (stored.n_judged,), low=0, high=MOST_SURPRISED)
            methods[name] = MethodFit(fusion, calibration, Threshold(**fit.threshold.model_dump()), held_out)
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
    def fusion_method(self) -> FusionMethod:
        """How the components of every method are fused."""
        return self.methods[self.default_method].fusion.kind

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
    surprisal: Float64Array, limit: Threshold, raw: Mapping[str, Float64Array], p_values: Mapping[str, Float64Array]
) -> ScoreTable:
    """Scores of sessions with these -ln p, with the columns of their components."""
    n, threshold = len(surprisal), float(score_of(np.array([limit.on(surprisal)]))[0])
    score = scratch.filled(n, np.float64, lambda block: score_of(surprisal[block]))
    return ScoreTable(
        score=score,
        p_value=scratch.filled(n, np.float64, lambda block: np.exp(-surprisal[block])),
        is_anomaly=scratch.filled(n, np.bool_, lambda block: score[block] >= threshold),
        threshold=threshold,
        raw=raw,
        p_values=p_values,
    )


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
