"""Which sessions of a training log are suspected to be abnormal, and what follows."""

import numpy as np
import pytest
from detectors_made import normal_log, sequences_of

from ai_detect.detectors.suspicion import suspected, trusted

#: Two faults that come again and again; each brings events that no normal session holds.
FAULTS = ([0, 1, 6, 6, 7, 4], [0, 8, 7])


@pytest.mark.parametrize(("share", "most_wrong"), [(0.01, 0.01), (0.03, 0.01), (0.1, 0.01), (0.14, 0.06)])
def test_faults_that_repeat_are_suspected_and_little_else(share: float, most_wrong: float) -> None:
    n_faults = round(2000 * share / (1 - share))
    log = normal_log(2000) + [FAULTS[number % 2] for number in range(n_faults)]
    found = suspected(sequences_of(log))
    assert found[2000:].all()
    assert found[:2000].mean() < most_wrong


def test_a_clean_log_is_trusted_as_a_whole() -> None:
    found = suspected(sequences_of(normal_log(2000)))
    assert found.mean() < 0.005
    assert trusted(found).all()


def test_a_long_tail_of_rare_events_is_not_taken_for_trouble() -> None:
    rng = np.random.default_rng(0)
    rare = rng.random((10_000, 400)) < 0.02 / np.arange(1, 401)
    found = suspected(sequences_of([[0, 1, 2, *(3 + np.flatnonzero(row)).tolist()] for row in rare]))
    assert 0 < found.mean() < 0.0075
    assert trusted(found).all()


def test_the_order_of_the_sessions_does_not_matter() -> None:
    log = normal_log(500) + [FAULTS[0]] * 20
    order = np.random.default_rng(0).permutation(len(log))
    assert np.array_equal(suspected(sequences_of([log[i] for i in order])), suspected(sequences_of(log))[order])


def test_no_log_is_suspected_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 9, int(rng.integers(1, 9))).tolist() for _ in range(400)]
    for log in (noise, [[0]], [[0], [1]], [[0]] * 5, [[0], [], [1, 2]], [[]]):
        assert suspected(sequences_of(log)).mean() <= 0.25


def test_few_suspects_are_trusted_and_many_are_not() -> None:
    for n_suspects, n_kept in ((0, 0), (3, 3), (7, 7), (15, 0), (100, 0)):
        suspects = np.zeros(1000, np.bool_)
        suspects[:n_suspects] = True
        kept = trusted(suspects)
        assert kept[n_suspects:].all()
        assert kept[:n_suspects].sum() == n_kept
    between = np.arange(1000) < 11
    assert 0 < trusted(between)[:11].sum() < 11


def test_more_templates_than_columns() -> None:
    rng = np.random.default_rng(0)
    log = [[0, 1, 2, int(3 + rng.integers(1000))] for _ in range(3000)] + [[2000, 2001, 2002]] * 60
    found = suspected(sequences_of(log))
    assert found[3000:].all()
    assert found[:3000].mean() < 0.02


def test_events_that_come_together_do_not_hide_a_rare_one() -> None:
    """Eight events that three sessions in ten bring at once look more improbable, one by one, than one rare event."""
    rng = np.random.default_rng(0)
    together = list(range(3, 11))
    log = [[0, 1, *(together if rng.random() < 0.3 else []), 2] for _ in range(3900)]
    many_rare = [[0, 11, 12, 13, 14, 2]] * 80
    one_rare = [[0, 1, 15, 2]] * 20
    found = suspected(sequences_of(log + many_rare + one_rare))
    assert not found[:3900].any()
    assert found[3900:].all()


def test_the_encoder_does_not_learn_from_suspects_where_they_are_many() -> None:
    from ai_detect.run_encoder import samples_of

    log = sequences_of([*normal_log(200), *[FAULTS[0]] * 20, *normal_log(5, seed=1)])
    samples = samples_of(log)
    learned = samples.session.tolist()
    assert learned[205] == learned[219] == learned[220] == 220  # the next trusted session takes the place of a suspect
    assert learned[0] == 0 and samples.copies.tolist() == [1] * 225
