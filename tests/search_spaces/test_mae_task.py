import itertools

import pytest
import torch

from naslab.efficiency.errors import InputError
from naslab.search_spaces import TrainingDiverged, find_space
from naslab.search_spaces.common.training.finetune import FinetuneOptions
from naslab.search_spaces.mae.classifier import Classifier
from naslab.search_spaces.mae.task import MaskedPretraining, PretrainingOptions

SMALL = {"dataset": {"train": 600, "validation": 200, "test": 200}, "batch_size": 100, "epochs": 3}
FINETUNE = {"epochs": 2, "batch_size": 100, "learning_rate": 1e-2}


def make(preset_options=None, **options):
    space = find_space("mae", "tiny", {"depth": 2, "width": 32, "published_decoder": (1, 16), **(preset_options or {})})
    options = PretrainingOptions.model_validate({**SMALL, **options})
    return MaskedPretraining(space, options, torch.device("cpu"))


def trained(task, stop_after=None, checkpoint=None, looking=False):
    torch.manual_seed(0)
    model = task.space.build(task.space.reference)
    rungs = []
    for rung in itertools.islice(task.train(model, 5, checkpoint), stop_after):
        rungs.append(rung)
        if looking:
            task.evaluate(model, "validation", full=False)
    return model, rungs


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    task = make(metric="finetune_top1", finetune=FINETUNE)
    whole, rungs = trained(task, looking=True)
    _, first = trained(task, stop_after=1, checkpoint=tmp_path / "c")
    torch.manual_seed(99)
    resumed = task.space.build(task.space.reference)
    rest = list(task.train(resumed, 5, tmp_path / "c"))
    assert equal(whole, resumed)
    assert [*first, *rest] == rungs


def test_training_lowers_the_loss_and_rungs_come_as_asked():
    _, rungs = trained(make(rung_epochs=2, learning_rate=3e-3))
    assert [r.epoch for r in rungs] == [2, 3]
    assert rungs[1].facts["loss"] < rungs[0].facts["loss"]


def test_scores_and_controls_are_named():
    task = make(labels_per_class=5, finetune=FINETUNE, epochs=1)
    model, _ = trained(task, stop_after=1)
    names = {"knn_top1", "linear_top1", "finetune_top1"}
    names |= {f"few_{name}" for name in names}
    scores = task.evaluate(model, "test")
    assert set(scores) == names
    assert scores == task.evaluate(model, "test")
    assert all(0 <= value <= 100 for value in scores.values())
    assert set(task.evaluate(model, "validation", full=False)) == {"linear_top1"}
    controls = {control.name: control.measure(0, "test") for control in task.controls()}
    assert set(controls) == {"raw_pixels", "untrained", "scratch"}
    assert controls["raw_pixels"]["knn_top1"] > 50
    assert set(controls["untrained"]) == names
    assert controls["scratch"]["finetune_top1"] > 14


@pytest.mark.parametrize("metric", ["linear_top1", "knn_top1", "finetune_top1"])
def test_every_control_has_the_metric(metric):
    task = make(metric=metric, epochs=1)
    for control in task.controls():
        assert metric in control.measure(0, "validation")
    assert ("raw_pixels" in {c.name for c in task.controls()}) is (metric != "finetune_top1")


def test_evaluation_and_fine_tuning_leave_the_generators_and_the_model_alone():
    task = make(finetune=FINETUNE)
    model = task.space.build(task.space.reference)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    task.evaluate(model, "test")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.slow
def test_training_beats_the_untrained_encoder():
    sizes = {"depth": 4, "width": 64, "published_decoder": (2, 32)}
    data = {"train": 2000, "validation": 500, "test": 500}
    task = make(sizes, dataset=data, epochs=6, batch_size=50, learning_rate=4e-3, metric="knn_top1")
    model, _ = trained(task)
    untrained = next(c for c in task.controls() if c.name == "untrained").measure(0, "test")
    assert task.evaluate(model, "test")["knn_top1"] > untrained["knn_top1"] + 2


def test_divergence_is_said():
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf)"):
        trained(make(learning_rate=1e30))


@pytest.mark.parametrize(
    ("space", "task", "message"),
    [
        ({"in_channels": 3}, {}, "embedded has 1x28x28 images, the space takes 3x28x28"),
        ({}, {"batch_size": 601}, "batch_size: 601 is more than the 600"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(space, task, message):
    with pytest.raises(InputError, match=message):
        make(space, **task)


def test_the_rate_of_a_layer_falls_with_its_distance_from_the_head():
    task = make()
    model = task.space.build(task.space.reference)
    classifier = Classifier(model, "mean", 10)
    model = classifier.model
    groups = classifier.optimiser(FinetuneOptions(learning_rate=1.0, batch_size=256), 0.5).param_groups
    rates = {id(p): group["base_lr"] for group in groups for p in group["params"]}
    assert rates[id(classifier.head.weight)] == 1.0
    assert rates[id(model.norm.weight)] == 1.0
    assert rates[id(model.blocks[1].attn.qkv.weight)] == 0.5
    assert rates[id(model.blocks[0].attn.qkv.weight)] == 0.25
    assert rates[id(model.patch_embed.weight)] == 0.125
    assert id(model.decoder_blocks[0].mlp.fc1.weight) not in rates
    undecayed = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert id(model.norm.weight) in undecayed
    assert id(model.class_token) not in undecayed


def test_example_input_proves_an_export():
    task = make()
    model = task.space.build(task.space.reference).eval()
    first, second = model(**task.example_input(3)), model(**task.example_input(3))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.predicted_BMP, second.predicted_BMP)
