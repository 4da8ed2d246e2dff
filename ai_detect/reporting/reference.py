"""What reasons are measured against: the normal sessions of training, their counts, transitions, gaps and surprise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_detect.artifacts import check_array, first_problem
from ai_detect.reporting.tails import EVERYWHERE, MOST_COUNTED, TailTable, tail_probability
from ai_detect.tables import Float32Array, Float64Array, Int64Array, SequenceTable, check_column, check_offsets


@dataclass(frozen=True)
class Transition:
    """How often an event follows another in training: together, out of the first, into the second."""

    n_pair: int
    n_from: int
    n_to: int

    @property
    def probability(self) -> float:
        """Smoothed share of the rarer event's occurrences that stand in this pair."""
        return (self.n_pair + 0.5) / (min(self.n_from, self.n_to) + 1)


@dataclass(frozen=True)
class ExplainContext:
    """Statistics of all training sessions, and the commonest distinct ones to compare with.

    Events are ids below `n_known`; in transitions `n_known` and `n_known + 1` are the begin and the end of a session.
    """

    n_known: int
    n_sessions: int  # that look normal; all that follows is of these, unless it says otherwise
    n_training: int  # all training sessions
    n_singular: int  # sessions whose sequence of events no other one has
    gap_unit_s: float  # the smallest gap above zero: the clock's resolution; 0 where no line has a time
    references: SequenceTable  # distinct training sessions, commonest first; their gaps are not kept
    reference_counts: Int64Array  # training sessions that are exactly this one
    reference_keys: tuple[str, ...]  # a session of training that is this one
    event_counts: Int64Array  # (n, 3): event, occurrences in a session, sessions with as many; sorted
    lengths: Int64Array  # (n, 2): events in a session, sessions as long; sorted
    pair_keys: Int64Array  # from * (n_known + 2) + to, sorted
    pair_counts: Int64Array
    seen_in: Int64Array  # (n_known,): sessions of all training that hold the event
    once_seen: Float32Array  # how unlike all others the templates are that one session of all training holds, ascending
    gaps: TailTable  # log(seconds + unit) by transition, by event (-1 - event), and of `EVERYWHERE`
    surprise: TailTable  # -log p by event, and of `EVERYWHERE`

    def __post_init__(self) -> None:
        check_column("reference_counts", self.reference_counts, np.int64, len(self.references))
        check_column("pair_keys", self.pair_keys, np.int64)
        check_column("pair_counts", self.pair_counts, np.int64, len(self.pair_keys))
        check_column("seen_in", self.seen_in, np.int64, self.n_known)
        if len(self.reference_keys) != len(self.references):
            raise ValueError("reference_keys must name every reference session")
        if len(self.references.event_id) and self.references.event_id.max() >= self.n_known:
            raise ValueError("reference sessions must consist of known events")

    @cached_property
    def document_frequency(self) -> Int64Array:
        """Training sessions that hold each known event, (n_known,)."""
        return np.bincount(self.event_counts[:, 0], weights=self.event_counts[:, 2], minlength=self.n_known).astype(
            np.int64
        )

    @cached_property
    def _pair_margins(self) -> tuple[Int64Array, Int64Array]:
        width = self.n_known + 2
        totals = [
            np.bincount(side, weights=self.pair_counts, minlength=width).astype(np.int64)
            for side in (self.pair_keys // width, self.pair_keys % width)
        ]
        return totals[0], totals[1]

    @cached_property
    def _postings(self) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Where each event occurs in the references: offsets by event, reference, occurrences there."""
        keys = np.repeat(np.arange(len(self.references)), self.references.lengths)
        pairs, counts = np.unique(
            self.references.event_id.astype(np.int64) * max(len(self.references), 1) + keys, return_counts=True
        )
        events, references = np.divmod(pairs, max(len(self.references), 1))
        offsets = np.searchsorted(events, np.arange(self.n_known + 1)).astype(np.int64)
        return offsets, references.astype(np.int64), counts.astype(np.int64)

    def count_distances(self, counts: Mapping[int, int]) -> Int64Array:
        """Events to add or remove, whatever the order, to turn a session of these counts into each reference."""
        offsets, references, occurrences = self._postings
        shared = np.zeros(len(self.references), np.int64)
        for event, count in counts.items():
            if event < self.n_known:
                at = slice(int(offsets[event]), int(offsets[event + 1]))
                shared[references[at]] += np.minimum(occurrences[at], count)
        return self.references.lengths + sum(counts.values()) - 2 * shared

    def share_together(self, event: int, other: int) -> float:
        """Smoothed share of the reference sessions with one known event that hold another, too."""
        offsets, references, _ = self._postings
        held, held_too = (references[offsets[each] : offsets[each + 1]] for each in (event, other))
        n_both = int(self.reference_counts[np.intersect1d(held, held_too, assume_unique=True)].sum())
        return (n_both + 1) / (int(self.reference_counts[held].sum()) + 2)

    def sessions_with(self, event: int, at_least: int) -> int:
        """Training sessions that hold an event so many times or more."""
        if at_least <= 0:
            return self.n_sessions
        first, last = np.searchsorted(self.event_counts[:, 0], [event, event + 1])
        rows = self.event_counts[first:last]
        return int(rows[rows[:, 1] >= at_least, 2].sum())

    def transition(self, before: int, event: int) -> Transition:
        """Counts of a transition; -1 before is the begin, -1 as event the end of a session."""
        source = self.n_known if before < 0 else before
        target = self.n_known + 1 if event < 0 else event
        if max(before, event) >= self.n_known:
            return Transition(0, 0, 0)
        return self.token_transition(source, target)

    def token_transition(self, before: int, event: int) -> Transition:
        """Counts of a transition between known events, where begin and end are `n_known` and `n_known + 1`."""
        n_pair = self._count_of_pair.get(before * (self.n_known + 2) + event, 0)
        out, into = self._pair_margins
        return Transition(n_pair, int(out[before]), int(into[event]))

    @cached_property
    def _count_of_pair(self) -> dict[int, int]:
        return dict(zip(self.pair_keys.tolist(), self.pair_counts.tolist(), strict=True))

    def transitions(self, before: Int64Array, event: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Counts of many transitions, as of `token_transition`."""
        out, into = self._pair_margins
        keys = before * (self.n_known + 2) + event
        at = np.minimum(np.searchsorted(self.pair_keys, keys), max(len(self.pair_keys) - 1, 0))
        together = np.where(self.pair_keys[at] == keys, self.pair_counts[at], 0) if len(self.pair_keys) else 0 * keys
        return together, out[before], into[event]

    def successors(self, before: int) -> tuple[Int64Array, Int64Array]:
        """What follows an event in training, and how often."""
        width = self.n_known + 2
        first, last = np.searchsorted(self.pair_keys, [before * width, (before + 1) * width])
        return self.pair_keys[first:last] % width, self.pair_counts[first:last]

    @cached_property
    def transition_shares(self) -> Float64Array:
        """Share of all transitions that lead to each event, begin and end, smoothed, (n_known + 2,)."""
        into = self._pair_margins[1] + 0.5
        return np.asarray(into / into.sum(), np.float64)

    @cached_property
    def n_successors(self) -> Int64Array:
        """Different events that follow each event, begin and end, (n_known + 2,)."""
        width = self.n_known + 2
        return np.bincount(self.pair_keys // width, minlength=width).astype(np.int64)

    @property
    def cost_of_difference(self) -> float:
        """-log of the chance that a session is a sequence that training does not hold (Good-Turing)."""
        return float(np.log((self.n_sessions + 2) / (self.n_singular + 1)))

    def bounded(self, nats: float) -> float:
        """Evidence that no training can give for less than one session in all: what is beyond that only orders it."""
        most = float(np.log(self.n_sessions + 2))
        return nats if nats <= most else most + 1 - most / nats

    def novelty_probability(self, distance: float) -> float:
        """Chance that a session brings a template as unlike all known ones (Good-Turing: by those seen but once)."""
        n_like = len(self.once_seen) - int(np.searchsorted(self.once_seen, distance - 1e-6))
        return (n_like + 1) / (self.n_training + 2)

    def gap_probability(self, before: int, event: int, gap_s: float) -> tuple[float, float]:
        """Share of training gaps as long, and the usual gap in s (the 99 % quantile) on this transition.

        The share is the least of those on this transition, before this event and anywhere: what is longer than all
        gaps of the wider group is so of the narrower, too, and the wider one has more to say so. Where training has
        too few gaps on this transition, the usual one is that before the event, or any. A gap within three times the
        longest one seen is no news: share 1.
        """
        width = self.n_known + 2
        share, usual = 1.0, float("nan")
        value = float(np.log(gap_s + self.gap_unit_s))
        for group in (before * width + event if max(before, event) < self.n_known else None, -1 - event, EVERYWHERE):
            row = None if group is None else self.gaps.row(group)
            if row is None:
                continue
            if np.isnan(usual):
                usual = float(np.exp(self.gaps.quantiles[row, 2])) - self.gap_unit_s
            if value <= float(self.gaps.quantiles[row, 3]) + np.log(3):
                break
            share = min(share, tail_probability(value, int(self.gaps.n[row]), self.gaps.quantiles[row]))
        return share, usual

    def surprise_probability(self, event: int, surprise: float) -> float:
        """Share of training occurrences of this event (else of any) that surprised the model as much."""
        for group in (event, EVERYWHERE):
            row = self.surprise.row(group)
            if row is not None:
                return tail_probability(surprise, int(self.surprise.n[row]), self.surprise.quantiles[row])
        return 1.0

    @cached_property
    def usual_lengths(self) -> tuple[int, int]:
        """The lengths between which 99 % of the training sessions lie."""
        below = np.cumsum(self.lengths[:, 1]) / max(self.n_sessions, 1)
        low, high = np.searchsorted(below, [0.005, 0.995])
        last = len(self.lengths) - 1
        return int(self.lengths[min(int(low), last), 0]), int(self.lengths[min(int(high), last), 0])

    def length_probability(self, length: int) -> float:
        """Smoothed share of training sessions at least as far out, on the nearer side, twice."""
        shorter = int(self.lengths[self.lengths[:, 0] <= length, 1].sum())
        longer = int(self.lengths[self.lengths[:, 0] >= length, 1].sum())
        return min(1.0, 2 * (min(shorter, longer) + 1) / (self.n_sessions + 2))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a model folder keeps: a JSON object and arrays."""
        values = {
            "n_known": self.n_known,
            "n_sessions": self.n_sessions,
            "n_training": self.n_training,
            "n_singular": self.n_singular,
            "gap_unit_s": self.gap_unit_s,
            "reference_keys": list(self.reference_keys),
        }
        arrays: dict[str, np.ndarray] = {
            "reference_offsets": self.references.offsets,
            "reference_events": self.references.event_id,
            "reference_counts": self.reference_counts,
            "event_counts": self.event_counts,
            "lengths": self.lengths,
            "pair_keys": self.pair_keys,
            "pair_counts": self.pair_counts,
            "seen_in": self.seen_in,
            "once_seen": self.once_seen,
            **self.gaps.state("gaps"),
            **self.surprise.state("surprise"),
        }
        return values, arrays

    @classmethod
    def from_state(cls, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ExplainContext:
        """The inverse of `state`; raises KeyError or ValueError where something is missing or does not fit."""
        try:
            stored = _Stored.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"the picture of normal: {first_problem(error)}") from error
        n_known, width = stored.n_known, stored.n_known + 2
        offsets, events = arrays["reference_offsets"], arrays["reference_events"]
        check_array("reference_events", events, np.int32, (None,), low=0, high=n_known - 1)
        check_offsets("reference_offsets", offsets, len(events))
        counted: dict[str, tuple[int | None, ...]] = {
            "reference_counts": (len(stored.reference_keys),),
            "event_counts": (None, 3),
            "lengths": (None, 2),
            "pair_counts": arrays["pair_keys"].shape,
            "seen_in": (n_known,),
        }
        for name, shape in counted.items():
            check_array(name, arrays[name], np.int64, shape, low=0, high=MOST_COUNTED)
        pairs, once_seen = arrays["pair_keys"], arrays["once_seen"]
        check_array("once_seen", once_seen, np.float32, (None,), low=0, high=1)
        check_array("events of event_counts", arrays["event_counts"][:, 0], np.int64, (None,), high=n_known - 1)
        check_array("pair_keys", pairs, np.int64, (None,), low=0, high=width**2 - 1)
        if len(arrays["lengths"]) == 0 or (np.diff(arrays["lengths"][:, 0]) <= 0).any() or (np.diff(pairs) <= 0).any():
            raise ValueError("the picture of normal: lengths or pair_keys do not rise")
        if (np.diff(once_seen) < 0).any():
            raise ValueError("the picture of normal: once_seen does not rise")
        gaps, surprise = (TailTable.from_state(kind, arrays) for kind in ("gaps", "surprise"))
        if len(gaps.keys) and stored.gap_unit_s == 0:
            raise ValueError("the picture of normal: gaps without a gap_unit_s")
        made = cls(
            n_known=n_known,
            n_sessions=stored.n_sessions,
            n_training=stored.n_training,
            n_singular=stored.n_singular,
            gap_unit_s=stored.gap_unit_s,
            references=SequenceTable(offsets, events, np.full(len(events), np.nan, np.float32)),
            reference_keys=tuple(stored.reference_keys),
            reference_counts=arrays["reference_counts"],
            event_counts=arrays["event_counts"],
            lengths=arrays["lengths"],
            pair_keys=pairs,
            pair_counts=arrays["pair_counts"],
            seen_in=arrays["seen_in"],
            once_seen=once_seen,
            gaps=gaps,
            surprise=surprise,
        )
        if unknown := arrays.keys() - made.state()[1].keys():
            raise ValueError(f"the picture of normal has no {min(unknown)!r:.100}")
        return made


class _Stored(BaseModel):
    """The values of `ExplainContext.state`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n_known: int = Field(ge=0, le=1 << 30)
    n_sessions: int = Field(ge=1, le=1 << 40)
    n_training: int = Field(ge=1, le=1 << 40)
    n_singular: int = Field(ge=0, le=1 << 40)
    gap_unit_s: float = Field(ge=0, le=1e12)
    reference_keys: list[str]
