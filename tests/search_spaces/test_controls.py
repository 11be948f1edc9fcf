"""Controls that tasks share: what they measure, once for what, and whether it was trained."""

from types import SimpleNamespace

import torch

from naslab.search_spaces.common import controls


def test_a_trained_control_trains_once_a_seed_for_both_splits_and_says_so():
    trained = []

    def train(seed):
        trained.append(seed)
        return seed * 10

    control = controls.trained("scratch", "with labels", train, lambda model, split: {"top1": model + len(split)})
    assert control.measure(3, "validation") == {"top1": 40}
    assert control.measure(3, "test") == {"top1": 34}
    assert trained == [3]
    control.measure(4, "test")
    assert trained == [3, 4]
    assert control.trained
    assert control.seeded


def test_an_untrained_control_evaluates_the_reference_as_its_seed_initialises_it():
    seen = []
    space = SimpleNamespace(reference="published", build=lambda configuration: (configuration, torch.rand(1).item()))
    task = SimpleNamespace(space=space, evaluate=lambda model, split, full: seen.append((*model, split, full)) or {})
    control = controls.untrained(task)
    for seed, split in ((0, "validation"), (0, "test"), (1, "test")):
        control.measure(seed, split)
    assert not control.trained
    assert [s[0] for s in seen] == ["published"] * 3
    assert seen[0][1] == seen[1][1] != seen[2][1]
    assert [s[3] for s in seen] == [False, True, True]


def test_raw_pixels_are_their_own_features_and_need_no_seed():
    control = controls.raw_pixels(lambda features, split: {"shape": tuple(features(torch.zeros(2, 3, 4, 5)).shape)})
    assert control.measure(0, "test") == {"shape": (2, 60)}
    assert not control.seeded
    assert not control.trained
