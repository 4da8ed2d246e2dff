"""Imported by the server of `forked`: imports, and has numba compile, what a run needs first."""

import importlib

import numpy as np

from ai_detect.detectors.detectors import DETECTORS
from ai_detect.detectors.reference import Reference

for _name in ("train", "resume", "detect", "checkpoints"):
    importlib.import_module(f"ai_detect.cli.{_name}_command")
for _name in ("ai_detect.cli.results", "ai_detect.pipeline", "matplotlib.backends.backend_svg"):
    importlib.import_module(_name)
_rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
for _make in DETECTORS.values():
    _detector = _make(0)
    _detector.fit(Reference(_rows, np.ones(len(_rows))))
    _detector.decision_function(_rows)
