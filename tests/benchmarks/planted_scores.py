"""What the components of the ensemble say of planted faults: an encoder trained on a log, held-out training scores, and
scores of sessions with a fault in them beside others of the same log.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from detection_ablation import restricted
from planted_faults import FAULTS, Foreign, Incident, Normal, Pick, Session, dirtied, incidents, plant
from planted_logs import Log

from ai_detect import log_evidence, run_encoder
from ai_detect.config import RunSettings
from ai_detect.detectors.comparison import Comparison
from ai_detect.detectors.components import components_of
from ai_detect.detectors.held_out import held_out_scores, settled
from ai_detect.detectors.severity import failure_templates
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.encoder.model import SessionEncoder
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.process_group import ALONE
from ai_detect.sequences.parsed_log import ParsedLog
from ai_detect.tables import NO_TIME, BoolArray, EventTable, Float64Array, SequenceTable, SessionTable, ValueTable
from ai_detect.training.checkpoint import load_checkpoint
from ai_detect.training.checkpoint_store import ranked, scan_checkpoints
from ai_detect.training.epochs import plan_fresh
from ai_detect.training.parts import load_weights
from ai_detect.training.schedule import seed_step
from ai_detect.training.state import new_state
from ai_detect.training.trainer import train

#: Sessions with a fault of each kind, half of them mild.
N_PLANTED = 24
#: Sessions with each incident.
_N_INCIDENTS = 20
#: Messages of other logs that serve as foreign ones, of each sort: at most, and of each log.
_N_FOREIGN, _N_FOREIGN_EACH = 40, 4


@dataclass(frozen=True)
class Scores:
    """Raw scores by component; `kind` (n_test,) is that of each test session's fault, "" where there is none."""

    held_out: dict[str, Float64Array]  # of the training sessions, each held out once
    settled: dict[str, Float64Array]  # the same, but of the final detectors where that is fair
    suspects: BoolArray  # of the training sessions
    normal: BoolArray
    test: dict[str, Float64Array]
    kind: np.ndarray

    def save(self, path: Path) -> None:
        """Store them where `load` finds them."""
        parts = {"held_out": self.held_out, "settled": self.settled, "test": self.test}
        arrays = {"suspects": self.suspects, "normal": self.normal, "kind": self.kind}
        arrays |= {f"{part}/{name}": scores for part, found in parts.items() for name, scores in found.items()}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Scores:
        """The scores that were saved."""
        with np.load(path) as stored:
            arrays = dict(stored)

        def under(part: str) -> dict[str, Float64Array]:
            return {name.removeprefix(part): array for name, array in arrays.items() if name.startswith(part)}

        columns = arrays["suspects"], arrays["normal"], under("test/"), arrays["kind"]
        return cls(under("held_out/"), under("settled/"), *columns)


def foreign_messages(own: str, logs: dict[str, Log], seed: int) -> Foreign:
    """Messages of the other logs, as many of each."""
    pick = random.Random(f"foreign {own} {seed}")
    failures: list[str] = []
    others: list[str] = []
    for name, log in logs.items():
        if name.split()[0] == own.split()[0]:
            continue
        texts = sorted({message.template for session in log.train for message in session})
        tells = failure_templates(texts).tolist()
        for found, wanted in ((failures, True), (others, False)):
            these = [text for text, tell in zip(texts, tells, strict=True) if tell is wanted]
            found += pick.sample(these, min(len(these), _N_FOREIGN_EACH))
    pick.shuffle(failures)
    pick.shuffle(others)
    return Foreign(failures[:_N_FOREIGN], others[:_N_FOREIGN])


def scores_of(log: Log, foreign: Foreign, dirt: float, seed: int) -> Scores:
    """Train on the log, `dirt` of whose sessions get a fault first, and score what is planted in the rest of it."""
    normal = Normal(log.train, log.window)
    happens = incidents(normal, foreign, f"{seed}")
    training = dirtied(log.train, normal, foreign, happens, dirt, seed)
    test, kinds = _planted(log, normal, foreign, happens, seed)
    known = _templates(training)
    every = _templates([*training, *test])
    own, theirs = (_parsed(sessions, every, len(known)) for sessions in (training, test))
    settings = RunSettings(seed=seed, device="cpu", num_epochs=10)
    encoder = _trained(own.sequences, known, settings)
    suspects = suspected(own.sequences)
    values, odd = log_evidence.learn_values(own, trusted(suspects))
    learned = log_evidence.whole_evidence(encoder, own, settings, odd)
    odd = values.surprise(theirs.sequences, theirs.values).surprise
    judged = log_evidence.whole_evidence(encoder, theirs, settings, odd)
    vectors = log_evidence.event_vectors(encoder, own, settings)
    components = components_of("ensemble")
    with restricted(components):
        numbers, fold, held_out = held_out_scores(learned, vectors, suspects, seed, lambda: None)
        fitted = Comparison.fit(learned, vectors, seed, suspects)
        fair = settled(held_out, fitted, learned.take(numbers), vectors, fold)
        found = fitted.raw_scores(judged, vectors, [component.name for component in components])
    return Scores(held_out, fair, suspects[numbers], trusted(suspects)[numbers], found, np.array(kinds))


