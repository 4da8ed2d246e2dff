from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.reporting import alignment
from ai_detect.reporting.alignment import WORD_BITS, bit_masks, common_length, common_lengths, matching_pairs
from ai_detect.tables import SequenceTable

EVENTS = st.lists(st.integers(0, 4), max_size=20)


def sequence_table(sessions: list[list[int]]) -> SequenceTable:
    events = np.array([event for session in sessions for event in session], np.int32)
    offsets = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    return SequenceTable(offsets, events, np.zeros(len(events), np.float32))


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


@given(EVENTS, st.lists(EVENTS, max_size=6), st.booleans())
def test_many_are_compared_as_each_alone(left: list[int], others: list[list[int]], is_long: bool) -> None:
    left = left * 20 if is_long else left
    table = sequence_table(others)
    alone = [common_length(bit_masks(left), len(left), other) for other in others]
    assert common_lengths(left, table).tolist() == alone


def test_sessions_as_long_as_a_word_are_compared() -> None:
    left = [number % 5 for number in range(WORD_BITS)]
    others = [left, left[1:], [*left, 9], [9], []]
    assert common_lengths(left, sequence_table(others)).tolist() == [64, 63, 64, 0, 0]


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
