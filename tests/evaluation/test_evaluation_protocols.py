from __future__ import annotations

import numpy as np
import pytest

from ai_detect.evaluation.protocols import chronological, clean, contaminated, few_normal, random_halves

LABELS = np.array([1 if i % 5 == 0 else 0 for i in range(200)], np.int8)


@pytest.mark.parametrize(
    "split",
    [random_halves(200, 3), chronological(200, 0.8), few_normal(LABELS, 0.01, 3)],
    ids=["halves", "time", "few"],
)
def test_parts_share_no_session_and_are_ascending(split) -> None:  # type: ignore[no-untyped-def]
    assert np.array_equal(np.sort(np.concatenate([split.train, split.test])), np.arange(200))
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.test) > 0).all()


def test_halves_are_a_function_of_the_seed() -> None:
    assert np.array_equal(random_halves(200, 3).train, random_halves(200, 3).train)
    assert not np.array_equal(random_halves(200, 3).train, random_halves(200, 4).train)


def test_time_goes_forward() -> None:
    split = chronological(10, 0.8)
    assert split.train.max() < split.test.min()


def test_clean_training_leaves_the_test_as_it_is() -> None:
    split = random_halves(200, 0)
    cleaned = clean(split, LABELS)
    assert LABELS[cleaned.train].sum() == 0
    assert len(cleaned.train) == (LABELS[split.train] == 0).sum()
    assert np.array_equal(cleaned.test, split.test)
    assert LABELS[few_normal(LABELS, 0.05, 0).train].sum() == 0


def test_contamination_is_as_asked() -> None:
    split = random_halves(200, 0)
    for share in (0, 0.05, 0.1):
        assert LABELS[contaminated(split, LABELS, share, 1).train].mean() == pytest.approx(share, abs=0.01)
    with pytest.raises(ValueError, match="holds"):
        contaminated(split, LABELS, 0.5, 1)
