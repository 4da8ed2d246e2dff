"""Views of a session, the detectors that score them, and how scores are calibrated and fused."""
