"""How odd the values in a message are, and the time before it, beside those of training.

What a slot of an event (`value_slots`) holds is told by counts alone: numbers have tails (`value_tails`), words of
which there are few make a new one odd (`value_words`), and where nearly every session brings a new value nothing
follows from one.

A probability is a share of training sessions, so that a session with a thousand values counts once. A training session
is judged by the others alone (but for the drift of a slot): what only it holds is new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from ai_detect import scratch
from ai_detect.artifacts import check_array
from ai_detect.detectors.value_columns import ObservedColumns, in_groups
from ai_detect.detectors.value_slots import GAP, NO_SLOT, Observed, n_groups, observe
from ai_detect.detectors.value_tails import NumberTails
from ai_detect.detectors.value_words import Vocabularies
from ai_detect.tables import Float32Array, Float64Array, Int32Array, SequenceTable, ValueTable, ragged_rows

#: Training is measured on an even sample of sessions with about so many events; more only cost memory.
_MAX_EVENTS = 1_000_000
#: Events that are looked at together; only memory depends on it.
_BLOCK = 1 << 16
#: Beyond any number of events.
_MOST_EVENTS = 1 << 29

Fitted = TypeVar("Fitted", NumberTails, Vocabularies)


class ValueSurprise(NamedTuple):
    """What is oddest in each event: its surprise in nats, (n_events, 2) float32, and its slot, (n_events, 2) int32;
    first among its numbers and times, then among its words.

    A slot is the number of a value of the event, or `SINCE_SAME_EVENT`, `GAP`, or `NO_SLOT` where the surprise is 0.
    """

    surprise: Float32Array
    slot: Int32Array


@dataclass(frozen=True)
class ValueModel:
    """What training says of the values in each slot, and of time."""

    n_events: int  # event ids below are known
    numbers: NumberTails
    words: Vocabularies

    @classmethod
    def fit(cls, sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[ValueModel, ValueSurprise]:
        """Learn from training sessions in order of time; also returns how odd each of them is beside the others.

        `values` are those of the sequences' events, row for row; event ids from `n_events` on are of no known template.
        """
        _check_aligned(sequences, values)
        stride = -(-max(len(sequences.event_id), 1) // _MAX_EVENTS)
        if stride == 1:
            return cls._fit(sequences, values, n_events)
        sampled = np.arange(0, len(sequences), stride)
        rows = ragged_rows(sequences.offsets[sampled], sequences.lengths[sampled])
        model, own = cls._fit(sequences.take(sampled), values.take(rows), n_events)
        both = model.surprise(sequences, values)
        for whole, of_sample in zip(both, own, strict=True):
            whole[rows] = of_sample
        return model, both

    @classmethod
    def _fit(cls, sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[ValueModel, ValueSurprise]:
        columns = ObservedColumns(of_words=False), ObservedColumns(of_words=True)
        parts = _blocks(sequences)
        for begin, end in parts:
            found = observe(*_part(sequences, values, begin, end), n_events)
            for column, observed in zip(columns, found, strict=True):
                column.append(observed, int(sequences.offsets[begin]), begin)
        numbers, words = (column.whole() for column in columns)
        middle = len(sequences) / 2
        tails, of_numbers = _fit_groups(NumberTails, numbers[0], n_events, middle)
        counts, of_words = _fit_groups(Vocabularies, words[0], n_events, middle)
        both = _empty(len(sequences.event_id))
        for at, (begin, end) in enumerate(parts):
            events = slice(int(sequences.offsets[begin]), int(sequences.offsets[end]))
            own = []
            for (observed, begins), nats in ((numbers, of_numbers), (words, of_words)):
                rows = slice(int(begins[at]), int(begins[at + 1]))
                here = Observed(*(column[rows] for column in observed))
                own.append((here._replace(row=here.row - events.start), nats[rows]))
            both.surprise[events], both.slot[events] = _oddest(events.stop - events.start, own)
            scratch.let_go()
        return cls(n_events, tails, counts), both

    def surprise(self, sequences: SequenceTable, values: ValueTable) -> ValueSurprise:
        """How odd the events of new sessions are; `values` are those of the sequences' events, row for row."""
        _check_aligned(sequences, values)
        both = _empty(len(sequences.event_id))
        for begin, end in _blocks(sequences):
            events = slice(int(sequences.offsets[begin]), int(sequences.offsets[end]))
            numbers, words = observe(*_part(sequences, values, begin, end), self.n_events)
            own = [
                (numbers, self.numbers.surprise(numbers.group, numbers.value)),
                (words, self.words.surprise(words.group, words.value)),
            ]
            both.surprise[events], both.slot[events] = _oddest(events.stop - events.start, own)
            if end - begin < len(sequences):
                scratch.let_go()
        return both

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        return {"n_events": np.array([self.n_events]), **self.numbers.state(), **self.words.state()}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> ValueModel:
        """The model that was saved; raises KeyError or ValueError where the arrays are not one."""
        check_array("n_events", arrays["n_events"], np.int64, (1,), low=0, high=_MOST_EVENTS)
        n_events = int(arrays["n_events"][0])
        numbers = NumberTails.from_state(arrays, n_groups(n_events))
        return cls(n_events, numbers, Vocabularies.from_state(arrays, n_groups(n_events)))


