"""Events of texts, and the plan of their values, by compiled code are those by Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.errors import NotFittedError
from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import MAX_VALUES

WORDS = st.sampled_from(
    ["a", "b", "<NUM>", "<NUM>ms", "(<NUM>kB)", "<NUM>:<IP>", "<x>", "<", "17", "1,024", "12:30:01.5", "10.0.0.1:80"]
) | st.sampled_from(["-3e5", "\u00e97", "\udc80", "x\u00a0y", "9" * 40])
TEXTS = st.lists(
    st.lists(WORDS, min_size=1, max_size=MAX_VALUES + 3).map(" ".join)
    | st.lists(st.sampled_from("ab7"), min_size=3, max_size=4).map("  ".join),
    min_size=1,
    max_size=20,
    unique=True,
)


def numbered(texts: list[str]) -> ByteDictionary:
    dictionary = ByteDictionary()
    for text in texts:
        dictionary.number(text.encode("utf-8", "surrogatepass"))
    return dictionary


@settings(max_examples=300, deadline=None)
@given(
    texts=TEXTS,
    n_learned=st.integers(0, 20),
    settings_=st.fixed_dictionaries(
        {"similarity": st.sampled_from([0.3, 0.65]), "extra_delimiters": st.sampled_from([(), ("<",), ("_",)])}
    ),
    n_first=st.integers(1, 20),
)
def test_random_texts(texts: list[str], n_learned: int, settings_: dict[str, Any], n_first: int) -> None:
    miner = TemplateMiner(**settings_)
    miner.learn(texts[:n_learned])
    miner.freeze()
    dictionary = numbered(texts[:n_first])
    words = miner.words_of(dictionary)
    words.numbered()  # some of the texts come later
    for text in texts[n_first:]:
        dictionary.number(text.encode("utf-8", "surrogatepass"))
    events = miner.events_of(words)
    assert events.tolist() == [miner.match(text) for text in texts]
    assert (events[:n_learned] >= 0).all()
    events[events < 0] = len(miner.templates)
    expected, found = miner.slot_plan(texts, events), miner.slot_plan_of(words, events)
    for name in ("offsets", "first", "n_masks", "word", "is_word"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found.number.astype(np.float32), expected.number.astype(np.float32))


def test_long_texts_and_words() -> None:
    texts = [" ".join(f"{word}{i}" for i in range(n)) for n in (1, 400, 20_000) for word in ("w", "word" * 9)]
    words = TemplateMiner().words_of(numbered(texts))
    offsets, numbers = words.numbered()
    for i, text in enumerate(texts):
        own = [words.words[number].decode() for number in numbers[offsets[i] : offsets[i + 1]]]
        assert own == text.split()


def test_events_need_frozen_templates() -> None:
    miner = TemplateMiner()
    with pytest.raises(NotFittedError, match="freeze"):
        miner.events_of(miner.words_of(ByteDictionary()))
