"""Templates become hashed words."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.encoder.vocabulary import template_words, word_matrix


def test_camel_case_snake_case_and_case_mean_the_same_words() -> None:
    words = template_words("Receiving block <BLK> from dataNode", 4096)
    assert words == template_words("receiving, block: <blk> from data_node!", 4096)
    assert len(words) == 6


def test_buckets_are_fixed_for_ever() -> None:
    assert template_words("connection refused", 4096) == template_words("connection refused", 4096)
    assert word_matrix(["connection refused"], 4096, 4).tolist() == [
        [*template_words("connection refused", 4096), 0, 0]
    ]


@given(st.lists(st.text(st.characters()), max_size=5), st.integers(64, 5000), st.integers(1, 40))
def test_any_text_fits_the_matrix(templates: list[str], n_buckets: int, max_words: int) -> None:
    matrix = word_matrix(templates, n_buckets, max_words)
    assert matrix.shape == (len(templates), max_words)
    assert matrix.dtype == np.int32
    for row, template in zip(matrix, templates, strict=True):
        words = template_words(template, n_buckets)[:max_words]
        assert row[: len(words)].tolist() == words
        assert not row[len(words) :].any()
        assert all(0 < word < n_buckets for word in words)


def test_words_in_any_script_count() -> None:
    assert len(template_words("Fehler über Größe 連接 失敗", 4096)) == 5
    assert len(template_words("\udce9 <*> x", 4096)) >= 2
