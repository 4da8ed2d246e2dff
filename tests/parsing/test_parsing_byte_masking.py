"""Compiled masking gives the texts and values of `Masks.mask`, for every text and for masks of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_detect.ingest.byte_dictionary import ByteDictionary
from ai_detect.ingest.byte_regex import UnknownPattern
from ai_detect.ingest.byte_shapes import NO_SHAPE
from ai_detect.ingest.byte_words import SLACK
from ai_detect.ingest.line_shapes import TextPatterns, empty_line_shapes
from ai_detect.ingest.message_block import MessageBlock
from ai_detect.parsing.byte_masking import ByteMasker
from ai_detect.parsing.masking import DEFAULT_MASKS, Masks
from ai_detect.parsing.values import MaskedValues, packed
from ai_detect.tables import MAX_VALUES

OWN = Masks((("ID", r"id=(?:\d+|none)"), ("WORD", r"[a-c]{2,}(?=-|$)"), ("N\u00e4", r"(?i:x)+\d{0,2}")))

#: What masks begin with, hold and end at, in pieces that fit together in many ways.
PIECES = st.sampled_from([
    "2024-05-06", "T07:08:09", ".123", "Z", "+01:00", "06/May/2024", ":07:08:09", "Mon, ", "Jan ", "Feb 28 ",
    "12:13:14", "12", "abcdef", "deadbeef", "0x1F", "a@b.c", "user.n+x@h-1.de", "http://x.y/z?a=1", "/a/b/c", "/",
    "C:\\x\\y", "1.2.3.4", "10.250.19.102", ":80", ":54106", "::1", "fe80::1:2", "1f:2e:3d:4c:5b:6a", "-", "_", ".",
    ",", "1e5", "1,234", "1,234,567.8", "0,123,456", "9999999999999999999", "12345678901234567890", "ms", "KB",
    "GB/s", "s", "A1b2C3d4E5f6G7h8I9j0kL", "12345678-1234-1234-1234-123456789abc", "x", "Z", "'", "(", ")", "=",
    "+", "5", "99999", ":", "<", "<NUM>", "<*>", "<SESSION>", "id=7", "id=none", "ab-", "ccc", "X9", "xx", "é",
    "\udc80", "\x00", "\t", "%", "blk_-16089996879", "#", "key=val", "123456789012345678.5", "1.5e-30", "00", "-0",
    "1a2b3c4d", "DEAD12AB", "deadBEE1", "1234567d", "1234567B", "12345e12", "12345e1d", "12345e1234", "1e345678", "9f",
    "0X1f2", "4322e581", "1e38", "1e39", "1e-46", "1e-90", "-7e99", "feed0123-", "1a" * 33, "a" * 65 + "1",
    "7h", "12-34-56-78-9a-bc", "12:34:56:78:9a:bc", "01/Jan/2024", "12/", "2024-",
    " ", " deadbee1", "=1a2b3c4d", "(cafe12345", "::f:", "::", "0:", "a:", "f", "11e1dc1a1", "1234e12d", "1234e567",
    "0xbee", "\t0a0a0a0a0a", " 1e1e1e1e1", "DEADBEE1",
])  # fmt: skip
TEXTS = st.lists(PIECES, max_size=9).map("".join) | st.text(st.characters(max_codepoint=127), max_size=40)


#: The same lengths with other digits, or other hexadecimal ones.
REDRAWN = [str.maketrans("0123456789", digits) for digits in ("1234567890", "9081726354", "0000000000", "0000000001")]
REDRAWN += [
    str.maketrans("0123456789abcdef", digits) for digits in ("a1b2c3d4e5f60789", "e07f1d2c3b4a5968", "1" * 15 + "d")
]
REDRAWN += [str.maketrans("0123456789ABCDEF", digits) for digits in ("A1B2C3D4E5F60789", "1e2e3e4e5e6e7e8e")]


def check(masks: Masks, texts: Sequence[str]) -> None:
    """Mask the texts at once, then others of their shapes."""
    dictionary = ByteDictionary()
    masker = ByteMasker(masks, dictionary)
    seen: list[str] = []
    for redrawn in ([text.translate(table) for text in texts] for table in ({}, *REDRAWN)):
        check_batch(masks, masker, dictionary, redrawn, seen)


def check_batch(
    masks: Masks, masker: ByteMasker, dictionary: ByteDictionary, texts: Sequence[str], seen: list[str]
) -> None:
    """`seen` are the masked texts so far."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    begins = ends - [len(text) for text in encoded]
    data = np.frombuffer(bytearray(b"".join(encoded) + bytes(SLACK)), np.uint8)
    n, column = len(texts), np.zeros(len(texts), np.int64)
    numbers, values = masker.mask(
        MessageBlock(
            column, column.astype(np.int32), column, column.astype(np.int8), column.astype(np.int32), data, begins,
            ends, data, np.full(n, NO_SHAPE, np.int32), empty_line_shapes((), TextPatterns()),
        )
    )  # fmt: skip
    expected = [masks.mask(text) for text in texts]
    strings = list(dictionary.strings())
    assert [strings[number] for number in numbers] == [masked for masked, _ in expected]
    seen += [masked for masked, _ in expected]
    assert strings == list(dict.fromkeys(seen))
    plain = MaskedValues.of([packed(originals[:MAX_VALUES]) for _, originals in expected])
    np.testing.assert_array_equal(values.counts, plain.counts)
    np.testing.assert_array_equal(values.number.view(np.int32), plain.number.view(np.int32))  # the sign of zero too
    np.testing.assert_array_equal(values.key, plain.key)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=12))
