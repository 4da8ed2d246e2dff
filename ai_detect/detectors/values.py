"""How odd the values in a message are, and the time before it, beside those of training.

What a slot of an event (`value_slots`) holds is told by counts alone: numbers have tails (`value_tails`), words of
which there are few make a new one odd (`value_words`), and where nearly every session brings a new value nothing
follows from one.

A probability is a share of training sessions, so that a session with a thousand values counts once. A training session
is judged by the others alone: what only it holds is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ai_detect.artifacts import check_array
from ai_detect.detectors.value_slots import GAP, NO_SLOT, Observed, n_groups, observe
from ai_detect.detectors.value_tails import NumberTails
from ai_detect.detectors.value_words import Vocabularies
from ai_detect.tables import Float32Array, Float64Array, Int32Array, SequenceTable, ValueTable

#: Training is measured on an even sample of sessions with about so many events; more only cost memory.
_MAX_EVENTS = 1_000_000
#: Events that are looked at together; only memory depends on it.
_BLOCK = 1 << 19
#: Beyond any number of events.
_MOST_EVENTS = 1 << 29


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
        number = np.arange(len(sequences))
        sampled = number % stride == 0
        rows = np.repeat(sampled, sequences.lengths)
        model, own = cls._fit(sequences.take(number[sampled]), values.take(np.flatnonzero(rows)), n_events)
        rest = model.surprise(sequences.take(number[~sampled]), values.take(np.flatnonzero(~rows)))
        both = ValueSurprise(np.empty((len(rows), 2), np.float32), np.empty((len(rows), 2), np.int32))
        for whole, of_sample, of_rest in zip(both, own, rest, strict=True):
            whole[rows], whole[~rows] = of_sample, of_rest
        return model, both

    @classmethod
    def _fit(cls, sequences: SequenceTable, values: ValueTable, n_events: int) -> tuple[ValueModel, ValueSurprise]:
        observed = observe(sequences, values, n_events)
        middle = len(sequences) / 2
        numbers, of_numbers = NumberTails.fit(observed[0], middle)
        words, of_words = Vocabularies.fit(observed[1], middle)
        return cls(n_events, numbers, words), _oddest(len(sequences.event_id), observed, (of_numbers, of_words))

    def surprise(self, sequences: SequenceTable, values: ValueTable) -> ValueSurprise:
        """How odd the events of new sessions are; `values` are those of the sequences' events, row for row."""
        _check_aligned(sequences, values)
        parts = [
            self._block(sequences.take(np.arange(begin, end)), values, int(sequences.offsets[begin]))
            for begin, end in _blocks(sequences)
        ]
        surprise = np.concatenate([np.zeros((0, 2), np.float32), *(part.surprise for part in parts)])
        return ValueSurprise(surprise, np.concatenate([np.zeros((0, 2), np.int32), *(part.slot for part in parts)]))

    def _block(self, sequences: SequenceTable, values: ValueTable, first_event: int) -> ValueSurprise:
        n = len(sequences.event_id)
        numbers, words = observe(sequences, values.take(np.arange(first_event, first_event + n)), self.n_events)
        of_numbers = self.numbers.surprise(numbers.group, numbers.value)
        return _oddest(n, (numbers, words), (of_numbers, self.words.surprise(words.group, words.value)))

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


def _oddest(
    n_events: int, observed: tuple[Observed, Observed], found: tuple[Float64Array, Float64Array]
) -> ValueSurprise:
    """The largest surprise of each event among its numbers, among its words, and its slot."""
    surprise, slot = np.zeros((n_events, 2)), np.full((n_events, 2), NO_SLOT, np.int32)
    for column, (values, nats) in enumerate(zip(observed, found, strict=True)):
        for number in range(GAP + 1):  # an event occurs once in a slot
            of = np.flatnonzero(values.slot == number)
            of = of[nats[of] > surprise[values.row[of], column]]
            surprise[values.row[of], column] = nats[of]
            slot[values.row[of], column] = number
    return ValueSurprise(surprise.astype(np.float32), slot)


def _blocks(sequences: SequenceTable) -> list[tuple[int, int]]:
    """Neighbouring sessions of about `_BLOCK` events, as (first, behind the last)."""
    n = len(sequences)
    bounds = np.searchsorted(sequences.offsets, np.arange(0, len(sequences.event_id) + _BLOCK, _BLOCK))
    bounds = np.unique(np.append(np.minimum(bounds, n), [0, n]))
    return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def _check_aligned(sequences: SequenceTable, values: ValueTable) -> None:
    if len(values) != len(sequences.event_id):
        raise ValueError(f"values of {len(values)} events, expected {len(sequences.event_id)}")
