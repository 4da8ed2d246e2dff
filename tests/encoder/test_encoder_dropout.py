"""Dropout masks belong to samples: the share is right, nothing repeats, and neither batch nor process matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder.encoder_made import N_EVENTS, SETTINGS, encoder, routines

from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.dropout import dropout_masks
from ai_detect.encoder.losses import training_loss

SEEDS = np.arange(64, dtype=np.uint64)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(share: float) -> None:
    masks = dropout_masks(SEEDS, 32, 64, share)
    assert masks.shape == (64, 32, 64) and masks.dtype == np.bool_
    assert (~masks).mean() == pytest.approx(share, abs=0.01)
    assert (~masks).mean((1, 2)) == pytest.approx(share, abs=0.05)  # of each sample too


def test_a_mask_is_its_samples_own() -> None:
    masks = dropout_masks(SEEDS, 16, 8, 0.5)
    assert len(np.unique(masks.reshape(64, -1), axis=0)) == 64
    order = np.random.default_rng(0).permutation(64)
    assert np.array_equal(dropout_masks(SEEDS[order], 16, 8, 0.5), masks[order])
    assert np.array_equal(dropout_masks(SEEDS[7:8], 16, 8, 0.5), masks[7:8])


def test_masks_are_the_same_for_all_time() -> None:
    """A change of the noise would make resumed runs differ from straight ones without a word."""
    masks = dropout_masks(np.array([1, 2], np.uint64), 3, 8, 0.5)
    assert np.packbits(masks).tolist() == FIXED


FIXED = [254, 182, 81, 82, 207, 42]


def test_views_of_a_session_meet_other_masks_in_each_epoch() -> None:
    table = routines(8)
    made = [make_batch(table, np.arange(8), 3, epoch, n_events=N_EVENTS, max_events=24) for epoch in (0, 1)]
    seeds = np.concatenate([batch.seeds for batch in made])
    assert len(np.unique(seeds)) == len(seeds) == 2 * 3 * 8


def test_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    table, model = routines(40), encoder()
    batch = make_batch(table, np.arange(40), 0, 0, n_events=N_EVENTS, max_events=SETTINGS.max_events)
    first = [float(training_loss(model.train(), batch, contrastive=False)[0].detach()) for _ in range(2)]
    exact = float(training_loss(model.eval(), batch, contrastive=False)[0].detach())
    assert first[0] == first[1] != exact
    assert first[0] == pytest.approx(exact, rel=0.1)
    tokens = torch.from_numpy(batch.groups[0].tokens)
    kept = torch.ones(tokens.numel(), model.dim, dtype=torch.bool)
    plain = model([tokens], model.token_table())[0]
    scaled = model([tokens], model.token_table(), None, kept)[0]
    assert not torch.equal(plain, scaled)  # what is kept is scaled up for what is not
