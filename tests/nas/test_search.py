import itertools

import pytest
import torch

from naslab.errors import InputError
from naslab.nas.arms import AlphaOptimiser, Differentiable
from naslab.nas.differentiable import search
from naslab.search_spaces import find_space
from naslab.search_spaces.common.training import recomputation
from naslab.search_spaces.nasiam.task import SelfSupervised, SelfSupervisedOptions


def make(framework="simclr"):
    queue = {"queue_size": 64} if framework == "mocov2" else {}
    space = find_space("nasiam", "tiny", {"framework": framework, **queue})
    options = {"dataset": {"train": 160, "validation": 40, "test": 40}, "batch_size": 40, "epochs": 2}
    return space, SelfSupervised(space, SelfSupervisedOptions.model_validate(options), torch.device("cpu"))


def arm(**options):
    return Differentiable(
        engine="differentiable", name="d", **{"epochs": 3, "alpha": AlphaOptimiser(learning_rate=0.05), **options}
    )


def finish(generator):
    epochs = []
    while True:
        try:
            epochs.append(next(generator))
        except StopIteration as stop:
            return epochs, stop.value


@pytest.mark.parametrize(
    ("framework", "options"),
    [
        ("simclr", {}),
        ("simsiam", {"relaxation": "sigmoid", "zero_one_weight": 1.0}),
        ("mocov2", {"relaxation": "gumbel", "skip_weight": 0.5}),
        ("byol", {"relaxation": "gumbel", "gumbel_hard": False, "entropy_weight": 0.1}),
        ("simclr", {"order": "second", "epochs": 1}),
        ("simclr", {"partial_channels": 4, "warmup_epochs": 1}),
    ],
)
def test_every_form_of_search_ends_with_a_genotype_of_the_space(framework, options):
    space, task = make(framework)
    epochs, result = finish(search(space, task, arm(**options), seed=1))
    assert space.configuration(result.genotype) == result.genotype
    assert len(epochs) == len(result.trajectory) == arm(**options).epochs
    last = epochs[-1]
    chains = {chain.name: chain for chain in space.chains()}
    assert {name: len(rows) for name, rows in last.alphas.items()} == {n: c.length for n, c in chains.items()}
    largest = {
        name: tuple(chains[name].choices[max(range(len(row)), key=row.__getitem__)] for row in rows)
        for name, rows in last.alphas.items()
    }
    assert space.genotype(largest) == result.genotype
    assert any(abs(a) > 1e-3 for rows in last.alphas.values() for row in rows for a in row)
    assert "knn_top1" in result.scores
    assert 0 < last.skip_share < 1


def test_alphas_stand_still_during_the_warm_up():
    space, task = make()
    epochs, _ = finish(search(space, task, arm(warmup_epochs=2), seed=0))
    moved = [max(abs(a) for row in e.alphas["projector"] for a in row) for e in epochs]
    assert moved[0] == moved[1] == 0 < moved[2]


@pytest.mark.parametrize("options", [{}, {"relaxation": "gumbel"}, {"order": "second"}])
def test_a_search_killed_in_the_middle_ends_like_an_unbroken_one(options, tmp_path):
    space, task = make("mocov2")
    whole_epochs, whole = finish(search(space, task, arm(**options), seed=7))
    broken = search(space, task, arm(**options), seed=7, checkpoint=tmp_path / "c")
    list(itertools.islice(broken, 2))
    del broken
    torch.manual_seed(1234)
    epochs, resumed = finish(search(space, task, arm(**options), seed=7, checkpoint=tmp_path / "c"))
    assert len(epochs) == 1
    assert resumed.to_dict() == whole.to_dict()
    assert epochs[0] == whole_epochs[2]


def test_seeds_differ():
    space, task = make()
    a, b = (finish(search(space, task, arm(epochs=1), seed=s))[1] for s in (0, 1))
    assert a.trajectory[0].alphas != b.trajectory[0].alphas


def test_partial_channels_that_do_not_divide_are_refused():
    space, task = make()
    with pytest.raises(InputError, match=r"partial_channels: 3 does not divide the cell's width"):
        next(search(space, task, arm(partial_channels=3), seed=0))


def with_policy(framework="simclr", **policy):
    space, task = make(framework)
    options = {**task.options.model_dump(exclude={"policy"}), "policy": policy}
    return space, SelfSupervised(space, SelfSupervisedOptions.model_validate(options), torch.device("cpu"))


@pytest.mark.parametrize("framework", ["simclr", "mocov2"])
def test_a_search_follows_the_policy_and_says_it(framework):
    """In bfloat16 the losses differ by its rounding, and the alphas move."""
    found = {}
    for precision in ("float32", "bfloat16"):
        space, task = with_policy(framework, precision=precision, memory_format="channels_last")
        epochs, result = finish(search(space, task, arm(epochs=2), seed=1))
        assert result.to_dict()["policy"]["precision"] == precision
        assert result.to_dict()["policy"]["memory_format"] == "channels_last"
        assert any(abs(a) > 1e-3 for rows in epochs[-1].alphas.values() for row in rows for a in row)
        found[precision] = [(epoch.train_loss, epoch.held_out_loss) for epoch in epochs]
    assert found["bfloat16"] != found["float32"]
    for reduced, plain in zip(found["bfloat16"], found["float32"], strict=True):
        assert reduced == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_search_that_recomputes_finds_the_same(order, monkeypatch):
    plain = finish(search(*with_policy(), arm(order=order, epochs=1), seed=1))[1]
    calls = []
    original = recomputation.checkpoint
    monkeypatch.setattr(recomputation, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    found = finish(search(*with_policy(recompute=True), arm(order=order, epochs=1), seed=1))[1]
    assert calls
    assert found.to_dict()["policy"]["recompute"]
    assert found.genotype == plain.genotype
    assert found.relaxed_loss == pytest.approx(plain.relaxed_loss, rel=1e-4)


@pytest.mark.parametrize("policy", [{"precision": "float16"}, {"accumulation": 2}])
def test_a_search_refuses_a_policy_that_it_cannot_follow(policy):
    with pytest.raises(InputError, match=r"task\.policy"):
        next(search(*with_policy(**policy), arm(), seed=1))
