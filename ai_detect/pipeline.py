"""The one place that knows the order of the rooms.

learn_log, match_log       files -> events -> sessions -> sequences    (ingest, parsing, sequences; cached on disk)
training_task              sequences -> what the trainer works on      (encoder, training)
LogAnomalyPipeline.fit     trained encoder + training sessions -> detectors, calibration, what normal looks like
LogAnomalyPipeline.score   a parsed log -> ScoreTable
LogAnomalyPipeline.explain scored sessions -> which line, and why
LogAnomalyPipeline.save / load    the finished model: a folder that can be checked and never runs code (see model_file)
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai_detect import artifacts
from ai_detect.config import AlarmSettings, InputSettings, RunSettings, build
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.severity import failure_events
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.detectors.threshold import Rule, daily_sessions, surprisal_of
from ai_detect.detectors.value_slots import NO_SLOT
from ai_detect.detectors.values import ValueModel
from ai_detect.detectors.views import SessionEvidence
from ai_detect.encoder import embedding
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.errors import CheckpointError, ConfigError, TrainingError
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.model_file import (
    MODEL_CARD,
    in_one_line,
    model_card,
    read_model,
    settings_of_checkpoint,
    training_suspects,
    write_model_json,
)
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.reporting.explain import Explanation, explain_sessions
from ai_detect.reporting.findings import ModelIdentity, session_spans
from ai_detect.reporting.learning import fit_context
from ai_detect.reporting.reasons import ValueSurprise
from ai_detect.reporting.reference import ExplainContext
from ai_detect.sequences.parsed_log import ParsedLog, Progress, Silent, match_log
from ai_detect.tables import MAX_VALUES, BoolArray, Float32Array, Int32Array, Int64Array, ScoreTable, SequenceTable
from ai_detect.training.data_check import check_same_data

if TYPE_CHECKING:  # what trains imports torch, which takes longer than scoring a log
    from torch import Tensor

    from ai_detect.encoder.model import SessionEncoder
    from ai_detect.process_group import ProcessGroup
    from ai_detect.training.checkpoint import LoadedCheckpoint
    from ai_detect.training.encoder_task import EncoderTask


@dataclass(frozen=True)
class Scored:
    """A parsed log with what the encoder made of it and the scores of its sessions."""

    log: ParsedLog
    evidence: SessionEvidence
    scores: ScoreTable
    odd_slot: Int32Array  # (n_events, 2) which values of each event are the oddest, as in `ValueSurprise`
    method: str
    rule: Rule  # where the threshold comes from, and
    asked: float | None  # the number that the rule was given


class LogAnomalyPipeline:
    """A finished model: everything between a log and its findings.

    `card` says where it comes from: run_id, step, epoch, training data, versions.
    """

    def __init__(
        self,
        settings: RunSettings,
        miner: TemplateMiner,
        encoder: FrozenEncoder,
        bank: DetectorBank,
        normal: ExplainContext,
        values: ValueModel,
        card: Mapping[str, Any],
    ) -> None:
        self.settings = settings
        self.miner = miner
        self.encoder = encoder
        self.bank = bank
        self.normal = normal
        self.values = values
        self.card = dict(card)

    @classmethod
    def fit(
        cls,
        settings: RunSettings,
        miner: TemplateMiner,
        encoder: SessionEncoder,
        log: ParsedLog,
        card: Mapping[str, Any],
        *,
        progress: Progress | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> LogAnomalyPipeline:
        """Fit detectors, calibration and the picture of normal on a training log; deterministic.

        `check` is called between the parts and may raise to stop.
        """
        frozen = encoder.frozen()
        suspects = suspected(log.sequences)
        values, odd = _learn_values(log, trusted(suspects))
        check()
        evidence = _evidence(frozen, log, settings, odd, progress)
        check()
        bank = DetectorBank.fit(
            evidence,
            _event_vectors(frozen, log, settings),
            settings,
            settings.seed,
            suspects=suspects,
            sessions_per_day=sessions_per_day(log),
            check=check,
        )
        check()
        normal = fit_context(
            log.sequences,
            log.sessions.keys,
            log.events.n_known,
            templates=log.events.templates,
            surprise=evidence.surprise,
            normal=~bank.suspicious,
        )
        card = {**card, "training_suspects": training_suspects(log.sessions.keys, suspects, bank.suspicion)}
        return cls(settings, miner, frozen, bank, normal, values, card)

    def parse(self, spec: str, reading: InputSettings | None = None, *, progress: Progress | None = None) -> ParsedLog:
        """Parse a log with this model's templates and, unless `reading` says otherwise, its header layout and
        session key.
        """
        return match_log(spec, reading or self.settings, self.miner, progress=progress)

    def score(
        self,
        log: ParsedLog,
        *,
        method: str | None = None,
        threshold: float | None = None,
        alarm: AlarmSettings | None = None,
        progress: Progress | None = None,
    ) -> Scored:
        """Score the sessions of a log; a session's score does not depend on the others.

        `threshold` (on the scale of the score) or what `alarm` asks for take the place of the model's own. Raises
        ConfigError where this model cannot tell what was asked for, or does not know the method.
        """
        limit = self.bank.threshold(method, alarm)
        odd = self.values.surprise(log.sequences, log.values)
        evidence = _evidence(self.encoder, log, self.settings, odd.surprise, progress)
        vectors = _event_vectors(self.encoder, log, self.settings)
        scores = self.bank.scores(evidence, vectors, method=method, alarm=alarm)
        rule, asked = limit.rule, limit.asked
        if threshold is not None:
            scores = dataclasses.replace(scores, threshold=threshold, is_anomaly=scores.score >= threshold)
            rule, asked = "threshold", threshold
        return Scored(log, evidence, scores, odd.slot, method or self.bank.default_method, rule, asked)

    def score_by_method(self, scored: Scored, alarm: AlarmSettings | None = None) -> dict[str, ScoreTable]:
        """The scores of every method for sessions whose evidence is there already; `alarm` as in `score`."""
        vectors = _event_vectors(self.encoder, scored.log, self.settings)
        return self.bank.scores_by_method(scored.evidence, vectors, alarm=alarm)

    def detection(self, scored: Scored) -> dict[str, Any]:
        """How the threshold came about, for reports: what was asked for (null: nothing), the false-alarm rate that this
        is by the calibration, and the smallest rate that so many calibration sessions show without a fitted tail.
        """
        n_calibrated = self.bank.n_calibrated
        return {
            "method": scored.method,
            "fusion": self.settings.fusion_method,
            "rule": scored.rule,
            "asked": scored.asked,
            "false_alarm_rate": float(np.exp(-surprisal_of(scored.scores.threshold))),
            "n_calibration_sessions": n_calibrated,
            "smallest_supported_rate": 1 / (n_calibrated + 1),
            "training_sessions_per_day": self.bank.sessions_per_day,
            "suspected_contamination": self.bank.suspected_share,
            "training_suspects": self.card["training_suspects"],
            "weights": dict(self.bank.methods[scored.method].fusion.weights),
        }

    def explain(
        self, scored: Scored, sessions: Int64Array, *, check: Callable[[], None] = lambda: None
    ) -> dict[int, Explanation]:
        """Which lines of these sessions are not as training knows them, and why; `check` is called now and then."""

        def expected(ids: Int32Array, position: int) -> list[tuple[int, float]]:
            return embedding.expected_events(self.encoder, ids, position, 3)

        log, evidence = scored.log, scored.evidence
        # the time before an event has reasons of its own
        odd = np.where((scored.odd_slot >= 0) & (scored.odd_slot < MAX_VALUES), evidence.odd, 0)
        oddest = np.arange(len(odd)), odd.argmax(axis=1)
        values = ValueSurprise(
            odd[oddest], np.where(odd[oddest] > 0, scored.odd_slot[oddest], NO_SLOT).astype(np.int32)
        )
        return explain_sessions(
            self.normal,
            log.sequences,
            sessions,
            evidence.surprise,
            expected,
            log.events.templates,
            values,
            check=check,
        )

    @property
    def identity(self) -> ModelIdentity:
        """What a finding says about the model that made it."""
        return ModelIdentity(self.card["run_id"], self.card["step"], self.card["hash"])

    def save(self, folder: Path) -> None:
        """Write the model as a whole or not at all; an older model in the folder is replaced.

        It is read back first: raises TrainingError where it would not load, as after a training that has diverged.
        """
        detectors, detector_arrays = self.bank.state()
        normal, normal_arrays = self.normal.state()
        with artifacts.atomic_directory(folder) as temporary:
            artifacts.write_json(temporary / "templates.json", self.miner.to_json())
            artifacts.write_json(temporary / "detectors.json", detectors)
            artifacts.write_arrays(temporary / "detectors.safetensors", detector_arrays)
            artifacts.write_json(temporary / "normal.json", normal)
            artifacts.write_arrays(temporary / "normal.safetensors", normal_arrays)
            artifacts.write_arrays(temporary / "values.safetensors", self.values.state())
            artifacts.write_arrays(temporary / "model.safetensors", self.encoder.weights)
            self.card = write_model_json(temporary, self.card, self.settings)
            try:
                LogAnomalyPipeline.load(temporary)
            except CheckpointError as error:
                raise TrainingError(
                    f"the model would not load again ({error}); if training has diverged, resume from an earlier "
                    "--checkpoint_path with a lower --learning_rate"
                ) from error

    @classmethod
    def load(cls, folder: Path) -> LogAnomalyPipeline:
        """Read a finished model; raises CheckpointError where a part is missing, changed, or made by a newer
        version.
        """
        model, contents = read_model(folder)
        part = MODEL_CARD
        try:
            settings = build(RunSettings, model.settings, "settings")
            part = "templates.json"
            miner = TemplateMiner.from_json(artifacts.parse_json(contents[part]))
            n_templates = len(miner.templates)
            part = "model.safetensors"
            words = word_matrix(miner.templates, settings.n_word_buckets)
            encoder = FrozenEncoder.from_state(settings, words, artifacts.parse_arrays(contents[part]))
            part = "detectors.safetensors"
            arrays = artifacts.parse_arrays(contents[part])
            part = "detectors.json"
            bank = DetectorBank.from_state(artifacts.parse_json(contents[part]), arrays)
            fitted = (bank.widths, bank.default_method, bank.fusion_method)
            if fitted != ((settings.dim, 3 * settings.dim), settings.detection_method, settings.fusion_method):
                raise ValueError("the detectors were fitted with other settings")
            part = "normal.safetensors"
            arrays = artifacts.parse_arrays(contents[part])
            part = "normal.json"
            normal = ExplainContext.from_state(artifacts.parse_json(contents[part]), arrays)
            if normal.n_known != n_templates:
                raise ValueError("the picture of normal was made with other templates")
            part = "values.safetensors"
            values = ValueModel.from_state(artifacts.parse_arrays(contents[part]))
            if values.n_events != n_templates:
                raise ValueError("the values were learned with other templates")
        except (ValueError, KeyError, ConfigError) as error:
            raise CheckpointError(
                f"{folder / part}: not a model that this version can read ({in_one_line(error)}); train again"
            ) from error
        return cls(settings, miner, encoder, bank, normal, values, model.card.model_dump())


def _learn_values(log: ParsedLog, normal: BoolArray) -> tuple[ValueModel, Float32Array]:
    """What values are usual in the `normal` sessions; how odd those of each event are by the other sessions of these,
    (n_events, 2).
    """
    all_values = log.values
    of_normal = np.repeat(normal, log.sequences.lengths)
    values, own = ValueModel.fit(
        log.sequences.take(np.flatnonzero(normal)), all_values.take(np.flatnonzero(of_normal)), log.events.n_known
    )
    odd = values.surprise(log.sequences, all_values).surprise.copy()
    odd[of_normal] = own.surprise
    return values, odd


def _evidence(
    encoder: FrozenEncoder, log: ParsedLog, settings: RunSettings, odd: Float32Array, progress: Progress | None
) -> SessionEvidence:
    words = word_matrix(log.events.templates, settings.n_word_buckets)
    with (progress or Silent()).stage("encoding", len(log.sessions), "sessions") as advance:
        vectors, surprise = embedding.encode_sessions(encoder, log.sequences, words, on_progress=advance)
    _check_finite(vectors, surprise)
    failure = failure_events(log.events.templates, log.sequences.event_id, log.events.level[log.sessions.rows])
    return SessionEvidence(log.sequences, vectors, surprise, failure, odd)


def _event_vectors(encoder: FrozenEncoder, log: ParsedLog, settings: RunSettings) -> Float32Array:
    """What the words of each event mean to the encoder, (n_templates, dim) float32; unseen events included."""
    vectors = embedding.event_vectors(encoder, word_matrix(log.events.templates, settings.n_word_buckets))
    _check_finite(vectors)
    return vectors


def _check_finite(*arrays: Float32Array) -> None:
    """Raise CheckpointError where finite weights gave numbers that are not."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError("the encoder's weights are so large that its output is not finite; train again")


