"""Learning is Drain3's to the letter, its state survives JSON, and matching depends on the templates alone."""

from __future__ import annotations

import copy
import csv
import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drain3.masking import AbstractMaskingInstruction, LogMasker
from drain3.template_miner import TemplateMiner as Drain3Miner
from drain3.template_miner_config import TemplateMinerConfig
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.errors import NotFittedError
from ai_detect.parsing.masking import DEFAULT_MASKS, Masks
from ai_detect.parsing.matching import template_id
from ai_detect.parsing.template_miner import TemplateMiner

DATA = Path(os.environ.get("AI_DETECT_DATA", Path(__file__).parents[3] / "shared" / "data"))
SYSTEMS = ("HDFS", "BGL", "Linux", "Hadoop", "OpenSSH", "Apache", "Zookeeper", "HealthApp")

#: Few words, so that random messages share templates, leaves and token counts; odd blanks and surrogates among them.
WORDS = st.sampled_from(["a", "b", "c", "id=7", "<NUM>", "x9", "\udc80", "<\\*>", "é", "\x00", "d"])
BLANKS = st.sampled_from([" ", "  ", "\t", "\x85", "\u2003"])
MESSAGES = st.lists(st.lists(WORDS, max_size=6), max_size=60).flatmap(
    lambda lists: BLANKS.map(lambda blank: [blank.join(words) for words in lists])
)


def read_content(system: str) -> tuple[list[str], list[str]]:
    path = DATA / "loghub_2k" / system / f"{system}_2k.log_structured_corrected.csv.gz"
    if not path.exists():
        pytest.skip(f"shared data are absent ({path})")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["Content"] for row in rows], [row["EventTemplate"] for row in rows]


