"""Batches as a worker would build them; imported by worker processes, so it imports no torch."""

from __future__ import annotations

import numpy as np

from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.dropout import dropout_masks
from ai_detect.tables import SequenceTable


def sessions(n: int, longest: int = 12) -> SequenceTable:
    """Sessions of 2 to `longest` of 20 events."""
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(2, longest + 1, n))]).astype(np.int64)
    events = generator.integers(0, 20, offsets[-1]).astype(np.int32)
    return SequenceTable(offsets, events, np.zeros(len(events), np.float32))


def built(indices: list[int]) -> bytes:
    """Every byte that one training step is given: tokens, masks of events, contents, and dropout masks."""
    batch = make_batch(sessions(200, longest=300), np.array(indices), 42, 3, n_events=20, max_events=128)
    arrays = [batch.unseen, batch.content, batch.seeds, dropout_masks(batch.seeds, 24, 16, 0.1)]
    arrays += [array for group in batch.groups for array in (group.tokens, group.pieces)]
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
