"""Which sessions an epoch of training looks at: real logs repeat themselves, and so few of the repetitions teach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai_detect import scratch
from ai_detect.sequences.augmentation import mix64_array
from ai_detect.sequences.session_blocks import session_blocks
from ai_detect.tables import BoolArray, Int64Array, SequenceTable

#: A log of no more sessions is looked at whole; of a larger one, an epoch is at least so long.
_LEAST = 2048


@dataclass(frozen=True)
class EpochSamples:
    """The sessions of an epoch, and for how many equal ones each of them stands."""

    session: Int64Array  # (n,) in order
    copies: Int64Array  # (n,) their sum is the number of sessions

    def __len__(self) -> int:
        return len(self.session)


def epoch_samples(sequences: SequenceTable, trusted: BoolArray) -> EpochSamples:
    """Of n equal sessions about sqrt(n), or as many times more as are needed for `_LEAST` samples: each has views and
    damage of its own, of which a hundred teach hardly more than ten.

    Of the sessions only those `trusted` (n_sessions,) are learned from, at least one; the place of another goes to the
    next of them.
    """
    normal = np.flatnonzero(trusted)
    learned = normal[np.searchsorted(normal, np.arange(len(trusted))) % len(normal)]
    keys = _content_keys(sequences)[learned]
    by_content = np.argsort(keys, kind="stable")
    _, begins, counts = np.unique(keys[by_content], return_index=True, return_counts=True)
    kept = _kept(counts)
    number = np.arange(kept.sum()) - np.repeat(np.cumsum(kept) - kept, kept)
    begins, counts, kept = (np.repeat(column, kept) for column in (begins, counts, kept))
    last = begins + (number + 1) * counts // kept - 1  # of as many equal sessions each as can be
    session, copies = learned[by_content[last]], np.diff(last, prepend=-1)
    in_order = np.argsort(session, kind="stable")
    return EpochSamples(session[in_order], copies[in_order])


def _kept(counts: Int64Array) -> Int64Array:
    """How many of so many equal sessions are looked at."""
    least, factor = min(_LEAST, int(counts.sum())), 1.0
    while True:
        kept = np.minimum(counts, np.ceil(factor * np.sqrt(counts))).astype(np.int64)
        if kept.sum() >= least:
            return kept
        factor *= 1.25


def _content_keys(sequences: SequenceTable) -> Int64Array:
    """A number for each session, equal for those with the same events in the same order, (n_sessions,)."""
    keys = scratch.zeros(len(sequences), np.int64)
    for block in session_blocks(sequences.offsets):
        bounds = sequences.offsets[block.start : block.stop + 1]
        ends, lengths = bounds - bounds[0], np.diff(bounds)
        place = np.arange(ends[-1]) - np.repeat(ends[:-1], lengths)
        hashes = mix64_array((place << 32) + sequences.event_id[bounds[0] : bounds[-1]], 1)
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])  # beyond 64 bits it wraps
        keys[block] = (total[ends[1:]] - total[ends[:-1]]).view(np.int64)
    return keys
