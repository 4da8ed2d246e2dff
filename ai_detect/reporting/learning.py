"""How the picture of normal is learned from training sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ai_detect import scratch
from ai_detect.reporting.novelty import KnownTemplates
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.tails import EVERYWHERE, joined_tables, tail_table
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import BoolArray, Float32Array, Int64Array, SequenceTable, added_up, ragged_rows

#: Tails of gaps and surprise are measured on an even sample of sessions with about so many events.
_MAX_TAIL_EVENTS = 500_000
#: Templates seen once that are compared with all others; more only cost time.
_MAX_ONCE_SEEN = 1000
#: Sessions that are counted at once; only memory depends on it.
_BLOCK = 1 << 13
#: An event and how often a session holds it are one number: the second takes so many bits.
_COUNT_BITS = 32


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
    kept = np.arange(n_training) if normal is None else np.flatnonzero(normal)
    counts_of_events = lengths = pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    unit = np.inf
    for block in scratch.blocks(len(kept), _BLOCK):
        own = sequences.take(kept[block])
        counts_of_events = added_up(counts_of_events, _event_counts(own, n_known))
        lengths = added_up(lengths, np.unique(own.lengths, return_counts=True))
        pairs = added_up(pairs, _transitions(own, n_known))
        unit = float(np.min(own.gap_s, where=own.gap_s > 0, initial=unit))
    unit = unit if np.isfinite(unit) else 0.0
    event_counts, n_with = counts_of_events

    n_kept_events = int((lengths[0] * lengths[1]).sum())
    some_sessions = kept[:: -(-max(n_kept_events, 1) // _MAX_TAIL_EVENTS)]
    sample = sequences.take(some_sessions)
    events = sample.event_id.astype(np.int64)
    gaps = np.maximum(sample.gap_s.astype(np.float64), 0.0)  # a clock that ran backwards is no delay
    log_gaps = np.log(gaps + unit) if unit else np.full(len(events), np.nan)
    rows = ragged_rows(sequences.offsets[some_sessions], sample.lengths)
    log_p = np.full(len(events), np.nan) if surprise is None else surprise[rows].astype(np.float64)
    everywhere = np.full(len(events), EVERYWHERE)
    gap_groups = (everywhere, -1 - events, _before(sample, n_known) * (n_known + 2) + events)
    once = np.flatnonzero(seen_in == 1) if templates else np.zeros(0, np.int64)
    some = once[np.linspace(0, len(once) - 1, min(len(once), _MAX_ONCE_SEEN)).astype(np.int64)]
    of_some = KnownTemplates(templates).distances_to_others(some)
    once_seen = of_some[np.arange(len(once)) * len(some) // max(len(once), 1)]  # each stands for its share
    normal_sequences = sequences if normal is None else sequences.take(kept)
    first, _, counts = distinct_sequences(normal_sequences)
    n_singular = int((counts == 1).sum())
    first, counts = _references(normal_sequences, first, counts, max_references, max_reference_events)
    references = normal_sequences.take(first)
    no_gaps = np.full(len(references.event_id), np.nan, np.float32)
    return ExplainContext(
        n_known=n_known,
        n_sessions=len(kept),
        n_training=n_training,
        n_singular=n_singular,
        gap_unit_s=unit,
        references=SequenceTable(references.offsets, references.event_id, no_gaps),
        reference_counts=counts,
        reference_keys=tuple(keys[index] for index in kept[first].tolist()),
        event_counts=np.column_stack([event_counts >> _COUNT_BITS, event_counts & (1 << _COUNT_BITS) - 1, n_with]),
        lengths=np.column_stack(lengths),
        pair_keys=pairs[0],
        pair_counts=pairs[1],
        seen_in=seen_in,
        once_seen=np.sort(once_seen),
        gaps=joined_tables(tail_table(groups, log_gaps) for groups in gap_groups),
        surprise=joined_tables(tail_table(groups, log_p) for groups in (everywhere, events)),
    )


def _event_counts(sequences: SequenceTable, n_known: int) -> tuple[Int64Array, Int64Array]:
    """Events and how often a session holds each, in one number, ascending; and the number of such sessions."""
    session = np.repeat(np.arange(len(sequences)), sequences.lengths)
    pairs, occurrences = np.unique(session * n_known + sequences.event_id, return_counts=True)
    found, n_with = np.unique((pairs % n_known << _COUNT_BITS) + occurrences, return_counts=True)
    return found, n_with.astype(np.int64)


def _before(sequences: SequenceTable, n_known: int) -> Int64Array:
    """The event before each event; `n_known` before the first of a session."""
    before = np.empty(len(sequences.event_id), np.int64)
    before[1:] = sequences.event_id[:-1]
    before[sequences.offsets[:-1][sequences.lengths > 0]] = n_known
    return before


def _transitions(sequences: SequenceTable, n_known: int) -> tuple[Int64Array, Int64Array]:
    """Transitions, those to a session's end included, ascending; and how often there are such."""
    width = n_known + 2
    last = sequences.event_id[sequences.offsets[1:][sequences.lengths > 0] - 1].astype(np.int64)
    found = np.concatenate([_before(sequences, n_known) * width + sequences.event_id, last * width + n_known + 1])
    keys, counts = np.unique(found, return_counts=True)
    return keys, counts.astype(np.int64)


def _document_frequency(sequences: SequenceTable, n_known: int) -> Int64Array:
    """Sessions that hold each known event."""
    frequency = np.zeros(n_known, np.int64)
    for block in scratch.blocks(len(sequences), _BLOCK):
        own = sequences.take(np.arange(block.start, block.stop))
        session = np.repeat(np.arange(len(own)), own.lengths)
        held = np.unique(session * n_known + own.event_id)
        frequency += np.bincount(held % max(n_known, 1), minlength=n_known)
    return frequency


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
