"""Which sessions an epoch looks at: every kind, of many equal ones a few, which stand for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.sequences import epoch_samples as module
from ai_detect.sequences import session_blocks
from ai_detect.sequences.epoch_samples import epoch_samples
from ai_detect.tables import SequenceTable


@pytest.fixture(autouse=True, scope="module", params=[None, 3])
def in_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test as it is, and with blocks that even short logs are cut into."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param:
            patch.setattr(session_blocks, "MAX_EVENTS", request.param)
        patch.setattr(module, "_LEAST", 6)
        yield


def sequences_of(log: Sequence[tuple[int, ...]]) -> SequenceTable:
    offsets = np.cumsum([0, *map(len, log)], dtype=np.int64)
    return SequenceTable(
        offsets, np.array([event for events in log for event in events], np.int32), np.zeros(offsets[-1], np.float32)
    )


@given(st.lists(st.sampled_from([(), (1,), (1, 2), (2, 1), (1, 2, 1), (0, 0)]), min_size=1, max_size=60), st.data())
def test_samples_stand_for_all_sessions_and_each_for_equal_ones(
    log: list[tuple[int, ...]], data: st.DataObject
) -> None:
    is_trusted = np.array(data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)).filter(any)))
    samples = epoch_samples(sequences_of(log), is_trusted)
    assert (np.diff(samples.session) >= 0).all() and is_trusted[samples.session].all()
    stood_for = Counter[tuple[int, ...]]()
    for session, copies in zip(samples.session.tolist(), samples.copies.tolist(), strict=True):
        stood_for[log[session]] += copies
    places = [
        next(s for s in range(at, at + len(log)) if is_trusted[s % len(log)]) % len(log) for at in range(len(log))
    ]
    assert stood_for == Counter(log[session] for session in places)
    assert len(samples) >= min(6, len(log))


def test_few_sessions_are_all_looked_at() -> None:
    samples = epoch_samples(sequences_of([(1, 2)] * 6), np.ones(6, np.bool_))
    assert samples.session.tolist() == list(range(6))
    assert samples.copies.tolist() == [1] * 6


def test_of_many_equal_sessions_about_the_square_root_is_looked_at() -> None:
    log = [*[(1, 2)] * 100, *[(3,)] * 9, (4,)]
    samples = epoch_samples(sequences_of(log), np.ones(110, np.bool_))
    first, second, third = (
        samples.copies[(samples.session >= a) & (samples.session < b)] for a, b in ((0, 100), (100, 109), (109, 110))
    )
    assert first.tolist() == [10] * 10 and second.tolist() == [3] * 3 and third.tolist() == [1]


def test_an_epoch_of_equal_sessions_is_not_too_short() -> None:
    samples = epoch_samples(sequences_of([(1, 2)] * 16), np.ones(16, np.bool_))
    assert 6 <= len(samples) < 16
    assert samples.copies.sum() == 16
