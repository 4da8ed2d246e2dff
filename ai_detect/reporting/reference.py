"""What reasons are measured against: the normal sessions of training, their counts, transitions, gaps and surprise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ai_detect.artifacts import check_array, first_problem
from ai_detect.reporting.novelty import KnownTemplates
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import (
    BoolArray,
    Float32Array,
    Float64Array,
    Int64Array,
    SequenceTable,
    check_column,
    check_offsets,
)

#: Shares of the training values below the stored quantiles; the last is the largest value seen.
QUANTILES = (0.5, 0.9, 0.99, 1.0)
#: Fewer values than this say nothing about a tail: the wider group is asked instead.
ENOUGH_VALUES = 20
#: Tails of gaps and surprise are measured on an even sample of sessions with about so many events.
MAX_TAIL_EVENTS = 2_000_000


@dataclass(frozen=True)
class TailTable:
    """Upper quantiles of a value in groups: row i holds group `keys[i]`, its number of values and their `QUANTILES`."""

    keys: Int64Array
    n: Int64Array
    quantiles: Float32Array  # (n_groups, 4)

    def row(self, key: int) -> int | None:
        """Row of a group, None where training has too few values of it."""
        at = int(np.searchsorted(self.keys, key))
        if at < len(self.keys) and self.keys[at] == key and self.n[at] >= ENOUGH_VALUES:
            return at
        return None


def tail_table(groups: Int64Array, values: Float64Array) -> TailTable:
    """Quantiles of `values` by group; NaN values are left out."""
    known = ~np.isnan(values)
    groups, values = groups[known], values[known]
    order = np.lexsort((values, groups))
    keys, start, n = np.unique(groups[order], return_index=True, return_counts=True)
    ranks = np.ceil(np.outer(n, QUANTILES)).astype(np.int64) - 1
    quantiles = values[order][start[:, None] + ranks] if len(keys) else np.zeros((0, len(QUANTILES)))
    return TailTable(keys, n.astype(np.int64), quantiles.astype(np.float32))


def tail_probability(value: float, n: int, quantiles: Float32Array) -> float:
    """A cautious share of training values at least as large, for a value in nats; it falls on beyond the largest."""
    half, tenth, hundredth, largest = (float(quantile) for quantile in quantiles)
    if value > largest:
        return min(0.01, 1 / (n + 1)) * float(np.exp(max(largest - value, -600)))  # never 0
    return 1.0 if value <= half else 0.5 if value <= tenth else 0.1 if value <= hundredth else 0.01


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
    gaps: TailTable  # log(seconds + unit) by transition, by event (-1 - event), and of all (-2**62)
    surprise: TailTable  # -log p by event, and of all (-2**62)

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
        width = self.n_known + 2
        source = self.n_known if before < 0 else before
        target = self.n_known + 1 if event < 0 else event
        if max(before, event) >= self.n_known:
            return Transition(0, 0, 0)
        out, into = self._pair_margins
        key = source * width + target
        at = int(np.searchsorted(self.pair_keys, key))
        together = int(self.pair_counts[at]) if at < len(self.pair_keys) and self.pair_keys[at] == key else 0
        return Transition(together, int(out[source]), int(into[target]))

    def transitions(self, before: Int64Array, event: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Counts of many transitions, as `Transition`; begin and end are `n_known` and `n_known + 1`."""
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
        for group in (before * width + event if max(before, event) < self.n_known else None, -1 - event, _ALL):
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
        for group in (event, _ALL):
            row = self.surprise.row(group)
            if row is not None:
                return tail_probability(surprise, int(self.surprise.n[row]), self.surprise.quantiles[row])
        return 1.0

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
        arrays = {
            "reference_offsets": self.references.offsets,
            "reference_events": self.references.event_id,
            "reference_counts": self.reference_counts,
            "event_counts": self.event_counts,
            "lengths": self.lengths,
            "pair_keys": self.pair_keys,
            "pair_counts": self.pair_counts,
            "seen_in": self.seen_in,
            "once_seen": self.once_seen,
            **{f"gaps_{name}": array for name, array in vars(self.gaps).items()},
            **{f"surprise_{name}": array for name, array in vars(self.surprise).items()},
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
        if unknown := arrays.keys() - set(_ARRAYS):
            raise ValueError(f"the picture of normal has no {min(unknown)!r:.100}")
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
            check_array(name, arrays[name], np.int64, shape, low=0, high=_MOST_COUNTED)
        pairs, once_seen = arrays["pair_keys"], arrays["once_seen"]
        check_array("once_seen", once_seen, np.float32, (None,), low=0, high=1)
        check_array("events of event_counts", arrays["event_counts"][:, 0], np.int64, (None,), high=n_known - 1)
        check_array("pair_keys", pairs, np.int64, (None,), low=0, high=width**2 - 1)
        if len(arrays["lengths"]) == 0 or (np.diff(arrays["lengths"][:, 0]) <= 0).any() or (np.diff(pairs) <= 0).any():
            raise ValueError("the picture of normal: lengths or pair_keys do not rise")
        if (np.diff(once_seen) < 0).any():
            raise ValueError("the picture of normal: once_seen does not rise")
        gaps, surprise = (_stored_tails(kind, arrays) for kind in ("gaps", "surprise"))
        if len(gaps.keys) and stored.gap_unit_s == 0:
            raise ValueError("the picture of normal: gaps without a gap_unit_s")
        return cls(
            n_known=n_known,
            n_sessions=stored.n_sessions,
            n_training=stored.n_training,
            n_singular=stored.n_singular,
            gap_unit_s=stored.gap_unit_s,
            references=SequenceTable(offsets, events, _no_gaps(len(events))),
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


class _Stored(BaseModel):
    """The values of `ExplainContext.state`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    n_known: int = Field(ge=0, le=1 << 30)
    n_sessions: int = Field(ge=1, le=1 << 40)
    n_training: int = Field(ge=1, le=1 << 40)
    n_singular: int = Field(ge=0, le=1 << 40)
    gap_unit_s: float = Field(ge=0, le=1e12)
    reference_keys: list[str]


_TAILS = ("keys", "n", "quantiles")
_ARRAYS = (
    *("reference_offsets", "reference_events", "reference_counts", "event_counts", "lengths", "pair_keys"),
    *("pair_counts", "seen_in", "once_seen"),
    *(f"{kind}_{name}" for kind in ("gaps", "surprise") for name in _TAILS),
)
#: Beyond any count; sums of such counts stay below 2**63.
_MOST_COUNTED = 1 << 40


def _stored_tails(kind: str, arrays: Mapping[str, np.ndarray]) -> TailTable:
    keys, n, quantiles = (arrays[f"{kind}_{name}"] for name in _TAILS)
    check_array(f"{kind}_keys", keys, np.int64, (None,))
    check_array(f"{kind}_n", n, np.int64, keys.shape, low=1, high=_MOST_COUNTED)
    # in nats: the exponential of such a number is finite
    check_array(f"{kind}_quantiles", quantiles, np.float32, (*keys.shape, len(QUANTILES)), low=-700, high=700)
    if (keys[1:] <= keys[:-1]).any() or (np.diff(quantiles, axis=1) < 0).any():
        raise ValueError(f"the picture of normal: {kind} does not rise")
    return TailTable(keys, n, quantiles)


_ALL = -(2**62)


def _no_gaps(n: int) -> Float32Array:
    return np.full(n, np.nan, np.float32)


#: Templates seen once that are compared with all others; more only cost time.
_MAX_ONCE_SEEN = 1000


def fit_context(
    sequences: SequenceTable,
    keys: Sequence[str],
    n_known: int,
    *,
    templates: Sequence[str] = (),
    surprise: Float32Array | None = None,
    normal: BoolArray | None = None,
    max_references: int = 4096,
    max_reference_events: int = 1_000_000,
) -> ExplainContext:
    """Learn what is normal from training sessions.

    `keys` name the sessions, `templates` are the texts of the known events, `surprise` is -log p by event (n_events,),
    `normal` (n_sessions,) leaves out those that look abnormal themselves, so that a dirty log does not excuse its own
    faults. Of the distinct sessions the commonest are kept to compare with.
    """
    n_training, seen_in = len(sequences), _document_frequency(sequences, n_known)
    if normal is not None and not normal.all():
        kept = np.flatnonzero(normal)
        if surprise is not None:
            surprise = surprise[np.repeat(normal, sequences.lengths)]
        sequences, keys = sequences.take(kept), [keys[int(index)] for index in kept]
    events = sequences.event_id.astype(np.int64)
    lengths = sequences.lengths
    session = np.repeat(np.arange(len(sequences)), lengths)

    pairs, occurrences = np.unique(session * n_known + events, return_counts=True)
    most = int(occurrences.max(initial=0)) + 1
    event_counts, n_with = np.unique(pairs % n_known * most + occurrences, return_counts=True)
    distinct_lengths, n_long = np.unique(lengths, return_counts=True)

    width = n_known + 2
    filled = lengths > 0
    starts, ends = sequences.offsets[:-1][filled], sequences.offsets[1:][filled]
    before = np.empty_like(events)
    before[1:] = events[:-1]
    before[starts] = n_known
    transitions = before * width + events
    pair_keys, pair_counts = np.unique(
        np.concatenate([transitions, events[ends - 1] * width + n_known + 1]), return_counts=True
    )

    gaps = np.maximum(sequences.gap_s.astype(np.float64), 0.0)  # a clock that ran backwards is no delay
    unit = float(np.min(gaps, where=gaps > 0, initial=np.inf))
    unit = unit if np.isfinite(unit) else 0.0
    sample = np.flatnonzero(session % -(-max(len(events), 1) // MAX_TAIL_EVENTS) == 0)
    log_gaps = np.log(gaps[sample] + unit) if unit else np.full(len(sample), np.nan)
    log_p = np.full(len(sample), np.nan) if surprise is None else surprise[sample].astype(np.float64)
    everywhere = np.full(len(sample), _ALL)
    gap_groups = np.concatenate([transitions[sample], -1 - events[sample], everywhere])
    once = np.flatnonzero(seen_in == 1) if templates else np.zeros(0, np.int64)
    some = once[np.linspace(0, len(once) - 1, min(len(once), _MAX_ONCE_SEEN)).astype(np.int64)]
    of_some = KnownTemplates(templates).distances_to_others(some)
    once_seen = of_some[np.arange(len(once)) * len(some) // max(len(once), 1)]  # each stands for its share
    first, _, counts = distinct_sequences(sequences)
    n_singular = int((counts == 1).sum())
    first, counts = _references(sequences, first, counts, max_references, max_reference_events)
    references = sequences.take(first)
    return ExplainContext(
        n_known=n_known,
        n_sessions=len(sequences),
        n_training=n_training,
        n_singular=n_singular,
        gap_unit_s=unit,
        references=SequenceTable(references.offsets, references.event_id, _no_gaps(len(references.event_id))),
        reference_counts=counts,
        reference_keys=tuple(keys[index] for index in first),
        event_counts=np.column_stack([event_counts // most, event_counts % most, n_with]).astype(np.int64),
        lengths=np.column_stack([distinct_lengths, n_long]).astype(np.int64),
        pair_keys=pair_keys,
        pair_counts=pair_counts.astype(np.int64),
        seen_in=seen_in,
        once_seen=np.sort(once_seen),
        gaps=tail_table(gap_groups, np.tile(log_gaps, 3)),
        surprise=tail_table(np.concatenate([events[sample], everywhere]), np.tile(log_p, 2)),
    )


def _document_frequency(sequences: SequenceTable, n_known: int) -> Int64Array:
    """Sessions that hold each known event."""
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    held = np.unique(session * n_known + sequences.event_id)
    return np.bincount(held % max(n_known, 1), minlength=n_known).astype(np.int64)


def _references(
    sequences: SequenceTable, first: Int64Array, counts: Int64Array, max_references: int, max_events: int
) -> tuple[Int64Array, Int64Array]:
    """First occurrence and count of the commonest distinct sessions; equally common ones are spread over the log."""
    spread = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # golden-ratio hashing scatters the ties
    commonest = np.lexsort((spread, -counts))[:max_references]
    commonest = commonest[
        : int(np.searchsorted(np.cumsum(sequences.lengths[first[commonest]]), max_events, side="right"))
    ]
    return first[commonest], counts[commonest]
