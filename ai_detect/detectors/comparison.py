"""Sessions to score against the sessions of training: views, reference rows and detectors, before any calibration.

Training logs are seldom clean, and a repeated anomaly is its own nearest neighbour: all is learned from the sessions
that are trusted (`suspicion`). On a clean log these are all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.components import COMPONENTS
from ai_detect.detectors.detectors import DETECTORS, Detector, InNats
from ai_detect.detectors.forest import ForestDetector
from ai_detect.detectors.reference import Reference, distinct_rows, make_reference, most_rows
from ai_detect.detectors.suspicion import trusted
from ai_detect.detectors.views import SessionEvidence, SessionViews
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int64Array

logger = logging.getLogger(__name__)

#: Views that some component looks at.
_VIEWS = sorted({component.view for component in COMPONENTS})
_COMPONENTS = {component.name: component for component in COMPONENTS}
#: Components that are stored as they were fitted; the others are fitted again when first asked for.
_FORESTS = [component.name for component in COMPONENTS if component.detector == "iforest"]
#: Training sessions whose scores are stored, to notice on load that a library scores differently.
_N_CHECKED = 32
#: Training sessions, evenly spaced, that detectors get their rows from; events and transitions are counted in all.
_MOST_SHOWN = 16_384
#: Columns of the views that are as wide for every log.
_PROFILE = {"rarity": 1, "relations": 2, "novelty": 2, "severity": 2, "order": 2, "surprise": 2, "timing": 3}
_OTHERS = {"bigrams": 1, "numbers": 1, "words": 1}
_WIDTHS = _PROFILE | _OTHERS | {"profile": sum(_PROFILE.values()), "extremes": sum((_PROFILE | _OTHERS).values())}
#: Beyond any number in a row; sums of squares stay finite.
_LARGEST = 1e30


class Comparison:
    """Detectors, fitted when first asked for or as they were stored; `suspected` (n_training,) marks training sessions
    that look abnormal.
    """

    def __init__(
        self,
        seed: int,
        views: SessionViews,
        references: Mapping[str, Reference],
        suspected: BoolArray,
        checks: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.seed = seed
        self._views = views
        self._references = references
        self.suspected = suspected
        self._checks = dict(checks or {})  # rows of some sessions by view, raw scores by component
        self._detectors: dict[str, Detector] = {}

    @classmethod
    def fit(
        cls,
        evidence: SessionEvidence,
        event_vectors: Float32Array,
        seed: int,
        suspects: BoolArray,
        among: Int64Array | None = None,
    ) -> Comparison:
        """Learn from training sessions what the views and the detectors need: from all of the evidence, or those
        `among` it. `suspects` are those of these that look abnormal themselves, (n_sessions,).
        """
        normal = np.flatnonzero(trusted(suspects))
        normal = normal if among is None else among[normal]
        views = SessionViews.fit(evidence.sequences.take(normal), event_vectors)
        shown = normal[np.linspace(0, len(normal) - 1, min(len(normal), _MOST_SHOWN)).astype(np.int64)]
        matrices = views.transform(evidence.take(shown), event_vectors, _VIEWS)
        return cls(seed, views, {view: make_reference(matrices[view], seed) for view in _VIEWS}, suspects)

    def raw_scores(
        self, evidence: SessionEvidence, event_vectors: Float32Array, names: Collection[str]
    ) -> dict[str, Float64Array]:
        """Scores of sessions by the named components, each (n_sessions,) float64; equal rows are scored once."""
        views = sorted({_COMPONENTS[name].view for name in names})
        rows = self._views.transform(evidence, event_vectors, views)
        scores = {}
        for view in views:
            first, inverse = distinct_rows(rows[view])
            for name in names:
                if _COMPONENTS[name].view == view:
                    scores[name] = self._detector(name).decision_function(rows[view][first])[inverse]
        return {name: scores[name] for name in names}

    def equal_rows(self, evidence: SessionEvidence, event_vectors: Float32Array) -> dict[str, Int64Array]:
        """By view, a number for each session (n_sessions,) that equal sessions of that view share."""
        rows = self._views.transform(evidence, event_vectors, _VIEWS)
        return {view: distinct_rows(rows[view])[1] for view in _VIEWS}

    def keep_checks(self, evidence: SessionEvidence, event_vectors: Float32Array, check: Callable[[], None]) -> None:
        """Fit every detector and store what it makes of some of these sessions; `check` may raise to stop."""
        some = np.linspace(0, len(evidence) - 1, min(len(evidence), _N_CHECKED)).astype(np.int64)
        rows = self._views.transform(evidence.take(some), event_vectors, _VIEWS)
        scores = {}
        for name, component in _COMPONENTS.items():
            check()
            scores[name] = self._detector(name).decision_function(rows[component.view])
        self._checks = {**rows, **scores}

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes beside the seed."""
        arrays = {f"views/{name}": array for name, array in self._views.state().items()}
        for view, reference in self._references.items():
            arrays |= {f"rows/{view}": reference.rows, f"weights/{view}": reference.weights}
        for name, detector in self._detectors.items():
            if isinstance(detector, ForestDetector):
                arrays |= {f"forests/{name}/{part}": array for part, array in detector.state().items()}
        arrays["suspected"] = self.suspected.astype(np.uint8)
        return {**arrays, **{f"checks/{name}": array for name, array in self._checks.items()}}

    @classmethod
    def from_state(cls, seed: int, arrays: Mapping[str, np.ndarray]) -> Comparison:
        """The comparison that was saved; raises KeyError or ValueError where the arrays are not one."""
        views = SessionViews.from_state(
            {n.removeprefix("views/"): a for n, a in arrays.items() if n.startswith("views/")}
        )
        widths = _WIDTHS | {"presence": views.n_columns}
        references, checks = {}, {}
        for view in _VIEWS:
            rows, weights = arrays[f"rows/{view}"], arrays[f"weights/{view}"]
            check_array(f"rows of {view}", rows, np.float32, (None, widths.get(view)), low=-_LARGEST, high=_LARGEST)
            check_array(f"weights of {view}", weights, np.float64, (len(rows),), low=1e-9, high=_LARGEST)
            if not 0 < len(rows) <= most_rows(rows.shape[1]) or rows.size == 0:
                raise ValueError(f"{view} has no rows to compare with")
            references[view] = Reference(rows, weights)
            checks[view] = arrays[f"checks/{view}"]
            check_array(f"checks of {view}", checks[view], np.float32, (None, rows.shape[1]))
        n_checked = len(checks[_VIEWS[0]])
        for name, component in _COMPONENTS.items():
            checks[name] = arrays[f"checks/{name}"]
            check_array(f"checks of {name}", checks[name], np.float64, (len(checks[component.view]),))
        if any(len(check) != n_checked for check in checks.values()) or n_checked > _N_CHECKED:
            raise ValueError("the checks are not of the same sessions")
        check_array("suspected", arrays["suspected"], np.uint8, (None,), high=1)
        if len(arrays["suspected"]) < views.n_sessions:
            raise ValueError("more sessions were trusted than there were")
        made = cls(seed, views, references, arrays["suspected"].astype(np.bool_), checks)
        for name in _FORESTS:
            prefix, forest = f"forests/{name}/", ForestDetector(seed)
            stored = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            forest.restore(references[_COMPONENTS[name].view], stored)
            made._keep(name, forest)
        return made

    @property
    def widths(self) -> tuple[int, int]:
        """Lengths of the event vectors and the session vectors that this was fitted on."""
        return self._views.known_vectors.shape[1], self._references["embedding"].rows.shape[1]

    def _detector(self, name: str) -> Detector:
        if name not in self._detectors:
            component = _COMPONENTS[name]
            detector = DETECTORS[component.detector](self.seed)
            if component.in_nats:
                detector = InNats(detector)
            detector.fit(self._references[component.view])
            self._keep(name, detector)
        return self._detectors[name]

    def _keep(self, name: str, detector: Detector) -> None:
        """Use this detector from now on; warn where it does not score as it did when the model was made."""
        if name in self._checks:
            now = detector.decision_function(self._checks[_COMPONENTS[name].view])
            if not np.allclose(now, self._checks[name], rtol=1e-5, atol=1e-8):
                logger.warning(
                    "%s scores differently than when the model was made (by up to %.3g), as another version of "
                    "ai-detect or a library can make it: thresholds may have moved; train again or install the "
                    "versions of then",
                    name,
                    np.abs(now - self._checks[name]).max(),
                )
        self._detectors[name] = detector