def sessions_per_day(log: ParsedLog) -> float | None:
    """How many sessions a day a log has, None where it has no times."""
    return daily_sessions(session_spans(log.events, log.sessions).start_time)


def untrained_encoder(settings: RunSettings, miner: TemplateMiner) -> SessionEncoder:
    """An encoder for these templates; its initial weights are a function of the seed."""
    from ai_detect.encoder.model import SessionEncoder
    from ai_detect.training.schedule import seed_step

    seed_step(settings.seed, 0)
    return SessionEncoder(settings, len(miner.templates), word_matrix(miner.templates, settings.n_word_buckets))


def grown_encoder(loaded: LoadedCheckpoint, settings: RunSettings, miner: TemplateMiner) -> SessionEncoder:
    """The encoder of a checkpoint for a miner that has learned on: what is new begins as events unseen so far."""
    encoder = untrained_encoder(settings, miner)
    encoder.take_over(encoder_of_checkpoint(loaded)[1])
    return encoder


def encoder_of_checkpoint(loaded: LoadedCheckpoint) -> tuple[TemplateMiner, SessionEncoder]:
    """The templates and the encoder of a checkpoint; raises CheckpointError naming what does not fit."""
    path = loaded.checkpoint.path
    settings = settings_of_checkpoint(loaded)
    try:
        miner = TemplateMiner.from_json(loaded.templates)
        encoder = _trained_encoder(settings, miner, loaded.model_state, path / "model.safetensors")
    except ValueError as error:
        raise CheckpointError(f"{path / 'templates.json'}: {in_one_line(error)}") from error
    return miner, encoder


