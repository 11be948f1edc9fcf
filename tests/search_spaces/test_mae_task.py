import itertools
from functools import partial

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from naslab.errors import InputError
from naslab.search_spaces import TrainingDiverged, find_space
from naslab.search_spaces.common.training.classifier import Classifier
from naslab.search_spaces.common.training.finetune import FinetuneOptions
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
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again


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


def test_a_bank_for_rungs_is_refused_where_rungs_fine_tune():
    with pytest.raises(ValidationError, match="applies only with metric other than finetune_top1"):
        make(metric="finetune_top1", rung_bank=100)
    assert "rung_bank" not in make(metric="finetune_top1").benchmark


@pytest.mark.parametrize(("pool", "norm"), [("mean", "fc_norm"), ("class", "model.norm")])
def test_the_rate_of_a_layer_falls_with_its_distance_from_the_head(pool, norm):
    task = make()
    classifier = Classifier(task.space.build(task.space.reference), pool, 10)
    groups = classifier.optimiser(FinetuneOptions(learning_rate=1.0, batch_size=256), 0.5).param_groups
    names = {id(p): name for name, p in classifier.named_parameters()}
    rates = {names[id(p)]: group["base_lr"] for group in groups for p in group["params"]}
    after, blocks = ("head.weight", f"{norm}.weight"), "model.blocks.{}.attn.qkv.weight"
    assert {rates[name] for name in after} == {1.0}
    assert rates[blocks.format(1)] == 0.5
    assert rates[blocks.format(0)] == 0.25
    assert rates["model.patch_embed.weight"] == rates["model.class_token"] == 0.125
    assert not any("decoder" in name or "mask_token" in name for name in rates)
    assert not any("norm." in name and not name.startswith((norm, "model.blocks")) for name in rates)


@pytest.mark.parametrize("preset", ["tiny", "tiny-video", "paper-video"])
def test_fine_tuning_decays_matrices_alone(preset):
    """Not the class token and not learned positions, as `no_weight_decay` in the published code says."""
    space = find_space("mae", preset)
    with torch.device("meta"):
        classifier = Classifier(space.build(space.reference), "mean", 10)
    names = {id(p): name for name, p in classifier.named_parameters()}
    groups = classifier.optimiser(FinetuneOptions(weight_decay=0.05), 0.75).param_groups
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert {name for name, value in decay.items() if value == 0} == {
        name for name in decay if name.endswith((".bias", "_token", "_places")) or "norm" in name
    }
    assert decay["head.weight"] == decay["model.blocks.0.mlp.fc1.weight"] == 0.05
    assert "model.class_token" in decay
    assert ("model.encoder_places.time_places" in decay) is (preset == "paper-video")


def test_a_classifier_of_the_mean_normalises_after_it_as_timms_does():
    """timm's ViT with average pooling is MAE's fine-tuning model: fc_norm after the mean, no norm before it."""
    task = make()
    classifier = Classifier(task.space.build(task.space.reference), "mean", 10).eval()
    for parameter in classifier.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    ours = classifier.model
    theirs = VisionTransformer(
        28,
        4,
        1,
        10,
        global_pool="avg",
        embed_dim=32,
        depth=2,
        num_heads=4,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    ).eval()
    state = {name: p for name, p in ours.state_dict().items() if name.startswith("blocks")}
    state |= {f"patch_embed.proj.{kind}": getattr(ours.patch_embed, kind) for kind in ("weight", "bias")}
    state |= {"cls_token": ours.class_token[None, None]}
    state |= {"pos_embed": torch.cat([torch.zeros(1, 32), ours.encoder_places])[None]}
    state |= {
        f"{part}.{kind}": getattr(getattr(classifier, part), kind)
        for part in ("fc_norm", "head")
        for kind in ("weight", "bias")
    }
    theirs.load_state_dict(state)
    images = torch.randn(3, 1, 28, 28)
    assert torch.allclose(classifier(images), theirs(images), atol=1e-5)


def test_example_input_proves_an_export():
    task = make()
    model = task.space.build(task.space.reference).eval()
    first, second = model(**task.example_input(3)), model(**task.example_input(3))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.predicted_BMP, second.predicted_BMP)
