"""Compiled matching over bytes finds exactly what `re` finds, or says that it cannot."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.ingest.byte_machine import GAVE_UP, NO_MATCH, match_at, search
from ai_detect.ingest.byte_regex import BytePattern, UnknownPattern, byte_pattern, joined
from ai_detect.ingest.layouts import PATTERNS
from ai_detect.parsing.masking import DEFAULT_MASKS

HEADERS = [
    "2024-05-06 07:08:09,123 INFO [main] a.b.C: hi",
    '<34>1 2003-10-11T22:14:15.003Z host app - ID47 [x y="z"] said',
    '10.0.0.1 - - [06/May/2024:07:08:09 +0000] "GET / HTTP/1.1" 200 12 "-" "x"',
    "2024-05-06 07:08:09.123 UTC [12] 6b0.1a u@d LOG:  statement: x",
    "I0506 07:08:09.123456  12 f.cc:12] x",
    "05-06 07:08:09.123  12  13 I Tag: x",
    "[Sun Dec 04 04:47:44 2005] [error] [client 1.2.3.4] x",
    "081109 203518 143 INFO dfs.DataNode$X: Receiving block",
    "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: failure",
    "- 1117838570 2005.06.03 R0 2005-06-03-15.42.50.675872 R0 RAS KERNEL INFO fine",
    "17/06/09 20:10:40 INFO executor.C: x",
]
PIECES = st.sampled_from([*HEADERS, " ", ":", "-", "]", "[", "12", "INFO", "a", "\t", "\x1c", "<", ">", ".", ","])


def check(pattern: re.Pattern[str], compiled: BytePattern, text: str) -> None:
    data = np.frombuffer(text.encode(), np.uint8)
    expected = pattern.fullmatch(text)
    end = match_at(*compiled.program, 0, data, 0, len(data), 0, True)
    assert end == (NO_MATCH if expected is None else len(text))
    if expected is not None:
        spans = [tuple(span) for span in compiled.program.captures.reshape(-1, 2)[1:].tolist()]
        assert spans == [expected.span(group) for group in range(1, pattern.groups + 1)]
    found = pattern.search(text)
    begin, end = search(*compiled.program, compiled.first, compiled.is_anchored, data, 0, len(data))
    assert (begin, end) == ((NO_MATCH, 0) if found is None else found.span())
    for need in compiled.needs if found else ():
        assert need & set(data.tolist())


@pytest.mark.parametrize("name", PATTERNS)
@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, min_size=1, max_size=4))
def test_headers(name: str, pieces: list[str]) -> None:
    pattern = re.compile(PATTERNS[name], re.DOTALL)
    compiled = byte_pattern(pattern)
    for text in ("".join(pieces), *pieces):
        check(pattern, compiled, text)


ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\w", r"\S", "1", "^", "$", r"\b", r"\Z"])
REPEATS = st.sampled_from(["", "?", "*", "+", "{1,2}", "{2}", "??", "*?", "+?", "{0,3}?"])
LOOKS = st.sampled_from(["(?=", "(?!", "(?<=", "(?<!"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        inner.map(lambda one: f"({one})"),
        st.tuples(inner, REPEATS).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.tuples(ATOMS.filter(lambda atom: atom not in ("^", "$", r"\b", r"\Z")), REPEATS).map("".join),
        st.tuples(LOOKS, st.sampled_from(["a", "b", "[a1]", "ab"])).map(lambda two: f"{two[0]}{two[1]})"),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, st.sampled_from(["", "(?i)", "(?s)", "(?a)"]), st.lists(st.text("aab1A c\n_", max_size=9)))
def test_random_patterns(expression: str, flags: str, texts: list[str]) -> None:
    pattern = re.compile(flags + expression)
    try:
        compiled = byte_pattern(pattern)
    except UnknownPattern:
        return
    for text in texts:
        check(pattern, compiled, text)


@pytest.mark.parametrize(
    "pattern",
    [r"(?m)^a", r"(a)?(?(1)b|c)", r"(?<=ab)c", r"(?:a*)*", r"(a)*b", r"\Bx", r"(?:\d{1,9}x){1,2999}"],
)
def test_what_only_re_can_match_is_refused(pattern: str) -> None:
    with pytest.raises(UnknownPattern):
        byte_pattern(re.compile(pattern))


def test_a_pattern_that_tries_too_much_gives_up() -> None:
    data = np.frombuffer(b"a" * 40, np.uint8)
    assert match_at(*byte_pattern(re.compile("(?:a|aa)+$b")).program, 0, data, 0, 40, 0, False) == GAVE_UP


def test_joined_patterns_match_as_each_does_alone() -> None:
    patterns = [re.compile(pattern) for _, pattern in DEFAULT_MASKS.patterns]
    program, entries = joined([byte_pattern(pattern, groups=False) for pattern in patterns])
    text = "at 2024-05-06T07:08:09.5Z 06/May/2024 Mon, Jan  1 10:20:30 fe80::1 0xff 1.2.3.4:5 a@b.de http://x/y C:\\z"
    data = np.frombuffer(text.encode(), np.uint8)
    n_matches = 0
    for pattern, entry in zip(patterns, entries, strict=True):
        for start in range(len(text)):
            expected = pattern.match(text, start)
            end = match_at(*program, entry, data, 0, len(data), start, False)
            assert end == (NO_MATCH if expected is None else expected.end())
            n_matches += expected is not None
    assert n_matches > 30
