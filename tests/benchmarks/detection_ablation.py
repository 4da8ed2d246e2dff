"""What each part is worth: the process that trains with a part changed, and scores by every part alone and left out.

    python tests/benchmarks/detection_ablation.py no_negatives scores.npz --log_file test.log --train_file train.log ...

Started by `detection.py --ablation` for each variant; other flags are those of train.py, which runs in this process,
with one function replaced where no flag does it. No label is known here: what is written are the sessions of the log
and, for each row of the table, their scores and alarms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
from detection_tables import OURS

from ai_detect import log_evidence, run_encoder
from ai_detect import pipeline as product
from ai_detect.cli import training_run
from ai_detect.cli.main import main as ai_detect
from ai_detect.config import DetectionSettings
from ai_detect.detectors import comparison, ensemble, held_out, views
from ai_detect.detectors.components import Component, components_of
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.views import SessionEvidence
from ai_detect.encoder import vocabulary
from ai_detect.encoder.batches import EncodedBatch, TokenGroup, make_batch
from ai_detect.encoder.model import SessionEncoder
from ai_detect.evaluation.baselines import Baseline
from ai_detect.model_file import settings_of_checkpoint
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.tables import BoolArray, Float32Array, Float64Array, Int64Array, ScoreTable
from ai_detect.training import encoder_task
from ai_detect.training.checkpoint import LoadedCheckpoint

#: What the encoder makes of a session.
ENCODER_VIEWS = ("embedding", "surprise")


# The encoder


def without_negatives(batch: EncodedBatch) -> EncodedBatch:
    """The batch without the damaged copies, all else as it was."""
    n_pieces = 2 * batch.n
    kept = [TokenGroup(g.tokens[g.pieces < n_pieces], g.pieces[g.pieces < n_pieces]) for g in batch.groups]
    groups = tuple(group for group in kept if len(group.pieces))
    return EncodedBatch(
        groups, batch.n, 0, batch.unseen, batch.content[: batch.n], batch.seeds[:n_pieces], batch.copies
    )


def no_words(template: str, n_buckets: int) -> list[int]:
    """Templates without words: their part of an event's vector is 0, and all unseen events look the same."""
    return []


def initial_encoder(loaded: LoadedCheckpoint) -> tuple[TemplateMiner, SessionEncoder]:
    """What training began with, in place of what it came to."""
    miner, _ = run_encoder.encoder_of_checkpoint(loaded)
    return miner, run_encoder.untrained_encoder(settings_of_checkpoint(loaded), miner)


@dataclass(frozen=True)
class Variant:
    """A way to train: flags of train.py, and a name of a module that stands for something else meanwhile."""

    flags: tuple[str, ...] = ()
    module: object = None
    name: str = ""
    replacement: Callable[..., object] | None = None


VARIANTS = {
    "trained": Variant(),
    "untrained": Variant(("--total_steps", "1"), training_run, "encoder_of_checkpoint", initial_encoder),
    "no_contrastive": Variant(("--not_use_contrastive",)),
    "no_augmentation": Variant(("--not_use_augmentation",)),
    "no_negatives": Variant(
        (),
        encoder_task,
        "make_batch",
        lambda *given, **named: without_negatives(make_batch(*given, **named)),
    ),
    "no_words": Variant((), vocabulary, "template_words", no_words),
}


# Components of one model


class KnownScores:
    """In the place of a Comparison: what one that was fitted says of the sessions to score."""

    def __init__(self, suspected: BoolArray, sessions: SessionEvidence, scores: Mapping[str, Float64Array]) -> None:
        self.seed = 0
        self.suspected = suspected
        self._sessions = sessions
        self._scores = scores

    def raw_scores(
        self, evidence: SessionEvidence, event_vectors: Float32Array, names: Collection[str]
    ) -> dict[str, Float64Array]:
        """What is known; 0 for other sessions, which only say how suspicious training sessions are."""
        known = evidence is self._sessions
        return {name: self._scores[name] if known else np.zeros(len(evidence)) for name in names}

    def keep_checks(self, *given: object) -> None:
        """Nothing is fitted that could be checked."""


@dataclass(frozen=True)
class FittedBank:
    """A DetectorBank, what it was fitted on, what its components said of held-out training sessions, and what is to be
    scored.
    """

    bank: DetectorBank
    settings: DetectionSettings
    seed: int
    train: SessionEvidence
    train_vectors: Float32Array
    judged: Int64Array
    fold: Int64Array  # (n_judged,)
    held_out: Mapping[str, Float64Array]  # by component, (n_judged,)
    settled: Mapping[str, Float64Array]  # the same, but of the final detectors where that is fair
    test: SessionEvidence
    test_vectors: Float32Array

    def rows(self) -> dict[str, Baseline]:
        """Every method, the ensemble as `OURS`, and each component of the ensemble alone and left out.

        For these, all that DetectorBank.fit does with held-out scores is done again: weights, calibration, threshold.
        Which training sessions are trusted is as the whole model sees it.
        """
        tables = self.bank.scores_by_method(self.test, self.test_vectors)
        rows = {OURS if name == "ensemble" else name: _alarms(table) for name, table in tables.items()}
        scores = {name: raw for table in tables.values() for name, raw in table.raw.items()}
        known = KnownScores(self.bank.suspected, self.test, scores)
        listened = components_of("ensemble")
        with ExitStack() as stack:
            for name, value in (
                ("held_out_scores", lambda *given: (self.judged, self.fold, self.held_out)),
                ("settled", lambda *given: self.settled),
                ("Comparison", Mock(fit=lambda *given: known)),
            ):
                stack.enter_context(patch.object(ensemble, name, value))
            for part in listened:
                rows[f"alone {part.name}"] = self._refitted([part])
                rows[f"without {part.name}"] = self._refitted([other for other in listened if other is not part])
        return rows

    def without(self, left_out: Collection[str]) -> Baseline:
        """The ensemble fitted again from the start without these views, as components and in the profile."""
        components = [component for component in components_of("ensemble") if component.view not in left_out]
        return self._refitted(components, [name for name in views._NUMBERS if name not in left_out])

    def _refitted(self, components: Sequence[Component], numbers: Sequence[str] = views._NUMBERS) -> Baseline:
        with restricted(components, numbers):
            bank = DetectorBank.fit(
                self.train,
                self.train_vectors,
                self.settings,
                self.seed,
                suspects=self.bank.suspected,
                sessions_per_day=self.bank.sessions_per_day,
            )
            return _alarms(bank.scores(self.test, self.test_vectors))