def _planted(
    log: Log, normal: Normal, foreign: Foreign, happens: Sequence[Incident], seed: int
) -> tuple[list[Session], list[str]]:
    """Held-out sessions as they are, then some of them with a fault; the kind of each."""
    # hosts that look abnormal themselves would be found whatever is planted, and be false alarms where nothing is
    everything = [*log.train, *log.test]
    odd = suspected(_parsed(everything, _templates(everything), 0).sequences)[len(log.train) :]
    hosts = [(at, session) for at, session in enumerate(log.test) if not odd[at] and len(session) > 1]
    test, kinds = [session for _, session in hosts], [""] * len(hosts)
    faults: list[tuple[str, Callable[[Session, Pick], Session | None], int]]
    faults = [(kind, partial(plant, kind), N_PLANTED) for kind in FAULTS]
    faults += [(f"incident {at} {incident.kind}", incident, _N_INCIDENTS) for at, incident in enumerate(happens)]
    for kind, fault, wanted in faults:
        pick, n = random.Random(f"{kind} {seed}"), 0
        for at, session in pick.sample(hosts, len(hosts)):
            following = log.test[at + 1] if log.window and at + 1 < len(log.test) else []
            damaged = fault(session, Pick(normal, foreign, pick, n % 2 == 1, following))
            if damaged is not None:
                test.append(damaged)
                kinds.append(kind)
                n += 1
            if n == wanted:
                break
    return test, kinds


def _templates(sessions: Sequence[Session]) -> list[str]:
    return list(dict.fromkeys(message.template for session in sessions for message in session))


def _parsed(sessions: Sequence[Session], templates: Sequence[str], n_known: int) -> ParsedLog:
    """The sessions as parsing would give them, one after the other; gaps stand for times."""
    number = {template: at for at, template in enumerate(templates)}
    messages = [message for session in sessions for message in session]
    n, offsets = len(messages), np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    ids = np.array([number[message.template] for message in messages], np.int32)
    gaps = np.array([message.gap for message in messages], np.float32)
    gaps[offsets[:-1]] = np.nan
    each = [value for message in messages for value in message.values]
    values = ValueTable(
        np.cumsum([0, *(len(message.values) for message in messages)]).astype(np.int64),
        np.array([value for value, _ in each], np.float32),
        np.array([key for _, key in each], np.int64).astype(np.int32),
    )
    keys = [str(at) for at in range(len(sessions))]
    events = EventTable(
        offset=np.zeros(n, np.int64),
        line=np.ones(n, np.int32),
        timestamp=np.full(n, NO_TIME),
        event_id=ids,
        session_id=np.repeat(np.arange(len(sessions), dtype=np.int32), np.diff(offsets)),
        level=np.array([message.level for message in messages], np.int8),
        templates=tuple(templates),
        n_known=n_known,
        session_keys=keys,
        sources=(),
        values=values,
    )
    return ParsedLog((), (), events, SessionTable(keys, offsets, np.arange(n)), SequenceTable(offsets, ids, gaps))


def _trained(sequences: SequenceTable, known: Sequence[str], settings: RunSettings) -> FrozenEncoder:
    """The encoder as train.py would have it: the weights of lowest loss on the last sessions."""
    n = len(sequences)
    head = np.arange(n - round(settings.eval_ratio * n))
    learned, validation = sequences.take(head), sequences.take(np.arange(len(head), n))
    seed_step(settings.seed, 0)
    model = SessionEncoder(settings, len(known), word_matrix(known, settings.n_word_buckets))
    plan = plan_fresh(settings.num_epochs)
    samples = run_encoder.samples_of(learned)
    state = new_state(settings, plan, len(samples), eval_id="e", provenance={})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = run_encoder.training_task(model, learned, samples, validation, settings, ALONE)
        train(task, state, settings, checkpoint_dir=folder, config={}, templates={})
        best = load_checkpoint(ranked(scan_checkpoints(folder)[0], "e")[0])
        load_weights(model, best.model_state, folder)
    return model.eval().frozen()
