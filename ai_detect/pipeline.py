"""The one place that knows the order of the rooms.

learn_log, match_log       files -> events -> sessions -> sequences    (ingest, parsing, sequences; cached on disk)
training_task              sequences -> what the trainer works on      (encoder, training: see run_encoder)
LogAnomalyPipeline.fit     trained encoder + training sessions -> detectors, calibration, what normal looks like
LogAnomalyPipeline.score   a parsed log, block by block -> ScoreTable
LogAnomalyPipeline.explain scored sessions -> which line, and why
LogAnomalyPipeline.save / load    the finished model: a folder that can be checked and never runs code (see model_file)
"""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai_detect import artifacts, scratch
from ai_detect.config import AlarmSettings, InputSettings, RunSettings, build
from ai_detect.detectors.components import METHODS
from ai_detect.detectors.ensemble import DetectorBank
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.detectors.threshold import Rule, daily_sessions, surprisal_of
from ai_detect.detectors.value_slots import NO_SLOT
from ai_detect.detectors.values import ValueModel
from ai_detect.encoder import embedding
from ai_detect.encoder.embedding import SessionEncoding
from ai_detect.encoder.frozen import FrozenEncoder
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.errors import CheckpointError, ConfigError, TrainingError
from ai_detect.ingest.fingerprint import fingerprint_sources
from ai_detect.log_evidence import event_vectors, evidence_blocks, learn_values, whole_evidence
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
from ai_detect.reporting.explain import Explainer, Explanation
from ai_detect.reporting.findings import ModelIdentity
from ai_detect.reporting.learning import fit_context
from ai_detect.reporting.reasons import ValueSurprise
from ai_detect.reporting.reference import ExplainContext
from ai_detect.reporting.spans import session_spans
from ai_detect.run_encoder import encoder_of_checkpoint
from ai_detect.sequences.parsed_log import ParsedLog, Progress, SomeSessions, match_log
from ai_detect.sequences.session_blocks import session_blocks
from ai_detect.tables import MAX_VALUES, Float32Array, Float64Array, Int32Array, Int64Array, ScoreTable
from ai_detect.training.data_check import check_same_data

if TYPE_CHECKING:  # what trains imports torch, which takes longer than scoring a log
    from ai_detect.encoder.model import SessionEncoder
    from ai_detect.training.checkpoint import LoadedCheckpoint


#: Sessions that are explained at once; only memory and speed depend on it.
_EXPLAINED = 64


@dataclass(frozen=True)
class Scored:
    """A parsed log and the scores of its sessions."""

    log: ParsedLog
    scores: ScoreTable
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
        values, odd = learn_values(log, trusted(suspects))
        check()
        evidence = whole_evidence(frozen, log, settings, odd, progress)
        check()
        bank = DetectorBank.fit(
            evidence,
            event_vectors(frozen, log, settings),
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
        raw = self.raw_scores(log, [method or self.bank.default_method], progress)
        return self.judge(log, raw, method=method, threshold=threshold, alarm=alarm)

    def judge(
        self,
        log: ParsedLog,
        raw: Iterable[Mapping[str, Float64Array]],
        *,
        method: str | None = None,
        threshold: float | None = None,
        alarm: AlarmSettings | None = None,
    ) -> Scored:
        """`score` of a log of which the `raw_scores` are known, in blocks of any size."""
        name = method or self.bank.default_method
        limit = self.bank.threshold(name, alarm)
        scores = self.bank.judged(raw, len(log.sessions), [name], alarm=alarm)[name]
        rule, asked = limit.rule, limit.asked
        if threshold is not None:
            scores = dataclasses.replace(scores, threshold=threshold, is_anomaly=scores.score >= threshold)
            rule, asked = "threshold", threshold
        return Scored(log, scores, name, rule, asked)

    def score_by_method(
        self,
        log: ParsedLog,
        methods: Sequence[str] = METHODS,
        alarm: AlarmSettings | None = None,
        progress: Progress | None = None,
    ) -> dict[str, ScoreTable]:
        """The scores of several methods; what they share is computed once. Raises as `score`."""
        return self.bank.judged(self.raw_scores(log, methods, progress), len(log.sessions), methods, alarm=alarm)

    def raw_scores(
        self, log: ParsedLog, methods: Sequence[str], progress: Progress | None = None
    ) -> Iterator[dict[str, Float64Array]]:
        """What the components of these methods say of the sessions, block by block, before any calibration: the long
        part of scoring, which looks at each session alone.
        """
        vectors = event_vectors(self.encoder, log, self.settings)

        def odd_values(sessions: slice, block: SomeSessions) -> Float32Array:
            return self.values.surprise(block.sequences, block.values).surprise

        evidence = evidence_blocks(self.encoder, log, self.settings, odd_values, progress)
        return self.bank.raw_in_blocks(evidence, vectors, methods)

    def vectors(self, log: ParsedLog, sessions: Int64Array) -> Float32Array:
        """What the encoder makes of these sessions, (n, 3 * dim) float32."""
        words = word_matrix(log.events.templates, self.settings.n_word_buckets)
        return embedding.encode_sessions(self.encoder, log.sequences.take(sessions), words).vectors

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
        self,
        scored: Scored,
        sessions: Int64Array,
        *,
        check: Callable[[], None] = lambda: None,
        expecting: bool = True,
    ) -> Iterator[tuple[int, Explanation]]:
        """Which lines of these sessions are not as training knows them, and why; only with `expecting`, what the model
        would have expected in their place. `check` is called now and then.

        What encoder and values say of a session is made again for those that are explained, rather than kept of all.
        """

        def expected(ids: Int32Array, position: int) -> list[tuple[int, float]]:
            return embedding.expected_events(self.encoder, ids, position, 3)

        log = scored.log
        encoding = SessionEncoding(self.encoder, word_matrix(log.events.templates, self.settings.n_word_buckets))
        explainer = Explainer(self.normal, expected if expecting else None, log.events.templates)
        gathered = log.gathered(sessions)
        places = np.searchsorted(gathered.sessions, sessions)
        for part in session_blocks(scratch.offsets_of(gathered.sequences.lengths[places]), _EXPLAINED):
            sequences, in_events = gathered.take(places[part])
            odd = self.values.surprise(sequences, in_events)
            values = _oddest_values(odd.surprise, odd.slot)
            surprise = encoding.encode(sequences).surprise
            yield from zip(sessions[part].tolist(), explainer.explain(sequences, surprise, values, check), strict=True)

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


def _oddest_values(surprise: Float32Array, slot: Int32Array) -> ValueSurprise:
    """The oddest value of each event, be it a number or a word; the time before an event has reasons of its own."""
    odd = np.where((slot >= 0) & (slot < MAX_VALUES), surprise, 0)
    oddest = np.arange(len(odd)), odd.argmax(axis=1)
    return ValueSurprise(odd[oddest], np.where(odd[oddest] > 0, slot[oddest], NO_SLOT).astype(np.int32))


def sessions_per_day(log: ParsedLog) -> float | None:
    """How many sessions a day a log has, None where it has no times."""
    return daily_sessions(session_spans(log.events, log.sessions).start_time)


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