def _trained_encoder(
    settings: RunSettings, miner: TemplateMiner, weights: Mapping[str, Tensor], origin: Path
) -> SessionEncoder:
    """An encoder with these weights; settings that ask for more than there are must not make room for them first.

    Raises CheckpointError where they do not fit, ValueError where the templates are not frozen.
    """
    from ai_detect.training.parts import load_weights

    dim, n_templates = settings.dim, len(miner.templates)
    least = dim * (settings.n_word_buckets + n_templates + settings.max_events) + 8 * settings.n_layers * dim**2
    found = sum(tensor.numel() for tensor in weights.values())
    if found < least:
        raise CheckpointError(
            f"{origin} holds {found:,} weights, its settings and {n_templates} templates ask for {least:,} and more"
        )
    encoder = untrained_encoder(settings, miner)
    load_weights(encoder, weights, origin)
    return encoder


def training_task(
    model: SessionEncoder,
    train: SequenceTable,
    validation: SequenceTable | None,
    settings: RunSettings,
    group: ProcessGroup,
) -> EncoderTask:
    """What the trainer works on: sessions that look abnormal themselves are not learned from, where they are many."""
    from ai_detect.training.encoder_task import EncoderTask

    # judged by themselves: sessions that only validate have no say in what is learned from
    return EncoderTask(model, train, validation, settings, group, trusted=trusted(suspected(train)))


def fit_checkpoint(
    loaded: LoadedCheckpoint, train_file: str | None, progress: Progress | None = None
) -> LogAnomalyPipeline:
    """The model of a checkpoint: detectors fitted on the log it was trained on, which must still be there."""
    settings = settings_of_checkpoint(loaded)
    miner, encoder = encoder_of_checkpoint(loaded)
    state, provenance = loaded.trainer_state, loaded.trainer_state.provenance
    path = loaded.checkpoint.path
    spec = train_file or provenance["train_file"]
    if train_file is None and (spec == "-" or not list(glob.glob(spec) + glob.glob(f"{spec}.*"))):
        raise CheckpointError(f"{path}: its training log ({spec}) is not there; give it with --train_file")
    cache = path.parent / "cache"
    log = match_log(spec, settings, miner, cache if cache.is_dir() else None, progress)
    if not log.fingerprints:
        log = dataclasses.replace(log, fingerprints=fingerprint_sources(log.sources))
    check_same_data(provenance["train_data"], log.fingerprints, log.sources, log.sources[0].path)
    card = model_card(state, loaded)
    return LogAnomalyPipeline.fit(settings, miner, encoder, log, card, progress=progress)
