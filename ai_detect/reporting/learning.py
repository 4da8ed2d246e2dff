"""How the picture of normal is learned from training sessions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ai_detect.reporting.novelty import KnownTemplates
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.tails import EVERYWHERE, tail_table
from ai_detect.sequences.windowing import distinct_sequences
from ai_detect.tables import BoolArray, Float32Array, Int64Array, SequenceTable

#: Tails of gaps and surprise are measured on an even sample of sessions with about so many events.
_MAX_TAIL_EVENTS = 2_000_000
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
    sample = np.flatnonzero(session % -(-max(len(events), 1) // _MAX_TAIL_EVENTS) == 0)
    log_gaps = np.log(gaps[sample] + unit) if unit else np.full(len(sample), np.nan)
    log_p = np.full(len(sample), np.nan) if surprise is None else surprise[sample].astype(np.float64)
    everywhere = np.full(len(sample), EVERYWHERE)
    gap_groups = np.concatenate([transitions[sample], -1 - events[sample], everywhere])
    once = np.flatnonzero(seen_in == 1) if templates else np.zeros(0, np.int64)
    some = once[np.linspace(0, len(once) - 1, min(len(once), _MAX_ONCE_SEEN)).astype(np.int64)]
    of_some = KnownTemplates(templates).distances_to_others(some)
    once_seen = of_some[np.arange(len(once)) * len(some) // max(len(once), 1)]  # each stands for its share
    first, _, counts = distinct_sequences(sequences)
    n_singular = int((counts == 1).sum())
    first, counts = _references(sequences, first, counts, max_references, max_reference_events)
    references = sequences.take(first)
    no_gaps = np.full(len(references.event_id), np.nan, np.float32)
    return ExplainContext(
        n_known=n_known,
        n_sessions=len(sequences),
        n_training=n_training,
        n_singular=n_singular,
        gap_unit_s=unit,
        references=SequenceTable(references.offsets, references.event_id, no_gaps),
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
