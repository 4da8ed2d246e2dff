"""The replay, in both languages, leaves Drain in the state, and gives every line the cluster, that adding it would."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.parsing.replay import DrainReplay
from ai_detect.parsing.template_miner import TemplateMiner

#: Few words and few children of a node, so that clusters change under texts that were decided before.
WORDS = st.sampled_from(["a", "b", "c", "<NUM>", "x9", "7", "<\\*>", "é", "\udc80", "_", "a_b"])
MESSAGES = st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=12) | st.lists(
    st.lists(st.sampled_from("abcd"), min_size=4, max_size=4).map(" ".join), min_size=6, max_size=12
)
STREAMS = MESSAGES.flatmap(lambda messages: st.lists(st.sampled_from(messages), max_size=120))
OPTIONS = st.fixed_dictionaries(
    {
        "depth": st.integers(3, 6),
        "similarity": st.sampled_from([0.3, 0.5, 0.65, 1.0]),
        "max_children": st.integers(2, 4),
        "max_clusters": st.sampled_from([None, None, None, 2, 5]),
        "extra_delimiters": st.sampled_from([(), ("_",), ("<", "a")]),
        "numeric_tokens_vary": st.booleans(),
    }
)


Learn = Callable[[list[str], TemplateMiner, int], list[int]]


def plainly(stream: list[str], miner: TemplateMiner) -> list[int]:
    return [miner._drain.add_log_message(text)[0].cluster_id - 1 for text in stream]


def learned(stream: list[str], miner: TemplateMiner, n_at_once: int) -> list[int]:
    return [cluster for i in range(0, len(stream), n_at_once) for cluster in miner.learn(stream[i : i + n_at_once])]


def replayed(stream: list[str], miner: TemplateMiner, n_at_once: int) -> list[int]:
    texts = ByteDictionary()
    learner = miner.byte_learner(miner.words_of(texts))
    clusters: list[int] = []
    for begin in range(0, len(stream), n_at_once):
        numbers = [texts.number(text.encode("utf-8", "surrogatepass")) for text in stream[begin : begin + n_at_once]]
        clusters += learner.add(np.array(numbers, np.int32)).tolist()
    learner.flush()
    return clusters


@settings(max_examples=300, deadline=None)
@given(stream=STREAMS, options=OPTIONS, n_at_once=st.sampled_from([1, 7, 1000]))
def test_random_streams(stream: list[str], options: dict[str, Any], n_at_once: int) -> None:
    more = [*stream, *stream[::-1], "a new one", "b new one"]  # and on from a state that was stored
    for learn in (replayed, learned):
        plain, fast = TemplateMiner(**options), TemplateMiner(**options)
        for part in (stream, more):
            assert learn(part, fast, n_at_once) == plainly(part, plain)
            assert fast.to_json() == plain.to_json()
            plain, fast = (TemplateMiner.from_json(miner.to_json()) for miner in (plain, fast))


@pytest.mark.parametrize("learn", [replayed, learned])
def test_drain_is_asked_only_where_something_may_change(learn: Learn) -> None:
    stream = [f"{word} went {i % 3}" for i in range(200) for word in ("one", "two")]
    miner = TemplateMiner(numeric_tokens_vary=False)
    asked: list[str] = []
    add = miner._drain.add_log_message
    miner._drain.add_log_message = lambda text: (asked.append(text), add(text))[1]
    learn(stream, miner, 64)
    assert len(asked) < 20
    assert sum(size for _, size, _ in miner.clusters) == len(stream)


@pytest.mark.parametrize("learn", [replayed, learned])
@pytest.mark.parametrize("depth", [3, 4, 5, 6])
def test_changed_leaves_are_decided_anew(depth: int, learn: Learn) -> None:
    """Messages so alike that a stale decision shows in every few streams."""
    for seed in range(60):
        rng = random.Random(seed)
        messages = [" ".join(rng.choice("abcd") for _ in range(5)) for _ in range(14)]
        stream = [rng.choice(messages) for _ in range(120)]
        options: dict[str, Any] = {"similarity": 0.4, "depth": depth, "max_children": 3}
        plain, fast = TemplateMiner(**options), TemplateMiner(**options)
        assert learn(stream, fast, 50) == plainly(stream, plain)
        assert fast.clusters == plain.clusters


def test_a_drain_that_forgets_is_refused() -> None:
    with pytest.raises(ValueError, match="forgets"):
        miner = TemplateMiner(max_clusters=2)
        DrainReplay(miner._drain, miner.words_of(ByteDictionary()), lambda n: None)


def test_frozen_templates_learn_nothing() -> None:
    miner = TemplateMiner()
    miner.freeze()
    with pytest.raises(ValueError, match="frozen"):
        miner.byte_learner(miner.words_of(ByteDictionary()))


@pytest.mark.parametrize("learn", [replayed, learned])
@pytest.mark.parametrize(("depth", "other"), [(4, "a x y z v"), (5, "a b x y z"), (6, "a b x y z"), (6, "a b c x z")])
def test_a_new_node_sends_messages_elsewhere(depth: int, other: str, learn: Learn) -> None:
    """The same text finds a cluster below a wildcard first, and none below the node that another text makes."""
    first = {4: "1 b c d e", 5: "a 1 c d e", 6: "a 1 c d e"}[depth]
    stream = [first, *["a b c d e"] * 3, other, *["a b c d e"] * 2]
    plain, fast = TemplateMiner(depth=depth), TemplateMiner(depth=depth)
    assert learn(stream, fast, 50) == plainly(stream, plain)
    assert fast.to_json() == plain.to_json()


def test_python_and_compiled_code_may_take_turns() -> None:
    plain, fast = TemplateMiner(similarity=0.5), TemplateMiner(similarity=0.5)
    first, then = ["a b c d"] * 2, ["a b x y", "a q c d"]  # of which the last is more like the first than its cluster
    assert fast.learn(first) == plainly(first, plain) == [0, 0]
    assert replayed(then, fast, 2) == plainly(then, plain) == [0, 1]
    assert fast.learn(first) == plainly(first, plain) == [1, 1]
    assert fast.to_json() == plain.to_json()


@pytest.mark.parametrize("learn", [replayed, learned])
def test_a_literal_wildcard_is_decided_each_time(learn: Learn) -> None:
    stream = ["a <*>", "b c", "a <*>", "b c", "a <*>"]
    plain, fast = TemplateMiner(similarity=1.0), TemplateMiner(similarity=1.0)
    assert learn(stream, fast, 50) == plainly(stream, plain) == [0, 1, 2, 1, 3]
