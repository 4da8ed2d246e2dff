"""The encoder of a training run: untrained, as a checkpoint has it, or grown for templates that came after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ai_detect.config import RunSettings
from ai_detect.detectors.suspicion import suspected, trusted
from ai_detect.encoder.vocabulary import word_matrix
from ai_detect.errors import CheckpointError
from ai_detect.model_file import in_one_line, settings_of_checkpoint
from ai_detect.parsing.template_miner import TemplateMiner
from ai_detect.sequences.epoch_samples import EpochSamples, epoch_samples
from ai_detect.tables import SequenceTable

if TYPE_CHECKING:  # what trains imports torch, which takes longer than scoring a log
    from torch import Tensor

    from ai_detect.encoder.model import SessionEncoder
    from ai_detect.process_group import ProcessGroup
    from ai_detect.training.checkpoint import LoadedCheckpoint
    from ai_detect.training.encoder_task import EncoderTask


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


def samples_of(train: SequenceTable) -> EpochSamples:
    """What an epoch looks at: sessions that look abnormal themselves are not learned from, where they are many."""
    # judged by themselves: sessions that only validate have no say in what is learned from
    return epoch_samples(train, trusted(suspected(train)))


def training_task(
    model: SessionEncoder,
    train: SequenceTable,
    samples: EpochSamples,
    validation: SequenceTable | None,
    settings: RunSettings,
    group: ProcessGroup,
) -> EncoderTask:
    """What the trainer works on."""
    from ai_detect.training.encoder_task import EncoderTask

    return EncoderTask(model, train, validation, settings, group, samples)
