"""Two published ideas that the product does without, as opponents: a next-event LSTM and count invariants.

They see event sequences alone and are fitted on the training part; their alarms follow the rule of their papers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ai_detect.evaluation.baselines import Baseline, count_vectors
from ai_detect.tables import Float64Array, Int64Array, SequenceTable

#: DeepLog (Du et al., 2017): events that are looked back at, width and layers of the LSTM, how many are expected.
WINDOW, WIDTH, N_LAYERS, TOP_G = 10, 64, 2, 9
N_EPOCHS, BATCH_SIZE, LEARNING_RATE = 10, 2048, 1e-3
#: Training ends here at the latest. The longer it lasts the worse it finds (it learns the anomalies of a dirty log as
#: well): of 100, 200 and 400 steps this is what served it best on HDFS, which flatters it with hindsight.
MAX_STEPS = 100
#: Share of the training sessions in which an invariant holds (Lou et al., 2010), and its largest coefficient.
SUPPORT, LARGEST_COEFFICIENT = 0.98, 3


# Next event


class NextEvent(nn.Module):
    """The event after a window: (n, WINDOW) tokens -> (n, n_classes) logits."""

    def __init__(self, n_tokens: int, n_classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_tokens, WIDTH, padding_idx=0)
        self.lstm = nn.LSTM(WIDTH, WIDTH, N_LAYERS, batch_first=True)
        self.out = nn.Linear(WIDTH, n_classes)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of all events and of the end of the session."""
        logits: torch.Tensor = self.out(self.lstm(self.embed(windows))[0][:, -1])
        return logits


