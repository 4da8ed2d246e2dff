from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ai_detect.reporting import alignment
from ai_detect.reporting.alignment import bit_masks, common_length, matching_pairs

EVENTS = st.lists(st.integers(0, 4), max_size=20)


def naive_common_length(left: list[int], right: list[int]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, event in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if event == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(EVENTS, EVENTS)
def test_pairs_are_a_longest_common_subsequence(left: list[int], right: list[int]) -> None:
    pairs = matching_pairs(left, right)
    assert all(left[i] == right[j] for i, j in pairs)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(pairs))
    assert len(pairs) == naive_common_length(left, right) == common_length(bit_masks(left), len(left), right)


def test_the_second_copy_of_a_repeated_block_is_surplus() -> None:
    assert matching_pairs([1, 2, 3, 2, 3, 4], [1, 2, 3, 4]) == [(0, 0), (1, 1), (2, 2), (5, 3)]


def test_sessions_too_long_for_the_programme_are_still_matched_in_order(monkeypatch) -> None:
    monkeypatch.setattr(alignment, "MAX_CELLS", 10)
    assert matching_pairs([1, 2, 9, 3, 4], [1, 2, 3, 4]) == [(0, 0), (1, 1), (3, 2), (4, 3)]
    assert matching_pairs([1, 2], [2] * 3 + [5] * 200 + [1]) == [(1, 0)]


def test_thousands_of_events_are_matched() -> None:
    right = [number % 7 for number in range(5000)]
    left = [*right[:2500], 8, *right[2500:]]
    assert len(matching_pairs(left, right)) == 5000
