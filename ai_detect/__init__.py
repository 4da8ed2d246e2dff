"""ai_detect: find the few sessions of a log that matter, each with the line and the reason, without labels."""

__version__ = "0.1.0"
