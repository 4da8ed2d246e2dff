"""Several bytes at once are the bytes that are there."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.ingest.byte_words import SLACK, last_word, places_of


@given(st.lists(st.sampled_from(b"\n\r\x0bab\xff"), max_size=300), st.integers(0, 70))
def test_places_of_a_byte(content: list[int], begin: int) -> None:
    data, begin = np.array(content, np.uint8), min(begin, len(content))
    places = np.zeros(len(content) + 1, np.int64)
    n = places_of(10, data, begin, len(data), places, 1)
    assert places[1:n].tolist() == [i for i in range(begin, len(content)) if content[i] == 10]


@given(st.binary(min_size=1, max_size=7), st.binary(max_size=SLACK), st.integers(0, 9))
def test_the_last_word_holds_no_other_byte(string: bytes, after: bytes, begin: int) -> None:
    data = np.frombuffer(bytearray(b"\xee" * begin + string + after), np.uint8)
    assert int(last_word(data, begin, len(string))) == int.from_bytes(string, "little")
