"""Regularised evolution: who may be a parent. Cells of six layers; a child differs from its parent in one at most."""

from __future__ import annotations

import pytest

from naslab.nas.arms import Sampled
from naslab.nas.evolution import evolve
from naslab.nas.history import Ask, Observation
from naslab.search_spaces import Chain, Options, SearchSpace


class Cells(SearchSpace):
    """Layers of many operations, so that chance finds no cell that is near another."""

    name = "cells"
    Options = Options

    @property
    def parameters(self):
        return (Chain("cell", tuple(f"o{i}" for i in range(50)), 6),)

    @property
    def reference(self):
        return self.configuration({"cell": ["o0"] * 6})

    def build(self, configuration):
        raise NotImplementedError


SPACE = Cells(Options())


def seen(operation, value, cost=None):
    return Observation(SPACE.configuration({"cell": [f"o{operation}"] * 6}), value, cost=cost)


def parents(history, pending=0, population=4, tournament=4):
    """The operations of whoever had a child under twenty seeds; None where it was drawn at random."""
    arm = Sampled(
        engine="optuna", name="arm", sampler="evolution", trials=40, population=population, tournament=tournament
    )
    found = set()
    for seed in range(20):
        ask = Ask(arm, SPACE, history, [SPACE.reference] * pending, len(history), seed, 0)
        cell = evolve(ask).chain("cell")
        most = max(set(cell), key=cell.count)
        found.add(int(most[1:]) if cell.count(most) >= 5 else None)
    return found


def test_the_best_of_a_tournament_of_all_has_the_child():
    history = [seen(1, 0.1), seen(2, 0.9), seen(3, 0.5), seen(4, 0.2)]
    assert parents(history) == {2}
    assert parents(history, tournament=9) == {2}, "no more than there are"
    assert len(parents(history, tournament=1)) == 4, "anybody"
    assert 4 not in parents([*history[:3], seen(4, 0.0)], tournament=2), "the worst beats nobody"


def test_the_oldest_is_dead_and_what_failed_was_never_alive():
    history = [seen(1, 9.0), seen(2, 0.1), seen(3, 0.5), seen(4, None), seen(5, 0.2), seen(6, 0.3)]
    assert parents(history) == {3}
    assert parents([*history, seen(7, None)]) == {3}, "a failure makes nobody older"


@pytest.mark.parametrize(("history", "pending"), [(3, 0), (2, 1), (0, 3)])
def test_until_the_population_is_complete_all_are_drawn(history, pending):
    told = [seen(i, 1.0) for i in range(1, history + 1)]
    assert parents(told, pending) == {None}
    if told:
        assert None not in parents(told, pending + 1)
    assert parents([seen(i, None) for i in range(1, 5)]) == {None}, "nobody lives"


def test_a_value_of_zero_and_one_below_are_values():
    assert parents([seen(1, -0.5), seen(2, 0.0), seen(3, -0.1), seen(4, -3.0)]) == {2}
    assert parents([seen(1, 0.5), seen(2, 0.0), seen(3, 0.1), seen(4, -3.0)]) == {1}


def test_with_a_cost_the_front_has_the_children():
    history = [seen(1, 0.9, 5.0), seen(2, 0.9, 6.0), seen(3, 0.5, 1.0), seen(4, 0.4, 1.0)]
    assert parents(history) == {1, 3}
    assert parents([seen(1, 0.9, 0.0), seen(2, 0.9, 0.5), seen(3, 0.0, 0.5), seen(4, 0.8, 0.0)]) == {1}
