"""Which detector looks at which view, and how much the methods listen to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ai_detect.config import DetectionMethod

#: Every `--detection_method`.
METHODS: tuple[DetectionMethod, ...] = get_args(DetectionMethod)


@dataclass(frozen=True)
class Component:
    """A detector on a view; `prior` is its weight, `in_ensemble` whether the ensemble listens to it."""

    detector: str
    view: str
    prior: float
    in_ensemble: bool = True

    @property
    def name(self) -> str:
        """As in the columns of a ScoreTable."""
        return f"{self.detector}:{self.view}"


#: Priors chosen by the mean AUPRC over four labelled logs, clean and contaminated (docs/benchmarks.md); it is flat
#: around them. The set of events and the profile of single numbers say most, the other views speak up when they must.
COMPONENTS = (
    Component("knn", "presence", 1.0),
    Component("iforest", "profile", 1.0),
    Component("ecod", "counts", 0.4),
    Component("tails", "rarity", 0.3),
    Component("reconstruction", "surprise", 0.3),
    Component("knn", "counts", 0.1),
    Component("ecod", "timing", 0.1),
    Component("knn", "embedding", 0.05),
    Component("tails", "novelty", 0.05),
    Component("tails", "order", 0.05),
    Component("lof", "presence", 1.0, in_ensemble=False),
    Component("lof", "embedding", 0.2, in_ensemble=False),
    Component("iforest", "embedding", 0.2, in_ensemble=False),
    Component("cluster", "presence", 1.0, in_ensemble=False),
    Component("cluster", "embedding", 0.2, in_ensemble=False),
)


def components_of(method: DetectionMethod) -> list[Component]:
    """The components that a method listens to."""
    if method == "ensemble":
        return [component for component in COMPONENTS if component.in_ensemble]
    return [component for component in COMPONENTS if component.detector == method]
