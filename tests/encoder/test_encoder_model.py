"""The model sees the past only, keeps count, knows unseen events by their words, and fits its size."""

from __future__ import annotations

import torch
from encoder.encoder_made import N_EVENTS, WORDS, encoder

from ai_detect.config import EncoderSettings
from ai_detect.encoder.batches import BEGIN, END, FIRST_EVENT
from ai_detect.encoder.model import SessionEncoder, occurrence_rank
from ai_detect.encoder.vocabulary import word_matrix


def tokens_of(*events: int, ends: bool = True) -> torch.Tensor:
    row = [BEGIN, *(event + FIRST_EVENT for event in events), *([END] if ends else [])]
    return torch.tensor([row + [0] * (16 - len(row))])


def vector(model: SessionEncoder, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model([tokens], model.token_table(torch.from_numpy(WORDS).long()))[1][0]
    return found


def test_default_size() -> None:
    model = SessionEncoder(EncoderSettings(), 400, word_matrix(["a"] * 400, 4096))
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


def test_states_do_not_see_the_future_nor_the_padding() -> None:
    model = encoder().eval()
    table = model.token_table()
    with torch.no_grad():
        short, long = (
            model([tokens], table)[0] for tokens in (tokens_of(1, 2, 3, ends=False), tokens_of(1, 2, 3, 4, 5))
        )
    assert torch.allclose(short[:4], long[:4], atol=1e-6)
    assert not torch.allclose(short[4], long[4], atol=1e-3)


def test_rows_are_the_same_beside_rows_of_other_lengths() -> None:
    model = encoder().eval()
    table = model.token_table()
    groups = [tokens_of(1, 2, 3), torch.cat([tokens_of(4, 5, 5), tokens_of(6)])[:, :8], tokens_of(*range(12))]
    unseen = torch.rand(sum(rows.numel() for rows in groups), generator=torch.Generator().manual_seed(0)) < 0.3
    with torch.no_grad():
        states, vectors = model(groups, table, unseen)
        parts = unseen.split([rows.numel() for rows in groups])
        alone = [model([rows], table, part) for rows, part in zip(groups, parts, strict=True)]
    assert torch.allclose(states, torch.cat([part for part, _ in alone]), atol=1e-5)
    assert torch.allclose(vectors, torch.cat([part for _, part in alone]), atol=1e-5)
    assert not torch.allclose(vectors[1], vectors[2], atol=1e-3)


def test_vectors_have_unit_length_and_know_counts_and_order() -> None:
    model = encoder().eval()
    dim = model.dim
    once, twice, swapped = (vector(model, tokens_of(*events)) for events in ([1, 2, 3], [1, 2, 2, 3], [1, 3, 2]))
    assert torch.allclose(once.norm(), torch.tensor(1.0))
    assert not torch.allclose(once[:dim], twice[:dim], atol=1e-3)
    assert torch.allclose(once[:dim], swapped[:dim], atol=1e-6)  # the same content
    assert not torch.allclose(once[dim:], swapped[dim:], atol=1e-3)  # in another course


def test_running_sum_holds_log_counts() -> None:
    rank = occurrence_rank(torch.tensor([[5, 5, 7, 5, 7, 0]]))
    assert rank.tolist() == [[0, 1, 0, 2, 1, 0]]
    assert torch.allclose(torch.log1p(1 / (rank[0, [0, 1, 3]] + 1)).sum(), torch.log(torch.tensor(4.0)))


def test_unseen_events_differ_by_their_words() -> None:
    model = encoder().eval()
    first, second = (vector(model, tokens_of(0, N_EVENTS + i, 1)) for i in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_logits_are_of_the_known_events_and_the_end() -> None:
    model = encoder().eval()
    states = torch.randn(5, model.dim)
    assert model.next_logits(states, model.token_table()).shape == (5, N_EVENTS + 1)
    everything = torch.ones(5, N_EVENTS, dtype=torch.bool)
    by_words = model.next_logits(states, model.token_table(), everything)
    alone = model.unseen_logits(states, model.token_table().unseen[FIRST_EVENT + 3].expand(5, -1))
    assert torch.allclose(by_words[:, 3], alone, atol=1e-5)
