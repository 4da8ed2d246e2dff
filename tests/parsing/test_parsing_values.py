"""What stood in the variable parts of a message is kept, in the slots of its template."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_detect.config import InputSettings
from ai_detect.ingest.log_sources import find_sources
from ai_detect.ingest.messages import MessageReader
from ai_detect.parsing.events import learn_events, match_events
from ai_detect.parsing.masking import DEFAULT_MASKS, Masks
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.parsing.values import hash_of, number_and_word
from ai_detect.tables import MAX_VALUES, EventTable

WHOLE = Masks((("NUM", r"\d+"), ("CMD", "<NUM>[. ]<NUM>|b+"), ("EMPTY", "(?=z)")), in_turn=True)
IN_PART = Masks((("NUM", r"\d+"), ("CMD", "N.M|b+")), in_turn=True)
ODD_TEXT = st.lists(
    st.sampled_from(
        ["<NUM>", "<CMD>", "<", ">", "NUM", "12", "7.5", " ", "a", "bb", "z", "10.0.0.1", "10:20:30", "/a/b"]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("masks", [DEFAULT_MASKS, WHOLE, Masks(())])
@given(text=ODD_TEXT)
def test_values_put_back_into_the_masks_are_the_text(masks: Masks, text: str) -> None:
    masked, values = masks.mask(text)
    left = iter(values)
    assert masks.written.sub(lambda mask: next(left), masked).replace("<\\*>", "<*>") == text.replace("<\\*>", "<*>")
    assert next(left, None) is None


def test_a_mask_that_swallows_another_stands_for_what_that_stood_for() -> None:
    assert IN_PART.mask("a1 N2M") == ("a<<CMD>> N<<CMD>>M", ("1", "2"))
    assert WHOLE.mask("1.2 3") == ("<CMD> <NUM>", ("1.2", "3"))


@given(text=ODD_TEXT)
def test_every_mask_has_a_value(text: str) -> None:
    masked, values = IN_PART.mask(text)
    assert len(IN_PART.written.findall(masked)) == len(values)


def test_a_mask_that_the_text_spells_out_stands_for_itself() -> None:
    assert DEFAULT_MASKS.mask("<NUM> of 5") == ("<NUM> of <NUM>", ("<NUM>", "5"))


@pytest.mark.parametrize(
    ("text", "number", "word"),
    [
        ("17", 17, "17"),
        ("-1.5e3", -1500, "-1.5e3"),
        ("1,234,567.5", 1234567.5, "1,234,567.5"),
        ("0,5", 0.5, "0,5"),
        ("1.2.3", None, "1.2.3"),
        ("01:02:03.5", 3723.5, "01:02:03.5"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1:50010", 50010, "10.0.0.1"),
        ("0x1f", None, "0x1f"),
        ("x", None, "x"),
        ("0,123,456", None, "0,123,456"),
        ("1,234,567e5", None, "1,234,567e5"),
        ("1,234e5", 1.234e5, "1,234e5"),
    ],
)
def test_what_a_value_is(text: str, number: float | None, word: str) -> None:
    found, kept = number_and_word(text)
    assert kept == word
    assert found == number or (number is None and np.isnan(found))


def parsed(folder: Path, lines: list[str], miner: TemplateMiner | None = None) -> tuple[EventTable, TemplateMiner]:
    path = folder / "a.log"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass"))
    reader = MessageReader(find_sources(path), InputSettings(log_format="<Content>"))
    if miner is not None:
        return match_events(reader, miner), miner
    miner = TemplateMiner()
    return learn_events(reader, miner), miner


def values_of(events: EventTable, row: int) -> list[tuple[float, int]]:
    own = slice(events.values.offsets[row], events.values.offsets[row + 1])
    return list(zip(events.values.number[own].tolist(), events.values.key[own].tolist(), strict=True))


def test_masks_with_blanks_and_wildcards_have_their_slots(tmp_path: Path) -> None:
    users = ["ann", "bob", "eve", "joe"]
    lines = [
        f"at 2024-05-0{i} 07:08:09 the user called {user} has loaded some {i}MB in this way"
        for i, user in enumerate(users)
    ]
    events, _ = parsed(tmp_path, lines)
    assert events.templates == ("at <TIME> the user called <*> has loaded some <NUM>MB in this way",)
    assert [[number for number, _ in values_of(events, row)][2] for row in range(4)] == [0, 1, 2, 3]
    keys = np.array([[key for _, key in values_of(events, row)] for row in range(4)])
    assert [int(np.int32(key).view(np.uint32)) for key in keys[:, 1].astype(np.int32)] == [hash_of(u) for u in users]
    assert len(set(keys[:, 0].tolist())) == 4


def test_a_wildcard_word_with_a_unit_is_a_plain_number(tmp_path: Path) -> None:
    lines = [
        f"the job named x took {amount} in all and ended well"
        for amount in ("5ms", "2s", "3min", "soon", "7", "1.2.3h")
    ]
    events, _ = parsed(tmp_path, lines)
    assert events.templates == ("the job named x took <*> in all and ended well",)
    assert [values_of(events, row)[0][0] for row in range(3)] == pytest.approx([0.005, 2, 180])
    assert np.isnan(values_of(events, 3)[0][0])
    assert values_of(events, 4)[0][0] == 7
    assert np.isnan(values_of(events, 5)[0][0])


def test_an_event_that_no_template_matches_has_its_masks_as_slots(tmp_path: Path) -> None:
    _, miner = parsed(tmp_path, ["a b 1", "a b 2"])
    events, _ = parsed(tmp_path, ["disk 7 full at 10.0.0.1:99", "a b 3"], miner)
    assert [number for number, _ in values_of(events, 0)] == [7, 99]
    assert [number for number, _ in values_of(events, 1)] == [3]
    assert values_of(events, 0)[1][1] == np.uint32(hash_of("10.0.0.1")).view(np.int32)


def test_no_more_than_the_first_values_are_kept(tmp_path: Path) -> None:
    events, _ = parsed(tmp_path, [" ".join(map(str, range(40))), "1 2", "1" * 400, "word"])
    assert [number for number, _ in values_of(events, 0)] == list(range(MAX_VALUES))
    assert [number for number, _ in values_of(events, 1)] == [1, 2]
    assert np.isnan(values_of(events, 2)[0][0])
    assert values_of(events, 3) == []


def test_a_word_of_more_masks_than_are_kept_is_its_own(tmp_path: Path) -> None:
    words = ["-".join(map(str, range(n))) for n in (12, 12, 11, 10)]
    lines = [f"{row} long messages end with so many {word}" for row, word in enumerate(words)]
    events, _ = parsed(tmp_path, lines)
    assert events.templates == ("<NUM> long messages end with so many <*>",)
    keys = [values_of(events, row)[1][1] for row in range(4)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_mask_that_delimiters_split_leaves_no_values_in_wrong_slots() -> None:
    miner = TemplateMiner(Masks((("MY_ID", "#[0-9]+"), ("NUM", "[0-9]+"))), extra_delimiters=["_"])
    lines = [f"#{i} has opened the file {name} for {i} s now" for i, name in enumerate(["x", "y", "z"])]
    texts, values = miner.mask(lines)
    miner.learn(texts)
    miner.freeze()
    events = np.array([miner.match(text) for text in texts], np.int32)
    assert "<*>" in miner.templates[events[0]]
    assert len(miner.slot_plan(texts, events).fill(np.arange(3), values).number) == 0


WORDS = st.sampled_from(
    ["open", "shut", "x", "7", "8", "v7", "v8", "10:20:30", "2024-05-06 07:08:09", "a=7,b=8", "<NUM>", "<*>"]
)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=6), min_size=2, max_size=12))
def test_equal_words_have_equal_values_and_others_have_not(
    tmp_path_factory: pytest.TempPathFactory, messages: list[list[str]]
) -> None:
    lines = ["the long message begins so " + " ".join(words) for words in messages]
    events, miner = parsed(tmp_path_factory.mktemp("values"), lines)
    masked = [miner.masks.mask(line) for line in lines]
    seen: dict[tuple[int, int], dict[str, int]] = {}
    for row, (text, values) in enumerate(masked):
        left = list(values)
        originals: list[str] = []
        event = int(events.event_id[row])
        for word, expected in zip(text.split(), events.templates[event].split(), strict=True):
            n_masks = len(miner.masks.written.findall(word))
            own, left = left[:n_masks], left[n_masks:]
            if expected == "<*>":
                filled = iter(own)
                originals.append(re.sub(miner.masks.written, lambda mask: next(filled), word))  # noqa: B023
            else:
                originals += own
        found = values_of(events, row)
        assert len(found) == min(len(originals), MAX_VALUES)
        for slot, (original, (_, key)) in enumerate(zip(originals, found, strict=False)):
            known = seen.setdefault((event, slot), {})
            assert known.setdefault(original, key) == key
            assert len(set(known.values())) == len(known)
