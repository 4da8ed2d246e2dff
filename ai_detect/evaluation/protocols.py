"""Which sessions train and which test: the splits that quality is judged by.

Training on the sessions of a split is *contaminated*; `clean` leaves the anomalies out, which only a benchmark can do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ai_detect.tables import Int8Array, Int64Array


@dataclass(frozen=True)
class Split:
    """Indices of sessions, ascending int64, without an overlap."""

    train: Int64Array
    test: Int64Array


def random_halves(n_sessions: int, seed: int) -> Split:
    """Half of the sessions at random for training, the other half for testing."""
    order = np.random.default_rng(seed).permutation(n_sessions)
    return Split(np.sort(order[: n_sessions // 2]), np.sort(order[n_sessions // 2 :]))


def chronological(n_sessions: int, train_share: float) -> Split:
    """The first sessions for training, the rest for testing; sessions must be in the order of their first line."""
    cut = int(n_sessions * train_share)
    return Split(np.arange(cut), np.arange(cut, n_sessions))


def few_normal(labels: Int8Array, share: float, seed: int) -> Split:
    """A share of the normal sessions for training, at least one; all others for testing."""
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(labels == 0))
    train = np.sort(normal[: max(1, round(share * len(normal)))])
    return Split(train, np.setdiff1d(np.arange(len(labels)), train))


def clean(split: Split, labels: Int8Array) -> Split:
    """The same without the anomalies of the training part."""
    return replace(split, train=split.train[labels[split.train] == 0])


def contaminated(split: Split, labels: Int8Array, share: float, seed: int) -> Split:
    """The same with anomalies of the training part left out at random until they are this share of it.

    Raises ValueError where the training part holds fewer.
    """
    anomalous = labels[split.train] == 1
    wanted = round(share * int((~anomalous).sum()) / (1 - share))
    if wanted > anomalous.sum():
        raise ValueError(f"the training part holds {anomalous.sum()} anomalies, a share of {share} needs {wanted}")
    kept = np.random.default_rng(seed).permutation(split.train[anomalous])[:wanted]
    return replace(split, train=np.sort(np.concatenate([split.train[~anomalous], kept])))