def _alarms(table: ScoreTable) -> Baseline:
    return Baseline(-np.log(np.maximum(table.p_value, 1e-300)), table.is_anomaly)


@dataclass
class Recorder:
    """What the DetectorBank that was fitted last has seen and computed on its way."""

    parts: dict[str, Any] = field(default_factory=dict)

    def fitted(
        self, bank: DetectorBank, settings: DetectionSettings, test: SessionEvidence, test_vectors: Float32Array
    ) -> FittedBank:
        """With that bank, or the same one loaded, and the sessions that it is to score."""
        return FittedBank(bank=bank, settings=settings, test=test, test_vectors=test_vectors, **self.parts)


@contextmanager
def recorded() -> Iterator[Recorder]:
    """Notes what the held-out scores of the last DetectorBank are made of."""
    recorder, held_out_scores, settle = Recorder(), ensemble.held_out_scores, ensemble.settled

    def record(
        evidence: SessionEvidence, event_vectors: Float32Array, suspects: BoolArray, seed: int, check: Any
    ) -> tuple[Int64Array, Int64Array, dict[str, Float64Array]]:
        judged, fold, held_out = held_out_scores(evidence, event_vectors, suspects, seed, check)
        recorder.parts = {"train": evidence, "train_vectors": event_vectors, "seed": seed}
        recorder.parts |= {"judged": judged, "fold": fold, "held_out": held_out}
        return judged, fold, held_out

    def record_settled(*given: Any) -> dict[str, Float64Array]:
        recorder.parts["settled"] = settle(*given)
        return recorder.parts["settled"]

    with patch.object(ensemble, "held_out_scores", record), patch.object(ensemble, "settled", record_settled):
        yield recorder


@contextmanager
def restricted(components: Sequence[Component], numbers: Sequence[str] = views._NUMBERS) -> Iterator[None]:
    """A DetectorBank fitted meanwhile holds these components as its ensemble and nothing else; the profile holds
    these `numbers`.
    """
    with ExitStack() as stack:
        for module, name, value in (
            (held_out, "COMPONENTS", tuple(components)),
            (ensemble, "METHODS", ("ensemble",)),
            (ensemble, "components_of", lambda method: list(components)),
            (comparison, "_COMPONENTS", {component.name: component for component in components}),
            (comparison, "_VIEWS", sorted({component.view for component in components})),
            (views, "_NUMBERS", tuple(numbers)),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield


def left_out_views() -> list[str]:
    """The views that the ensemble can do without: those of its components and the numbers in its profile."""
    return list(dict.fromkeys([*(component.view for component in components_of("ensemble")), *views._NUMBERS]))


def score_variant(name: str, log_file: str, flags: Sequence[str], checkpoint_dir: Path) -> dict[str, np.ndarray]:
    """Train and score: `sessions`, and by row of the table `<row>/scores` and `<row>/alarms`."""
    variant = VARIANTS[name]
    with recorded() as recorder, ExitStack() as stack:
        if variant.replacement is not None:
            stack.enter_context(patch.object(variant.module, variant.name, variant.replacement))
        code = ai_detect(["train", *flags, *variant.flags, "--checkpoint_dir", str(checkpoint_dir), "--quiet"])
        if code:
            raise RuntimeError(f"train: exit code {code}")
        model = product.LogAnomalyPipeline.load(checkpoint_dir / "model")
        scored = model.score(model.parse(log_file))
        log = scored.log
        odd = model.values.surprise(log.sequences, log.values).surprise
        evidence = log_evidence.whole_evidence(model.encoder, log, model.settings, odd)
        vectors = log_evidence.event_vectors(model.encoder, log, model.settings)
    fitted = recorder.fitted(model.bank, model.settings, evidence, vectors)
    rows = fitted.rows()
    refit: dict[str, tuple[str, ...]] = {"no_encoder": ENCODER_VIEWS} if name == "untrained" else {}
    if name == "trained":
        refit = {f"no {view}": (view,) for view in left_out_views()}
    rows |= {row: fitted.without(left_out) for row, left_out in refit.items()}
    arrays = {"sessions": np.array(scored.log.sessions.keys)}
    for row, found in rows.items():
        arrays |= {f"{row}/scores": found.scores, f"{row}/alarms": found.is_anomaly}
    return arrays


def main() -> None:
    """The command in the text above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=list(VARIANTS))
    parser.add_argument("output", type=Path, help="where the scores go")
    parser.add_argument("--log_file", required=True, help="log to score")
    parser.add_argument("--checkpoint_dir", type=Path, required=True)
    arguments, flags = parser.parse_known_args()
    np.savez(arguments.output, **score_variant(arguments.variant, arguments.log_file, flags, arguments.checkpoint_dir))


if __name__ == "__main__":
    main()
