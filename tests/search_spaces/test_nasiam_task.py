import itertools

import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces import TrainingDiverged, find_space
from naslab.search_spaces.nasiam.recipes import RECIPES, make_optimiser, set_learning_rate
from naslab.search_spaces.nasiam.task import SelfSupervised, SelfSupervisedOptions

SMALL = {"dataset": {"train": 600, "validation": 200, "test": 200}, "batch_size": 100, "epochs": 3}


def make(framework="simclr", **options):
    queue = {"queue_size": 128} if framework == "mocov2" else {}
    space = find_space("nasiam", "tiny", {"framework": framework, **queue})
    options = SelfSupervisedOptions.model_validate({**SMALL, **options})
    return SelfSupervised(space, options, torch.device("cpu"))


def trained(task, stop_after=None, checkpoint=None):
    torch.manual_seed(0)
    model = task.space.build(task.space.reference)
    rungs = list(itertools.islice(task.train(model, 5, checkpoint), stop_after))
    return model, rungs


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("framework", ["simsiam", "mocov2"])
def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(framework, tmp_path):
    task = make(framework)
    whole, rungs = trained(task)
    _, first = trained(task, stop_after=1, checkpoint=tmp_path / "c")
    torch.manual_seed(99)
    resumed = task.space.build(task.space.reference)
    rest = list(task.train(resumed, 5, tmp_path / "c"))
    assert equal(whole, resumed)
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again


def test_the_seed_decides_and_rungs_come_as_asked():
    task = make(rung_epochs=2)
    a, rungs = trained(task)
    b, _ = trained(task)
    assert [r.epoch for r in rungs] == [2, 3]
    assert equal(a, b)


def test_shares_are_disjoint_fixed_and_dropped_to_whole_batches():
    task = make()
    assert task.num_batches() == 6
    assert task.num_batches((0.0, 0.5)) == 3
    whole = torch.cat([v.first for v in task.batches(1, 0)])
    assert len(whole) == 600
    same = torch.cat([v.first for v in task.batches(1, 0)])
    other = torch.cat([v.first for v in task.batches(1, 1)])
    assert torch.equal(whole, same)
    assert not torch.equal(whole, other)


def test_scores_and_controls_are_named():
    task = make(labels_per_class=5)
    model, _ = trained(task, stop_after=1)
    scores = task.evaluate(model, "test")
    assert set(scores) == {
        "knn_top1", "linear_top1", "few_knn_top1", "few_linear_top1", "feature_std", "effective_rank",
    }  # fmt: skip
    assert all(0 <= value <= 100 for value in scores.values())
    controls = {control.name: control.measure(0, "test") for control in task.controls()}
    assert controls["raw_pixels"]["knn_top1"] > 50
    assert 10 < controls["untrained"]["knn_top1"] < 90
    assert set(task.evaluate(model, "validation", full=False)) == {"knn_top1", "feature_std", "effective_rank"}


def test_training_beats_the_untrained_backbone():
    task = make(dataset={"train": 2000, "validation": 500, "test": 500}, batch_size=200, epochs=4)
    model, _ = trained(task)
    untrained = next(c for c in task.controls() if c.name == "untrained").measure(0, "test")
    assert task.evaluate(model, "test")["linear_top1"] > untrained["linear_top1"]


def test_divergence_is_said():
    task = make(learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf)"):
        trained(task)


@pytest.mark.parametrize(
    ("space", "task", "message"),
    [
        ({"in_channels": 3}, {}, "embedded has 1x28x28 images, the space takes 3x28x28"),
        ({}, {"batch_size": 601}, "batch_size: 601 is more than the 600"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(space, task, message):
    chosen = find_space("nasiam", "tiny", space)
    with pytest.raises(InputError, match=message):
        SelfSupervised(chosen, SelfSupervisedOptions.model_validate({**SMALL, **task}), torch.device("cpu"))


def test_recipes_schedule_all_but_simsiams_predictor():
    space = find_space("nasiam", "tiny", {"framework": "simsiam"})
    model = space.build(space.reference)
    optimiser = make_optimiser(RECIPES["simsiam"], model, [p for p in model.parameters() if p.requires_grad], 512)
    assert [group["lr"] for group in optimiser.param_groups] == [0.1, 0.1]
    set_learning_rate(optimiser, 1.0)
    assert [group["lr"] for group in optimiser.param_groups] == [0.0, 0.1]
    set_learning_rate(optimiser, 0.5)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.05)
