"""Which messages tell of a failure by their own words: an operator reads them, so do we.

What a word means in a system is still for its training log to say: a failure that half of all sessions report weighs
nothing (see the view `severity`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ai_detect.tables import LEVELS, BoolArray, Int8Array, Int32Array

#: Words of failure in English logs, as whole words; camelCase parts count as words.
_FAILURE = re.compile(
    r"error|exception|fail|(?<![^\W_])(?:"  # these also within a word; a pattern with a prefix would be quadratic
    r"errno|fatal\w*|crit(?:ical)?|severe|emerg\w*|alert|warn(?:ing)?"
    r"|panic\w*|abort\w*|crash\w*|corrupt\w*|damag\w*|broken|bad|invalid|illegal|malformed|mismatch\w*|inconsisten\w*"
    r"|den(?:y|ied)|refus\w*|reject\w*|forbidden|unauthori[sz]ed|violat\w*"
    r"|time(?:d)?[ -]?out\w*|expired|stuck|hang|hung|deadlock\w*|unresponsive|not responding"
    r"|unable|cannot|can ?not|can't|couldn't|could not|won't|not found|no such|missing|undefined|unknown|unexpected\w*"
    r"|lost|loss|dead|die[ds]?|down|unreachable|unavailable|disconnect\w*|interrupt\w*|kill\w*"
    r"|overflow\w*|underrun|exceed\w*|exhaust\w*|out of|too many|leak\w*|throttl\w*"
    r"|conflict\w*|rollback|uncorrect\w+|unrecover\w+|retr(?:y|ies|ying)|segfault|traceback|core dump\w*"
    r")(?![^\W_])",
    re.IGNORECASE,
)
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WARNING = LEVELS.index("warning")


def failure_templates(templates: Sequence[str]) -> BoolArray:
    """Which templates hold a word of failure, (n_templates,) bool."""
    return np.array([_FAILURE.search(_CAMEL_CASE.sub(" ", text)) is not None for text in templates], np.bool_)


def failure_events(templates: Sequence[str], event_id: Int32Array, level: Int8Array) -> BoolArray:
    """Which events tell of a failure, by their template's words or by the level in their header, (n_events,) bool."""
    return np.asarray(failure_templates(templates)[event_id] | (level >= _WARNING), np.bool_)