class OurMask(AbstractMaskingInstruction):
    """Our masks inside Drain3's own miner."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        super().__init__("ours")
        self._mask = mask

    def mask(self, content: str, mask_prefix: str, mask_suffix: str) -> str:
        return self._mask(content)


def drain3_miner(masks: Masks, similarity: float, depth: int, max_clusters: int | None) -> Any:
    config = TemplateMinerConfig()
    config.drain_sim_th, config.drain_depth, config.drain_max_clusters = similarity, depth, max_clusters
    miner = Drain3Miner(config=config)
    miner.masker = LogMasker([OurMask(lambda text: masks.mask(text)[0])], "<", ">")
    return miner


def in_batches(texts: list[str], size: int = 97) -> list[list[str]]:
    return [texts[i : i + size] for i in range(0, len(texts), size)]


@pytest.mark.parametrize(
    ("similarity", "depth", "max_clusters", "masks"),
    [(0.65, 4, None, DEFAULT_MASKS), (0.4, 6, None, Masks(())), (0.65, 4, 20, DEFAULT_MASKS)],
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_learning_is_drain3_over_the_whole_file(
    system: str, similarity: float, depth: int, max_clusters: int | None, masks: Masks
) -> None:
    lines, _ = read_content(system)
    theirs = drain3_miner(masks, similarity, depth, max_clusters)
    ours = TemplateMiner(masks, similarity=similarity, depth=depth, max_clusters=max_clusters)

    their_ids = [theirs.add_log_message(line)["cluster_id"] - 1 for line in lines]
    our_ids = [cluster for batch in in_batches(lines) for cluster in ours.learn(ours.mask(batch)[0])]

    assert our_ids == their_ids
    their_clusters = sorted((c.cluster_id - 1, c.size, c.get_template()) for c in theirs.drain.clusters)
    assert ours.clusters == their_clusters


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_learned_line_matches(system: str) -> None:
    lines, _ = read_content(system)
    miner = TemplateMiner()
    masked = miner.mask(lines)[0]
    miner.learn(masked)
    miner.freeze()
    for text in masked:
        template = miner.templates[miner.match(text)].split()
        tokens = text.split()
        assert len(template) == len(tokens)
        assert all(a in ("<*>", b) for a, b in zip(template, tokens, strict=True))


def grouping_accuracy(found: list[int], truth: list[str]) -> tuple[float, float]:
    """GA (share of lines in an exactly right group) and FGA (F1 of exactly right groups), Jiang et al., ISSTA 2024."""
    groups: list[dict[Any, list[int]]] = [{}, {}]
    for grouping, labels in zip(groups, (found, truth), strict=True):
        for row, label in enumerate(labels):
            grouping.setdefault(label, []).append(row)
    right = {tuple(rows) for rows in groups[0].values()} & {tuple(rows) for rows in groups[1].values()}
    return sum(map(len, right)) / len(truth), 2 * len(right) / (len(groups[0]) + len(groups[1]))


def test_default_masks_group_lines_at_least_as_well_as_none() -> None:
    means = []
    for masks, similarity in ((DEFAULT_MASKS, 0.65), (DEFAULT_MASKS, 0.4), (Masks(()), 0.4)):
        scores = []
        for system in SYSTEMS:
            lines, truth = read_content(system)
            miner = TemplateMiner(masks, similarity=similarity)
            masked = miner.mask(lines)[0]
            miner.learn(masked)
            miner.freeze()
            scores.append(grouping_accuracy([miner.match(text) for text in masked], truth))
        means.append([sum(column) / len(scores) for column in zip(*scores, strict=True)])
    defaults, loose, unmasked = means
    assert defaults[0] > loose[0] > unmasked[0]
    assert defaults[1] > loose[1] > unmasked[1]
    assert defaults[0] > 0.94
    assert defaults[1] > 0.89


@settings(deadline=None)
@given(MESSAGES)
def test_learned_messages_match_and_order_of_matching_is_irrelevant(messages: list[str]) -> None:
    miner = TemplateMiner(similarity=0.4)
    miner.learn(messages)
    miner.freeze()
    events = [miner.match(message) for message in messages]
    assert -1 not in events
    again = TemplateMiner.from_json(miner.to_json())
    assert [again.match(message) for message in reversed(messages)] == events[::-1]
    assert again.templates == miner.templates
    assert len(set(miner.templates)) == len(miner.templates)


@settings(max_examples=100, deadline=None)
@given(
    MESSAGES,
    MESSAGES,
    st.fixed_dictionaries(
        {},
        optional={
            "depth": st.integers(3, 7),
            "similarity": st.sampled_from([0.0, 0.3, 0.5, 1]),
            "max_children": st.integers(2, 5),
            "max_clusters": st.integers(1, 8),
            "extra_delimiters": st.sampled_from([["="], ["=", "_"]]),
            "numeric_tokens_vary": st.booleans(),
        },
    ),
)
def test_learning_goes_on_after_json_as_if_never_stopped(
    before: list[str], after: list[str], options: dict[str, Any]
) -> None:
    miner = TemplateMiner(**options)
    miner.learn(before)
    again = TemplateMiner.from_json(json.loads(json.dumps(miner.to_json())))
    assert again.to_json() == miner.to_json()
    assert again.content_hash == miner.content_hash
    assert again.learn(after) == miner.learn(after)
    assert again.clusters == miner.clusters
    assert again.to_json() == miner.to_json()  # the prefix tree and the order of forgetting included


def test_json_round_trip_on_a_whole_log() -> None:
    lines, _ = read_content("Hadoop")
    whole = TemplateMiner()
    masked = whole.mask(lines)[0]
    ids = whole.learn(masked)
    first = TemplateMiner()
    first.learn(masked[:1000])
    second = TemplateMiner.from_json(json.loads(json.dumps(first.to_json())))
    assert second.learn(masked[1000:]) == ids[1000:]
    assert second.to_json() == whole.to_json()


def trained() -> TemplateMiner:
    miner = TemplateMiner()
    miner.learn(
        miner.mask(["open file 1 ok now", "open file 2 ok now", "close all", "", "start x of y", "start z of y"])[0]
    )
    return miner


def test_the_most_specific_template_is_taken() -> None:
    miner = TemplateMiner(similarity=0.4)
    miner.learn(["a b c d", "a b x y", "q w e r", "q w e t"])
    miner.freeze()
    assert miner.templates == ("a b <*> <*>", "q w e <*>")
    assert [miner.match(text) for text in ("a b 1 2", "q w e e", "q w 1 e", "a b c")] == [0, 1, -1, -1]


def test_matching_depends_on_the_set_of_templates_alone() -> None:
    from ai_detect.parsing.matching import TemplateMatcher

    templates = ["a <*> c", "a b <*>", "<*> b c", "<*> <*> <*>", "a b c", "", "<*>"]
    shuffler = random.Random(0)
    for _ in range(10):
        order = shuffler.sample(templates, len(templates))
        matcher = TemplateMatcher(order)
        found = {
            text: order[matcher.match(text.split())] for text in ("a b c", "a b x", "x b c", "a x c", "x y z", "", "x")
        }
        assert found == {
            "a b c": "a b c",
            "a b x": "a b <*>",
            "x b c": "<*> b c",
            "a x c": "a <*> c",
            "x y z": "<*> <*> <*>",
            "": "",
            "x": "<*>",
        }


def test_public_ids_are_hashes_of_the_text() -> None:
    miner = trained()
    miner.freeze()
    assert miner.templates == ("open file <NUM> ok now", "close all", "", "start <*> of y")
    other = TemplateMiner()
    other.learn(["close all"])
    other.freeze()
    public = [template_id(template) for template in miner.templates]
    assert template_id(other.templates[0]) == public[1]
    assert len(set(public)) == 4
    assert all(len(one) == 16 for one in public)


def test_frozen_templates_do_not_learn() -> None:
    miner = trained()
    with pytest.raises(NotFittedError):
        miner.match("close all")
    with pytest.raises(NotFittedError):
        _ = miner.templates
    hash_before = miner.content_hash
    miner.freeze()
    miner.freeze()
    assert miner.content_hash != hash_before
    with pytest.raises(ValueError, match="frozen"):
        miner.learn(["more"])
    with pytest.raises(ValueError, match="frozen"):
        TemplateMiner.from_json(miner.to_json()).learn(["more"])


def test_the_caches_are_only_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_detect.parsing.template_miner._CACHED_TEXTS", 2)
    lines = [f"line {i % 5} of {'x' * (i % 3) * 600}" for i in range(40)]
    miner = TemplateMiner()
    assert miner.mask(lines)[0] == [DEFAULT_MASKS.mask(line)[0] for line in lines]
    miner.learn(miner.mask(lines)[0])
    miner.freeze()
    events = [miner.match(text) for text in miner.mask(lines)[0]]
    assert events == [TemplateMiner.from_json(miner.to_json()).match(text) for text in miner.mask(lines)[0]]


def test_a_text_of_a_hundred_thousand_words() -> None:
    miner = TemplateMiner()
    long = "word " * 100_000
    miner.learn([long, long + "more"])
    again = TemplateMiner.from_json(json.loads(json.dumps(miner.to_json())))
    again.freeze()
    assert [again.match(long), again.match(long + "more"), again.match(long + "less")] == [0, 1, -1]


def broken(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = copy.deepcopy(trained().to_json())
    change(state)
    return state


BROKEN = {
    "missing key": lambda s: s.pop("tree"),
    "earlier templates": lambda s: s.update(earlier=[1]),
    "further key": lambda s: s.update(more=1),
    "other schema": lambda s: s.update(schema_version=2),
    "frozen": lambda s: s.update(frozen=1),
    "depth": lambda s: s["drain"].update(depth=2),
    "depth not whole": lambda s: s["drain"].update(depth=4.0),
    "similarity": lambda s: s["drain"].update(similarity=float("nan")),
    "delimiters": lambda s: s["drain"].update(extra_delimiters=[""]),
    "delimiters no list": lambda s: s["drain"].update(extra_delimiters="ab"),
    "delimiters a number": lambda s: s["drain"].update(extra_delimiters=5),
    "numeric": lambda s: s["drain"].update(numeric_tokens_vary=None),
    "drain key": lambda s: s["drain"].update(eval="1"),
    "too many clusters": lambda s: s["drain"].update(max_clusters=1),
    "clusters": lambda s: s.update(clusters={}),
    "cluster": lambda s: s["clusters"].append(["1", 1, "a"]),
    "cluster twice": lambda s: s["clusters"].append(s["clusters"][0]),
    "cluster number": lambda s: s["clusters"][0].__setitem__(0, 99),
    "cluster size": lambda s: s["clusters"][0].__setitem__(1, 0),
    "cluster length": lambda s: s["clusters"][0].__setitem__(2, "a"),
    "not in the tree": lambda s: s.update(tree=[{}, []]),
    "no such cluster": lambda s: s["tree"][0]["5"][0]["open"][1].append(4711),
    "twice in the tree": lambda s: s["tree"][0]["5"][0]["open"][1].append(1),
    "tree too deep": lambda s: s["tree"][0]["5"][0]["open"][0].update(a=[{"b": [{}, []]}, []]),
    "node": lambda s: s["tree"].append(1),
    "node clusters": lambda s: s["tree"][0]["5"][1].append("1"),
    "clusters in the root": lambda s: s["tree"][1].append(1),
    "created": lambda s: s.update(n_created=None),
    "masks": lambda s: s.update(masks=[]),
    "pattern": lambda s: s["masks"]["patterns"].append(["A", "("]),
}


@pytest.mark.parametrize("change", BROKEN)
def test_from_json_is_strict(change: str) -> None:
    with pytest.raises(ValueError, match=r"templates|mask|depth|similarity|extra_delimiters|numeric_tokens_vary"):
        TemplateMiner.from_json(broken(BROKEN[change]))
    TemplateMiner.from_json(trained().to_json())


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    )
)
def test_from_json_of_anything_else_is_a_value_error(value: object) -> None:
    state = trained().to_json()
    for key in state.keys() - ({"earlier"} if isinstance(value, str) else set()):
        with pytest.raises(ValueError):
            TemplateMiner.from_json({**state, key: [value, value, value]})


@pytest.mark.parametrize(
    "options", [{"depth": 2}, {"similarity": 2}, {"max_children": 1}, {"max_clusters": 0}, {"extra_delimiters": [1]}]
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TemplateMiner(**options)


def test_many_templates_are_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("ai_detect.parsing.template_miner._MANY_TEMPLATES", 2)
    miner = TemplateMiner()
    for text in ("a", "b b", "c c c", "d d d d"):
        miner.learn([text])
    assert [record.levelname for record in caplog.records if record.name.startswith("ai_detect")] == ["WARNING"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hdfs_2pct/HDFS", "bgl_windows/bgl", "openstack_kalaki/openstack", "lo2/lo2", "linux/Linux"]
)
def test_learning_is_drain3_over_whole_logs(name: str) -> None:
    path = DATA / f"{name}.log.gz"
    if not path.exists():
        pytest.skip(f"shared data are absent ({path})")
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        lines = [line.rstrip("\r\n") for line in file]
    if name.startswith(("bgl", "openstack")):  # the first word is the session key
        lines = [line.partition(" ")[2] for line in lines]
    theirs = drain3_miner(DEFAULT_MASKS, 0.65, 4, None)
    ours = TemplateMiner()
    masked = ours.mask(lines)[0]
    assert ours.learn(masked) == [theirs.add_log_message(line)["cluster_id"] - 1 for line in lines]
    assert ours.clusters == [(c.cluster_id - 1, c.size, c.get_template()) for c in theirs.drain.clusters]
    ours.freeze()
    assert all(ours.match(text) >= 0 for text in set(masked))


@settings(deadline=None)
@given(MESSAGES, MESSAGES)
def test_learning_on_keeps_every_event_id(first: list[str], second: list[str]) -> None:
    """Also where Drain makes an old template more general, and again after a round trip."""
    miner = TemplateMiner()
    miner.learn(miner.mask(first)[0])
    miner.freeze()
    grown = miner.continued()
    grown.learn(grown.mask(second)[0])
    grown.freeze()
    assert grown.templates[: len(miner.templates)] == miner.templates
    assert all(grown.match(text) >= 0 for text in grown.mask(second)[0])
    again = TemplateMiner.from_json(json.loads(json.dumps(grown.to_json())))
    assert again.templates == grown.templates and again.content_hash == grown.content_hash
