"""Lets the tests of this room import `reporting_shop`, and trains once for all of them."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from reporting_shop import N_KNOWN, normal_session, sequence_table

from ai_detect.reporting.learning import fit_context
from ai_detect.reporting.reference import ExplainContext
from ai_detect.tables import SequenceTable


@pytest.fixture(scope="session")
def training() -> SequenceTable:
    random_source = random.Random(1)
    return sequence_table([normal_session(random_source) for _ in range(800)])


@pytest.fixture(scope="session")
def context(training: SequenceTable) -> ExplainContext:
    return fit_context(training, [f"training-{index}" for index in range(len(training))], N_KNOWN)
