"""Losses agree with naive loops in float64; training moves what it should and is repeatable."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from encoder.encoder_made import N_EVENTS, SETTINGS, WORDS, encoder, routines, table_of, train

from ai_detect.encoder import batches
from ai_detect.encoder.batches import make_batch
from ai_detect.encoder.losses import next_event_loss, nt_xent, training_loss


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


@pytest.mark.parametrize("n_negatives", [0, 4, 6])
def test_nt_xent_is_the_naive_loop(n_negatives: int) -> None:
    generator = torch.Generator().manual_seed(n_negatives)
    anchor, positive = torch.randn(2, 6, 5, generator=generator)
    negatives = torch.randn(n_negatives, 5, generator=generator)
    same = torch.rand(6, 6 + n_negatives, generator=generator) < 0.3
    same[torch.arange(6), torch.arange(6)] = False
    total = 0.0
    others = [*positive, *negatives]
    for i in range(6):
        own = math.exp(cosine(anchor[i], positive[i]) / 0.2)
        rest = [math.exp(cosine(anchor[i], other) / 0.2) for j, other in enumerate(others) if j != i and not same[i, j]]
        total -= math.log(own / (own + sum(rest)))
    loss = nt_xent(anchor, torch.cat([positive, negatives]), torch.arange(6), (~same).float(), torch.ones(6), 0.2)
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_next_event_loss_of_rows_that_stand_for_several() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    targets, number = torch.tensor([0, 2, -100, 1]), torch.tensor([0, 0, 0, 1, 2, 3])
    several = next_event_loss(logits[number], targets[number], torch.ones(6))
    once = next_event_loss(logits, targets, torch.tensor([3.0, 1, 1, 1]))
    assert float(once) == pytest.approx(float(several), rel=1e-6)


@pytest.mark.parametrize("contrastive", [True, False])
def test_a_sample_that_stands_for_copies_counts_as_they_would(contrastive: bool) -> None:
    """The copies would have had the sample's own views and damages, one of which leaves the multiset as it is."""
    table, model = table_of([[0, 1, 2, 3, 4], [0, 2, 2, 3], [5, 6, 7, 8, 9, 10], [7, 8]]), encoder().eval()
    number, options = np.array([0, 0, 0, 1, 2, 3, 3]), {"n_events": N_EVENTS, "max_events": 24}
    once = make_batch(table, np.arange(4), 1, 0, **options, copies=np.array([3, 1, 1, 2]))
    several = make_batch(table, number, 1, 0, **options)
    assert (once.content[:4] == once.content[4:]).tolist() == [True, False, False, False]
    losses = [training_loss(model, batch, contrastive=contrastive) for batch in (once, several)]
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-5)


@pytest.mark.parametrize("contrastive", [True, False])
def test_padding_of_a_large_batch_changes_no_loss(monkeypatch: pytest.MonkeyPatch, contrastive: bool) -> None:
    table, model = routines(12), encoder()
    switches = {"n_events": N_EVENTS, "max_events": 24, "contrastive": contrastive}
    plain = make_batch(table, np.arange(12), 3, 2, **switches)
    monkeypatch.setattr(batches, "_MANY_TOKENS", 64)
    padded = make_batch(table, np.arange(12), 3, 2, **switches)
    assert sum(group.tokens.size for group in plain.groups) % 1024 > 0
    assert sum(group.tokens.size for group in padded.groups) % 1024 == 0
    losses = [training_loss(model, batch, contrastive=contrastive)[1] for batch in (plain, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_next_event_loss_is_the_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator)
    targets = torch.tensor([0, 3, -100, 2, 1, -100, 3])
    terms = [
        math.log(sum(math.exp(float(x)) for x in row)) - float(row[target])
        for row, target in zip(logits, targets.tolist(), strict=True)
        if target >= 0
    ]
    assert float(next_event_loss(logits, targets, torch.ones(7))) == pytest.approx(sum(terms), rel=1e-6)
    assert float(next_event_loss(logits, torch.full((7,), -100), torch.ones(7))) == 0


def test_the_loss_of_samples_is_a_pure_function() -> None:
    table, model = routines(40), encoder().eval()
    batch = [make_batch(table, np.arange(40), 3, 2, n_events=N_EVENTS, max_events=24) for _ in range(2)]
    first, second = (training_loss(model, b, contrastive=True) for b in batch)
    assert float(first[0].detach()) == float(second[0].detach())
    assert first[1] == second[1]
    assert set(first[1]) == {"next_event", "contrastive"}
    assert sum(first[1].values()) == pytest.approx(float(first[0].detach()), rel=1e-6)


def test_training_is_repeatable_and_every_weight_moves() -> None:
    runs = []
    before = {name: weight.clone() for name, weight in encoder().state_dict().items()}
    for _ in range(2):
        model = encoder()
        train(model, routines(70), 1)
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in before)
    assert not [name for name, weight in runs[0].items() if torch.equal(weight, before[name])]
    assert "words" not in before  # rebuilt from the templates


def test_the_loss_falls() -> None:
    losses = train(encoder(), routines(64), 16)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("contrastive", [True, False])
@pytest.mark.parametrize("augmentation", [True, False])
@pytest.mark.parametrize("sessions", [[[0]], [[]], [[1, 2, 3], [1, 2, 3]], [[0, 1] * 100, [5], []]])
def test_odd_batches_have_finite_gradients(sessions: list[list[int]], contrastive: bool, augmentation: bool) -> None:
    model, table = encoder(), table_of(sessions)
    batch = make_batch(
        table,
        np.arange(len(table)),
        0,
        0,
        n_events=N_EVENTS,
        max_events=SETTINGS.max_events,
        contrastive=contrastive,
        augmentation=augmentation,
    )
    loss, _ = training_loss(model, batch, contrastive=contrastive)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_unseen_events_are_context_and_no_targets() -> None:
    model = encoder().eval()
    table = table_of([[0, 1, N_EVENTS, 2], [N_EVENTS + 1]])
    batch = make_batch(table, np.arange(2), 0, 0, n_events=N_EVENTS, max_events=24)
    loss, _ = training_loss(model, batch, contrastive=True, words=torch.from_numpy(WORDS).long())
    assert torch.isfinite(loss)


def test_bf16_autocast_stays_near() -> None:
    model = encoder().eval()
    batch = make_batch(routines(20), np.arange(20), 0, 0, n_events=N_EVENTS, max_events=24)
    exact, _ = training_loss(model, batch, contrastive=True)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = training_loss(model, batch, contrastive=True)
    rough.backward()  # type: ignore[no-untyped-call]
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), rel=0.05)
