from __future__ import annotations

import numpy as np
import pytest

from ai_detect.reporting.novelty import KnownTemplates, one_word_apart

KNOWN = ("user <*> logged in from <IP>", "disk <*> is full", "", "read <NUM> bytes from <*>")


def test_the_nearest_template_shares_most_words() -> None:
    known = KnownTemplates(KNOWN)
    assert known.nearest("user <*> logged in from <IP>") == (0, 0.0)
    near, far = known.nearest("user <*> logged out from <IP>"), known.nearest("kernel panic")
    assert near is not None and far is not None
    assert (near.event, near.distance) == (0, pytest.approx(2 / 7))
    assert far.distance == 1
    assert KnownTemplates(()).nearest("anything") is None


def test_a_template_is_compared_with_the_others_only() -> None:
    known = KnownTemplates(("a b c d", "a b c e", "x y"))
    np.testing.assert_allclose(known.distances_to_others([0, 2]), [0.4, 1.0], rtol=1e-6)


def test_one_word_apart_is_the_same_but_for_one_word_in_its_place() -> None:
    new = ["user bob logged in from <IP>", "disk <*> was full", "disk is full", "panic", "read <NUM> bits from <NUM>"]
    assert one_word_apart([*KNOWN, "user amy logged in from <IP>"], new) == ["bob", "was"]
    assert one_word_apart([], new) == []
    assert one_word_apart(["start"], ["stop"]) == []
