"""Lets the tests of this room import `hostile`, and gives them folders to spoil."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import Shop

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def checkpoint(shop: Shop) -> Path:
    """A sound checkpoint; read only."""
    return max((shop.checkpoints).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