def _fit_groups(kind: type[Fitted], observed: Observed, n_events: int, middle: float) -> tuple[Fitted, Float64Array]:
    """What `kind.fit` gives of all values, a few groups at a time: none depends on another."""
    nats = scratch.zeros(len(observed.row), np.float64)
    parts = []
    for rows in in_groups(observed.group, n_groups(n_events)):
        part, nats[rows] = kind.fit(Observed(*(column[rows] for column in observed)), middle)
        parts.append(part)
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in kind.__annotations__
        if name != "offsets"
    }
    n_values = np.concatenate([np.diff(part.offsets) for part in parts])
    return kind(**columns, offsets=np.append(0, np.cumsum(n_values))), nats


def _oddest(n_events: int, found: Sequence[tuple[Observed, Float64Array]]) -> ValueSurprise:
    """The largest surprise of each event among its numbers, among its words, and its slot."""
    surprise, slot = np.zeros((n_events, 2)), np.full((n_events, 2), NO_SLOT, np.int32)
    for column, (values, nats) in enumerate(found):
        for number in range(GAP + 1):  # an event occurs once in a slot
            of = np.flatnonzero(values.slot == number)
            of = of[nats[of] > surprise[values.row[of], column]]
            surprise[values.row[of], column] = nats[of]
            slot[values.row[of], column] = number
    return ValueSurprise(surprise.astype(np.float32), slot)


def _empty(n_events: int) -> ValueSurprise:
    return ValueSurprise(
        scratch.zeros(2 * n_events, np.float32).reshape(n_events, 2),
        scratch.zeros(2 * n_events, np.int32).reshape(n_events, 2),
    )


def _part(sequences: SequenceTable, values: ValueTable, begin: int, end: int) -> tuple[SequenceTable, ValueTable]:
    """Neighbouring sessions with their values."""
    events = np.arange(sequences.offsets[begin], sequences.offsets[end])
    return sequences.take(np.arange(begin, end)), values.take(events)


def _blocks(sequences: SequenceTable) -> list[tuple[int, int]]:
    """Neighbouring sessions of about `_BLOCK` events, as (first, behind the last)."""
    n = len(sequences)
    bounds = np.searchsorted(sequences.offsets, np.arange(0, len(sequences.event_id) + _BLOCK, _BLOCK))
    bounds = np.unique(np.append(np.minimum(bounds, n), [0, n]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _check_aligned(sequences: SequenceTable, values: ValueTable) -> None:
    if len(values) != len(sequences.event_id):
        raise ValueError(f"values of {len(values)} events, expected {len(sequences.event_id)}")