def test_our_masks(texts: list[str]) -> None:
    check(DEFAULT_MASKS, texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=12))
def test_masks_of_ones_own(texts: list[str]) -> None:
    check(OWN, texts)


def test_every_pair_of_pieces_next_to_each_other() -> None:
    pieces = [
        " ",
        "a",
        "dead",
        "12",
        "1234",
        "12345678",
        "1.2.3.4",
        ":",
        "-",
        "/",
        "_",
        ".",
        ",",
        "@",
        "%",
        "+",
        "\\",
        "=",
    ]
    texts = [f"{a}{b}{c}{d}" for a in pieces for b in pieces for c in pieces for d in ("", "7", "ab", " ")]
    check(DEFAULT_MASKS, texts)


def test_the_dictionary_grows_and_long_texts_are_left_to_python() -> None:
    texts = [
        f"word{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]} " * (i % 40 + 1) + f"x{i:b}y" for i in range(2000)
    ]
    check(DEFAULT_MASKS, [*texts, "1 " * 4096, "1 " * 5000, "a" * 8192, "/" * 8192, *texts])


@pytest.mark.parametrize(
    "masks",
    [
        Masks(()),
        Masks((("A", "a"),), in_turn=True),
        Masks((("A", "a*"),)),
        Masks((("A", r"(?<=bc)a"),)),
        Masks((("A", r"(a)\1"),)),
        Masks(tuple(("A", "a") for _ in range(64))),
    ],
)
def test_masks_that_only_python_can_apply_are_refused(masks: Masks) -> None:
    with pytest.raises(UnknownPattern):
        ByteMasker(masks, ByteDictionary())


def test_hexadecimal_words() -> None:
    """Words that are of one shape are masked as each is alone, whatever stands around them."""
    before = [
        "", "=", "(", ":", "0:", "a:", "::", "::f:", "f::a:", "x::f:", "1.2.3.4:", "12:", "12:34:", ",", "1,", ".",
        "1.", "-", "_", "a-", "/", "/a/", "a@", "http://", "+", "-1:", "#", "2024-05-06 ", "Jan ", "12:13:14 ",
        "12:13:14.", "deadbeef-", "1f:2e:3d:4c:5b:", "A-z_0123456789abcdefZ-",
    ]  # fmt: skip
    words = [
        "deadbee1", "1eadbee1", "eeeeeee1", "1234567d", "1e1e1e1e", "1234e123", "123e123d", "12345678", "deadbeef",
        "DEADBEE1", "dEADBEE1", "0xdeadb1", "0x123456", "0xfffffg", "0x12-456", "123456789012", "deadbee11111",
        "1111eeee1111",
    ]  # fmt: skip
    after = ["", " x", "-", ":", ".", ".5", "@x.y", "/b", "-1234-1234-1234-123456789abc", ",5", "g", "%"]
    texts = [f"{a}{word}{b}" for a in before for b in after for word in words]
    dictionary = ByteDictionary()
    masker, seen = ByteMasker(DEFAULT_MASKS, dictionary), list[str]()
    for _ in range(3):
        check_batch(DEFAULT_MASKS, masker, dictionary, texts, seen)
