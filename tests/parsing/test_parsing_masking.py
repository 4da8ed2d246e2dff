"""Masks find the variable parts and leave the words."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.parsing.masking import DEFAULT_MASKS, Masks

EXAMPLES = {
    "Received block blk_-1608999687919862906 of size 67108864 from /10.251.42.84": (
        "Received block blk_<NUM> of size <NUM> from /<IP>"
    ),
    "src: /10.0.0.1:54106 dest: /10.0.0.2:50010": "src: /<IP> dest: /<IP>",
    "took 12ms, then 3.5 s, 10MB at 2GHz": "took <NUM>ms, then <NUM> s, <NUM>MB at <NUM>GHz",
    "job_1445144423722_0020 on node7": "job_<NUM>_<NUM> on node7",
    "core.2275 at 0x0b85eee0": "core.<NUM> at <HEX>",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8 done": "commit <HEX> done",
    "instance 70c1714b-c11b-4c88-b300-239afe1f5ff8 up": "instance <UUID> up",
    "at 2024-05-06T07:08:09.123Z and 2024-05-06 07:08:09,123 until 2024-05-06": "at <TIME> and <TIME> until <TIME>",
    "at Fri Jun 17 07:07:00 2005": "at <TIME>",
    "[06/May/2024:07:08:09 +0000] GET": "[<TIME>] GET",
    "took 00:01:02.5 in all": "took <TIME> in all",
    "ether 00:1a:2B:3c:4d:5e up": "ether <MAC> up",
    "from fe80::1ff:fe23:4567:890a and ::1": "from <IP> and <IP>",
    "mail to jane.doe+x@example.co.uk now": "mail to <EMAIL> now",
    "see https://example.org/a?b=c#d (again)": "see <URL> (again)",
    "open /var/log/app-1.log: denied": "open <PATH>: denied",
    r"open C:\Users\x\a.txt failed": "open <PATH> failed",
    "token 8ReEDQpcTR2yhy8TsF4lQw ok": "token <ID> ok",
    "values -1 +2 1e-05 1,234.5": "values <NUM> <NUM> <NUM> <NUM>",
    "10-20": "<NUM>-<NUM>",
}


@pytest.mark.parametrize("text", EXAMPLES)
def test_variable_parts_are_masked(text: str) -> None:
    assert DEFAULT_MASKS.mask(text)[0] == EXAMPLES[text]


@pytest.mark.parametrize(
    "text",
    [
        "std::vector and abc::def stay",
        "read/write and and/or stay",
        "java.util.concurrent.LinkedBlockingQueue",
        "Oauth2ClientClientIdGetHandler handles",
        "sha1 ssh2 x86 utf8 node7",
        "deadbeefcafe without a digit is a word",
        "<SESSION> closed",
        "user@localhost",
    ],
)
def test_words_stay(text: str) -> None:
    assert DEFAULT_MASKS.mask(text) == (text, ())


def test_leftmost_pattern_wins_then_the_earlier_one() -> None:
    masks = Masks((("A", "[ab]b"), ("B", "a[a-z]*")))
    assert masks.mask("ab.aa.bb")[0] == "<A>.<B>.<A>"


def test_in_turn_means_what_drain3_does() -> None:
    masks = Masks((("NUM", r"\d+"), ("CMD", "N.M")), in_turn=True)
    assert masks.mask("a1")[0] == "a<<CMD>>"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("<*>\\ a1/.")))
def test_the_wildcard_never_occurs(text: str) -> None:
    assert "<*>" not in DEFAULT_MASKS.mask(text)[0]
    assert "<*>" not in Masks((("A", r"\\"), ("B", "a")), in_turn=True).mask(text)[0]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_can_be_masked(line: bytes) -> None:
    DEFAULT_MASKS.mask(line.decode("utf-8", "surrogateescape"))


@settings(deadline=None)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=0x250)))
def test_json_round_trip(text: str) -> None:
    again = Masks.from_json(json.loads(json.dumps(DEFAULT_MASKS.as_json())))
    assert again == DEFAULT_MASKS
    assert again.mask(text) == DEFAULT_MASKS.mask(text)


def test_long_texts_cost_no_more_a_character() -> None:
    for piece in ("a-", "aA1_", "1.", "/-", "a@a.", "f0:", "1,2x"):
        DEFAULT_MASKS.mask(piece * 100_000)  # would not end if any pattern looked ahead without a limit


@pytest.mark.parametrize(
    ("name", "pattern"), [("*", "a"), ("", "a"), ("a b", "a"), ("<A>", "a"), ("A", "("), ("A", "a{99999999999}")]
)
def test_unusable_masks_are_refused(name: str, pattern: str) -> None:
    with pytest.raises(ValueError, match="mask"):
        Masks(((name, pattern),))


def test_group_names_that_clash_are_refused() -> None:
    with pytest.raises(ValueError, match="joined"):
        Masks((("A", "(?P<x>a)"), ("B", "(?P<x>b)")))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"patterns": []},
        {"in_turn": 0, "patterns": []},
        {"in_turn": False, "patterns": {}},
        {"in_turn": False, "patterns": [["A"]]},
        {"in_turn": False, "patterns": [["A", 1]]},
        {"in_turn": False, "patterns": [["A", "("]]},
        {"in_turn": False, "patterns": [], "more": 1},
    ],
)
def test_from_json_is_strict(value: object) -> None:
    with pytest.raises(ValueError, match="mask"):
        Masks.from_json(value)
