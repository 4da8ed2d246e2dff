"""Which detector looks at which view, and how much the methods listen to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ai_detect.config import DetectionMethod

#: Every `--detection_method`.
METHODS: tuple[DetectionMethod, ...] = get_args(DetectionMethod)


@dataclass(frozen=True)
class Component:
    """A detector on a view; `prior` is its weight, `in_ensemble` whether the ensemble listens to it.

    `prior_if_dirty` is its weight where the training log is not taken to be clean, None for the same.
    `alone` is about the share of the false alarms that it may raise by itself, whatever the others say: for a view that
    sees what no other does, where a mean would drown it. `in_nats` shows the detector how far out each column is, where
    distances between the numbers themselves would mean nothing.
    """

    detector: str
    view: str
    prior: float
    in_ensemble: bool = True
    alone: float = 0.0
    prior_if_dirty: float | None = None
    in_nats: bool = False

    def weight(self, clean: float) -> float:
        """Its weight where the training log is taken to be clean (1), dirty (0) or in between."""
        if self.prior_if_dirty is None:
            return self.prior
        return clean * self.prior + (1 - clean) * self.prior_if_dirty

    @property
    def name(self) -> str:
        """As in the columns of a ScoreTable."""
        return f"{self.detector}:{self.view}"


#: Priors chosen by the mean AUPRC over five labelled logs, clean and contaminated, around which it is flat but for two:
#: on a dirty log normal kinds of session may be missing in what is learned from, and then distances between session
#: vectors, which have no bound, and pairs of messages that are new shout all others down. So these logs are no test on
#: unseen systems (docs/benchmarks-detection.md). What bigrams, numbers and words may raise alone is chosen on planted
#: faults instead (docs/benchmarks-priors.md).
COMPONENTS = (
    Component("tails", "severity", 1.25),
    Component("iforest", "profile", 1.0),
    Component("knn", "embedding", 0.5, prior_if_dirty=0.1),
    Component("ecod", "timing", 0.5),
    Component("tails", "numbers", 0.1, alone=0.2),
    Component("tails", "words", 0.1, alone=0.2),
    Component("tails", "bigrams", 0.75, alone=0.2, prior_if_dirty=0.0),
    Component("tails", "relations", 0.25),
    Component("tails", "novelty", 0.25),
    Component("tails", "order", 0.5),
    Component("reconstruction", "surprise", 0.5),
    Component("knn", "extremes", 2.0, in_ensemble=False, in_nats=True),
    Component("lof", "presence", 1.0, in_ensemble=False),
    Component("lof", "embedding", 0.2, in_ensemble=False),
    Component("iforest", "extremes", 2.0, in_ensemble=False),
    Component("iforest", "embedding", 0.2, in_ensemble=False),
    Component("cluster", "extremes", 1.0, in_ensemble=False, in_nats=True),
    Component("cluster", "embedding", 0.2, in_ensemble=False),
)


def components_of(method: DetectionMethod) -> list[Component]:
    """The components that a method listens to."""
    if method == "ensemble":
        return [component for component in COMPONENTS if component.in_ensemble]
    return [component for component in COMPONENTS if component.detector == method]
