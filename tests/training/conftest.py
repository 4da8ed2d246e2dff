"""Lets the tests of this room import `training_toy`, which also runs as a program of its own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Iterator[None]:
    """No test can see what a power failure would; waiting for the disk is most of the time of a small save."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