def next_event_lstm(train: SequenceTable, test: SequenceTable, seed: int) -> Baseline:
    """DeepLog's idea. A session scores the worst rank that one of its events has among those expected there, ties
    broken by the mean rank; an alarm is a rank beyond the first TOP_G.

    A session is predicted from its first event to its end, which is an event too, so that sessions that break off are
    seen. An event that training does not hold ranks behind all others, and has no meaning as context.
    """
    known = np.unique(train.event_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NextEvent(len(known) + 2, len(known) + 1)
        _train(model, *event_windows(train, known), seed)
    windows, target = event_windows(test, known)
    rank = _ranks(model, windows, target)
    first = test.offsets[:-1] + np.arange(len(test))  # a session has a row more than events
    worst = np.maximum.reduceat(rank, first)
    mean = np.add.reduceat(rank, first) / (test.lengths + 1)
    return Baseline(worst + mean / (len(known) + 3), worst > TOP_G)


def event_windows(sequences: SequenceTable, known: np.ndarray) -> tuple[Int64Array, Int64Array]:
    """For each event and each end, the WINDOW tokens before it and its class (-1 for an unknown event).

    Tokens: 0 for an unknown event, then the events, then what stands before a session. Classes: the events, the end.
    """
    column = np.minimum(np.searchsorted(known, sequences.event_id), len(known) - 1)
    event = np.where(known[column] == sequences.event_id, column, -1)
    ends = sequences.offsets[1:]
    target = np.insert(event, ends, len(known)).astype(np.int64)
    n_rows = sequences.lengths + 1
    position = np.arange(len(target)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    back = np.arange(WINDOW, 0, -1)
    rows = np.maximum(np.arange(len(target))[:, None] - back, 0)
    return np.where(position[:, None] >= back, target[rows] + 1, len(known) + 1), target


def _train(model: NextEvent, windows: Int64Array, target: Int64Array, seed: int) -> None:
    """Epochs over all windows in random order; a window that repeats in a batch is computed once."""
    distinct, inverse = np.unique(windows, axis=0, return_inverse=True)
    tokens, of_row = torch.from_numpy(distinct), inverse.reshape(-1)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    rng, n_steps = np.random.default_rng(seed), 0
    for _ in range(N_EPOCHS):
        order = rng.permutation(len(target))
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            once, where = np.unique(of_row[batch], return_inverse=True)
            logits = model(tokens[torch.from_numpy(once)])[torch.from_numpy(where.reshape(-1))]
            loss = functional.cross_entropy(logits, torch.from_numpy(target[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            n_steps += 1
            if n_steps == MAX_STEPS:
                return


@torch.no_grad()
def _ranks(model: NextEvent, windows: Int64Array, target: Int64Array) -> Float64Array:
    """The place of each event among those expected, (n,) from 1."""
    distinct, inverse = np.unique(windows, axis=0, return_inverse=True)
    tokens = torch.from_numpy(distinct)
    logits = torch.cat([model(part) for part in tokens.split(4096)]).numpy()
    rank = np.empty(len(target))
    for start in range(0, len(target), 4096):
        rows = slice(start, start + 4096)
        expected = logits[inverse.reshape(-1)[rows]]
        own = expected[np.arange(len(expected)), np.maximum(target[rows], 0)]
        rank[rows] = 1 + (expected > own[:, None]).sum(axis=1)
    rank[target < 0] = logits.shape[1] + 1
    return rank


# Count invariants


def count_invariants(train: SequenceTable, test: SequenceTable) -> Baseline:
    """Invariants Mining's idea: what is abnormal breaks relations between the counts of events that hold in nearly all
    training sessions. A violation weighs the more the fewer training sessions have it; an alarm is any violation.
    """
    counts, times = np.unique(count_vectors(train, train), axis=0, return_counts=True)
    relations = find_invariants(counts, times)
    missed = (_off(counts, relations) * times[:, None]).sum(axis=0)
    weight = -np.log((missed + 1) / (len(train) + 2))
    vectors, inverse = np.unique(count_vectors(train, test), axis=0, return_inverse=True)
    violated = _off(vectors, relations)
    own = inverse.reshape(-1)
    return Baseline((violated @ weight)[own], violated.any(axis=1)[own])


def find_invariants(counts: Float64Array, times: Int64Array) -> Float64Array:
    """Relations a . counts = k of at most three events, (n_relations, n_events + 1): the coefficients and -k.

    `counts` are distinct count vectors, `times` how often each occurs. Looked for are counts that are constant,
    a x = b y, and x = y + z; where one holds, larger ones that contain it say nothing new.
    """
    n_sessions, n_events = times.sum(), counts.shape[1]
    needed = SUPPORT * n_sessions
    relations: list[dict[int, int]] = []
    varying: list[int] = []
    for event, column in enumerate(counts.T):
        values, place = np.unique(column, return_inverse=True)
        held = np.bincount(place.reshape(-1), weights=times)
        if held.max() >= needed:
            relations.append({event: 1, n_events: -int(values[held.argmax()])})
        else:
            varying.append(event)
    bound: set[int] = set()  # is a multiple of an earlier event
    for at, event in enumerate(varying):
        if event in bound:
            continue
        for other in varying[at + 1 :]:
            for a, b in _COEFFICIENTS:
                if times[a * counts[:, event] == b * counts[:, other]].sum() >= needed:
                    relations.append({event: a, other: -b})
                    bound.add(other)
                    break
    free = [event for event in varying if event not in bound]
    for at, event in enumerate(free):
        for other in free[at + 1 :]:
            total = counts[:, event] + counts[:, other]
            held = times @ (counts[:, free] == total[:, None])
            relations += [{free[i]: 1, event: -1, other: -1} for i in np.flatnonzero(held >= needed).tolist()]
    matrix = np.zeros((len(relations), n_events + 1))
    for row, relation in zip(matrix, relations, strict=True):
        row[list(relation)] = list(relation.values())
    return matrix


_COEFFICIENTS = [
    (a, b) for a in range(1, LARGEST_COEFFICIENT + 1) for b in range(1, LARGEST_COEFFICIENT + 1) if np.gcd(a, b) == 1
]


def _off(counts: Float64Array, relations: Float64Array) -> np.ndarray:
    """Which relations (columns) which count vectors (rows) violate."""
    return np.asarray(counts @ relations[:, :-1].T + relations[:, -1] != 0)
