"""What of a session is scored: descriptions, each a matrix with one row a session.

    presence   which events occur, rare ones weighing more
    rarity     how improbable this set of events is                 relations  how improbable counts are given others
    novelty    how unlike every known template, how many            severity   how rare its failures are
    order      how improbable the transitions are                   surprise what the encoder did not expect
    timing     length, duration, longest gap                        numbers  how far out its oddest number or gap is
    words      how rare its oddest parameter is
    embedding  the encoder's vector: what happened, in which course, and what of it was a surprise
    profile    single numbers together, for detectors that weigh columns against each other
    extremes   the profile with bigrams, numbers and words, for methods that have no view of these

A row depends on its session and on the sessions that the views were fitted on, never on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ai_detect import scratch
from ai_detect.artifacts import check_array
from ai_detect.detectors.dependence import MOST, DependenceTree, UInt8Array, distinct_levels
from ai_detect.detectors.occurrences import MAX_COLUMNS, event_columns, occurrences
from ai_detect.detectors.transitions import Transitions
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array, SequenceTable

#: Views of single numbers, which the profile holds side by side.
_NUMBERS = ("rarity", "relations", "novelty", "severity", "order", "surprise", "timing")
#: All of them.
VIEWS = (*_NUMBERS, "presence", "bigrams", "numbers", "words", "profile", "extremes", "embedding")
#: Sessions that are described at once; only memory depends on it.
_BLOCK = 8_192
#: Beyond any count; sums of such counts stay below 2**63.
_MOST_COUNTED = 1 << 40


@dataclass(frozen=True)
class SessionEvidence:
    """What parsing and the encoder know of sessions: `embedding` (n_sessions, dim); by event, (n_events_total,):
    `surprise`, -ln p; `failure`, whether its line tells of one; and (n_events_total, 2) `odd`, how odd its numbers and
    times are, and its words, in nats.
    """

    sequences: SequenceTable
    embedding: Float32Array
    surprise: Float32Array
    failure: BoolArray
    odd: Float32Array

    def __post_init__(self) -> None:
        if self.embedding.shape[0] != len(self.sequences) or self.embedding.ndim != 2:
            raise ValueError(f"embedding {self.embedding.shape} does not fit {len(self.sequences)} sessions")
        n = len(self.sequences.event_id)
        columns = (("surprise", self.surprise, (n,)), ("failure", self.failure, (n,)), ("odd", self.odd, (n, 2)))
        for name, column, shape in columns:
            if column.shape != shape:
                raise ValueError(f"{name} {column.shape} does not fit {n} events")

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, sessions: Int64Array) -> SessionEvidence:
        """The evidence of these sessions, in this order."""
        lengths = self.sequences.lengths[sessions]
        ends = np.cumsum(lengths)
        rows = np.repeat(self.sequences.offsets[sessions] - (ends - lengths), lengths) + np.arange(lengths.sum())
        of_events = (self.surprise[rows], self.failure[rows], self.odd[rows])
        return SessionEvidence(self.sequences.take(sessions), self.embedding[sessions], *of_events)


@dataclass(frozen=True)
class SessionViews:
    """The views as fitted: what training says about events and transitions.

    An event that no training session holds is unseen, whatever its id.
    """

    n_sessions: int
    document_frequency: Int64Array  # sessions that hold the event, by event id
    column: Int32Array  # column of each event in the event matrices
    known_vectors: Float32Array  # (n, d) unit vectors of the distinct templates that occur
    transitions: Transitions
    relations: DependenceTree  # over the columns of the event matrices

    @classmethod
    def fit(cls, sequences: SequenceTable, event_vectors: Float32Array) -> SessionViews:
        """Learn from training sessions; `event_vectors` (n_templates, d) describes the text of each event."""
        n, n_events = len(sequences), len(event_vectors)
        frequency = np.zeros(n_events, np.int64)
        for block in scratch.blocks(n, _BLOCK):
            own = sequences.take(np.arange(block.start, block.stop))
            frequency += np.bincount(occurrences(own, n_events)[1], minlength=n_events)
        column = event_columns(frequency)
        n_columns = int(column.max(initial=-1)) + 2
        levels, weights = np.zeros((0, n_columns), np.uint8), np.zeros(0)
        for block in scratch.blocks(n, _BLOCK):
            own = sequences.take(np.arange(block.start, block.stop))
            session, event, count = occurrences(own, n_events)
            here = _levels(len(own), n_columns, session, column[event], count)
            levels, weights = distinct_levels(
                np.concatenate([levels, here]), np.concatenate([weights, np.ones(len(here))])
            )
        return cls(
            n_sessions=n,
            document_frequency=frequency,
            column=column,
            known_vectors=np.unique(_unit(event_vectors[frequency > 0]), axis=0),
            transitions=Transitions.fit(sequences, n_events),
            relations=DependenceTree.fit(levels, weights),
        )

    def transform(
        self, evidence: SessionEvidence, event_vectors: Float32Array, wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        """The wanted views of sessions, each (n_sessions, d) float32 and finite.

        `event_vectors` must cover every event id of the sessions, known and unseen.
        """
        distance = self._distances(np.unique(evidence.sequences.event_id), event_vectors)
        starts = range(0, len(evidence), _BLOCK)
        if len(starts) <= 1:
            return self._block(evidence, distance, wanted)
        blocks = [
            self._block(evidence.take(np.arange(start, min(start + _BLOCK, len(evidence)))), distance, wanted)
            for start in starts
        ]
        return {name: np.concatenate([block[name] for block in blocks]) for name in wanted}

    def _block(
        self, evidence: SessionEvidence, distance: Float64Array, wanted: Collection[str]
    ) -> dict[str, Float32Array]:
        sequences = evidence.sequences
        n, n_events = len(sequences), len(distance)
        session, event, count = occurrences(sequences, n_events)
        unseen = self._unseen(n_events)[event]
        column = np.full(len(event), self.n_columns - 1)
        column[~unseen] = self.column[event[~unseen]]
        order, bigrams = self.transitions.describe(sequences)
        views: dict[str, np.ndarray] = {
            "rarity": self._rarity(n, session, event, unseen),
            "relations": self._relations(_levels(n, self.n_columns, session, column, count)),
            "novelty": self._novelty(n, session, event, unseen, distance),
            "severity": self._severity(sequences, evidence.failure, n_events),
            "order": order,
            "bigrams": bigrams,
            "surprise": _mean_and_largest(sequences, evidence.surprise.astype(np.float64)),
            "timing": _timing(sequences),
            "numbers": _mean_and_largest(sequences, evidence.odd[:, 0].astype(np.float64))[:, 1:],
            "words": _mean_and_largest(sequences, evidence.odd[:, 1].astype(np.float64))[:, 1:],
        }
        views["profile"] = np.hstack([views[name] for name in _NUMBERS])
        views["extremes"] = np.hstack([views[name] for name in ("profile", "bigrams", "numbers", "words")])
        views["embedding"] = evidence.embedding
        if "presence" in wanted:  # as wide as there are events
            views["presence"] = self._event_matrix(n, session, column, 1 + self._rareness(event, unseen))
        return {name: np.ascontiguousarray(views[name], np.float32) for name in wanted}

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that `from_state` takes."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for part, inner in (("relations", self.relations.state()), ("transitions", self.transitions.state())):
            arrays |= {f"{part}/{name}": array for name, array in inner.items()}
        return {**arrays, "n_sessions": np.array([self.n_sessions])}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray]) -> SessionViews:
        """The views that were saved; raises KeyError or ValueError where the arrays are not theirs."""
        check_array("n_sessions", arrays["n_sessions"], np.int64, (1,), low=1, high=_MOST_COUNTED)
        n_sessions = int(arrays["n_sessions"][0])
        frequency, column = arrays["document_frequency"], arrays["column"]
        check_array("document_frequency", frequency, np.int64, (None,), low=0, high=n_sessions)
        n = len(frequency)
        check_array("column", column, np.int32, (n,), low=0, high=min(n, MAX_COLUMNS) - 1)
        check_array("known_vectors", arrays["known_vectors"], np.float32, (None, None), low=-1.01, high=1.01)
        inner: dict[str, dict[str, np.ndarray]] = {"relations": {}, "transitions": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if rest:
                inner[part][rest] = array
        return cls(
            n_sessions,
            **{name: arrays[name] for name in _ARRAYS},
            transitions=Transitions.from_state(inner["transitions"], n, _MOST_COUNTED),
            relations=DependenceTree.from_state(inner["relations"], int(column.max(initial=-1)) + 2),
        )

    @property
    def n_columns(self) -> int:
        """Columns of the event matrices; the last is that of unseen events."""
        return int(self.column.max(initial=-1)) + 2

    def _unseen(self, n_events: int) -> np.ndarray:
        unseen = np.ones(n_events, np.bool_)
        known = self.document_frequency[:n_events]
        unseen[: len(known)] = known == 0
        return unseen

    def _event_matrix(self, n: int, session: Int64Array, column: Int64Array, weights: Float64Array) -> Float64Array:
        """The weights of the events that occur, those of a column added up at right angles, (n, n_columns).

        They are 1 and more, so that a common event that is missing keeps its weight.
        """
        squares = np.bincount(session * self.n_columns + column, weights**2, n * self.n_columns)
        return np.sqrt(squares).reshape(n, self.n_columns)

    def _rareness(self, event: Int64Array, unseen: np.ndarray) -> Float64Array:
        """-ln of the share of training sessions that hold the event."""
        frequency = np.zeros(len(event))
        frequency[~unseen] = self.document_frequency[event[~unseen]]
        return np.asarray(np.log((self.n_sessions + 1) / (frequency + 1)), np.float64)

    def _rarity(self, n: int, session: Int64Array, event: Int64Array, unseen: np.ndarray) -> Float64Array:
        """-ln probability of the set of events, as if they came and stayed away independently of each other."""
        share = (self.document_frequency[self.document_frequency > 0] + 0.5) / (self.n_sessions + 1)
        nothing = float(-np.log1p(-np.minimum(share, 1 - 0.5 / (self.n_sessions + 1))).sum())
        frequency = np.zeros(len(event))
        frequency[~unseen] = self.document_frequency[event[~unseen]]
        share = np.minimum((frequency + 0.5) / (self.n_sessions + 1), 1 - 0.5 / (self.n_sessions + 1))
        change = np.log1p(-share) * ~unseen - np.log(share)  # present instead of absent
        return np.asarray(nothing + np.bincount(session, change, n), np.float64)[:, None]

    def _relations(self, levels: UInt8Array) -> Float64Array:
        """-ln probability of all counts, each given the one that it depends on; the largest part of it."""
        surprise = self.relations.surprise(levels)
        return np.column_stack([surprise.sum(axis=1), surprise.max(axis=1, initial=0)])

    def _severity(self, sequences: SequenceTable, failure: BoolArray, n_events: int) -> Float64Array:
        """-ln of the share of training sessions that hold an event, added up over the failures; the largest part."""
        session = np.repeat(np.arange(len(sequences)), sequences.lengths)[failure]
        pairs = np.unique(session * max(n_events, 1) + sequences.event_id[failure])
        session, event = pairs // max(n_events, 1), pairs % max(n_events, 1)
        rareness = self._rareness(event, self._unseen(n_events)[event])
        largest = np.zeros(len(sequences))
        np.maximum.at(largest, session, rareness)
        return np.column_stack([np.bincount(session, rareness, len(sequences)), largest])

    def _distances(self, events: Int32Array, event_vectors: Float32Array) -> Float64Array:
        """How unlike all known templates each unseen one of these events is (cosine distance), (n_templates,)."""
        distance = np.zeros(len(event_vectors))
        for new in events[self._unseen(len(event_vectors))[events]]:
            # one product a template, of fixed shape: its result cannot depend on which others are new
            likeness = (self.known_vectors * _unit(event_vectors[new : new + 1])).sum(axis=1)
            distance[new] = 1 - likeness.max(initial=0)
        return distance

    def _novelty(
        self, n: int, session: Int64Array, event: Int64Array, unseen: BoolArray, distance: Float64Array
    ) -> Float64Array:
        """How unlike all known templates the strangest unseen one is; log number of unseen events."""
        strangest = np.zeros(n)
        np.maximum.at(strangest, session[unseen], distance[event[unseen]])
        return np.column_stack([strangest, np.log1p(np.bincount(session[unseen], minlength=n))])


_ARRAYS = ("document_frequency", "column", "known_vectors")


def _levels(n: int, width: int, session: Int64Array, column: Int64Array | Int32Array, count: Int64Array) -> UInt8Array:
    """How often the events of each column occur, cut off at `MOST`, (n, width)."""
    counts = np.bincount(session * width + column, count, n * width)
    return np.minimum(counts, MOST).astype(np.uint8).reshape(n, width)


def _mean_and_largest(sequences: SequenceTable, values: Float64Array) -> Float64Array:
    """Mean and largest value of each session's events, 0 for a session without any; (n_sessions, 2)."""
    lengths = sequences.lengths
    session = np.repeat(np.arange(len(sequences)), lengths)
    mean = np.bincount(session, values, len(sequences)) / np.maximum(lengths, 1)
    largest = np.full(len(sequences), -np.inf)
    np.maximum.at(largest, session, values)
    return np.column_stack([mean, np.where(lengths > 0, largest, 0)])


def _timing(sequences: SequenceTable) -> Float64Array:
    """Log of the length, the duration in seconds and the longest gap; a missing time counts as 0 s."""
    gaps = np.nan_to_num(sequences.gap_s, nan=0.0).astype(np.float64)
    mean_and_largest = _mean_and_largest(sequences, gaps)
    duration = mean_and_largest[:, 0] * sequences.lengths
    return np.log1p(np.column_stack([sequences.lengths, duration, mean_and_largest[:, 1]]))


def _unit(vectors: Float32Array) -> Float32Array:
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)
