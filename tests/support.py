"""What several rooms' tests need: a small log of our own making, and what a command answered."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ai_detect.sequences.augmentation import mix64

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("AI_DETECT_DATA", ROOT.parent / "shared" / "data"))


def shop_log(n_sessions: int, seed: int, faulty: tuple[int, ...] = ()) -> str:
    """Lines of a small shop: sessions of a few shapes, one after another; `faulty` ones hold an event that no
    other has.
    """
    lines = []
    for number in range(n_sessions):
        pick = mix64(seed, number)
        steps = ["user {u} logged in from 10.0.{a}.{b}", "page /cart opened in {ms} ms"]
        steps += ["item {i} added to cart"] * (1 + pick % 3)
        steps += [["payment of {p} EUR accepted", "order {o} created"], ["cart abandoned"]][pick % 5 == 0]
        steps += ["user {u} logged out"]
        if number in faulty:
            steps.insert(2, "disk failure on volume {a}: cannot write block {b}")
        for at, step in enumerate(steps):
            value = mix64(seed, number, at)
            words = {name: str(value >> shift & 0xFF) for name, shift in zip("uabipo", range(0, 48, 8), strict=True)}
            second = number * 7 + at
            stamp = f"2026-03-01 {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02},{value % 1000:03}"
            text = step.format(ms=value % 90, **words)
            lines.append(f"{stamp} INFO [shop] (request-{number:05}) {text}")
    return "\n".join(lines) + "\n"


SHOP_SESSION = r"\((request-\d+)\)"


@dataclass(frozen=True)
class Result:
    """What a command answered."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@dataclass(frozen=True)
class Shop:
    """A trained model of the small shop; read only."""

    folder: Path
    train: Path
    test: Path
    labels: Path
    checkpoints: Path
    output: Path

    @property
    def model(self) -> Path:
        """The finished model."""
        return self.checkpoints / "model"
