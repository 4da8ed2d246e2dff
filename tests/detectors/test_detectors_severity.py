"""Which lines tell of a failure."""

import numpy as np
import pytest

from ai_detect.detectors.severity import failure_events, failure_templates
from ai_detect.tables import LEVELS


@pytest.mark.parametrize(
    "template",
    [
        "ERROR: relation <*> does not exist",
        "writeBlock <*> received exception java.io.IOException: Connection reset",
        "caught NullPointerException",
        "connection timed out after <NUM> ms",
        "authentication failure; user=<*>",
        "Failed password for <*> from <IP>",
        "data TLB error interrupt",
        "kernel panic - not syncing",
        "could not open file <PATH>",
    ],
)
def test_words_of_failure(template: str) -> None:
    assert failure_templates([template]).tolist() == [True]


@pytest.mark.parametrize(
    "template",
    ["Receiving block <*> src: <IP> dest: <IP>", "session opened for user <*>", "download complete", "<*>", ""],
)
def test_ordinary_words(template: str) -> None:
    assert failure_templates([template]).tolist() == [False]


def test_the_level_of_a_line_tells_as_well() -> None:
    levels = np.array([LEVELS.index(name) for name in ("info", "warning", "error", "")], np.int8)
    found = failure_events(["block served", "link lost"], np.array([0, 0, 0, 1], np.int32), levels)
    assert found.tolist() == [False, True, True, True]
