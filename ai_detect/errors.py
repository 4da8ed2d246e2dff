"""The errors that people see: each says what happened, where, and what to do next, in one line.

Anything that is not an `AiDetectError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class AiDetectError(Exception):
    """Base of all expected failures; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(AiDetectError):
    """A flag, a config file or a combination of settings that cannot be used, or a refused mismatch on resume."""

    exit_code = 2


class DataError(AiDetectError):
    """Input that cannot be read or holds nothing to work on."""

    exit_code = 4


class CheckpointError(AiDetectError):
    """A checkpoint or model that is missing, broken, foreign, or made for something else.

    What a foreign file says of itself cannot move the cursor of a terminal or fill it.
    """

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in message[:900]))


class TrainingError(AiDetectError):
    """Training cannot go on (a loss that is not finite, no checkpoint could be saved)."""


class NotFittedError(AiDetectError, ValueError, AttributeError):
    """Something was asked for a score before it was fitted (the bases are scikit-learn's own for this case)."""


class Interrupted(AiDetectError):
    """A signal asked the run to stop; its state was saved first where there was any."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
