"""The token reduction space: counts against published tables, twins by sparsify, training that repeats itself."""

import itertools
import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pydantic import ValidationError

from naslab.efficiency import count_forward
from naslab.efficiency.inputs import call_model
from naslab.errors import InputError
from naslab.runs.architecture import DOCUMENT, SCHEMA, WEIGHTS, file_digest, rebuild
from naslab.search_spaces import TrainingDiverged, find_space
from naslab.search_spaces.common.modules.tokens import sparsify
from naslab.search_spaces.common.modules.tokens.blocks import SelectingBlock
from naslab.search_spaces.token_reduction.space import TokenReduction, layers_of
from naslab.search_spaces.token_reduction.task import Classification, ClassificationOptions

SMALL = {"dataset": {"train": 600, "validation": 200, "test": 200}, "batch_size": 100, "epochs": 3}
EVIT_GMAC = {0.9: 4.0, 0.8: 3.5, 0.7: 3.0, 0.6: 2.6, 0.5: 2.3}
TOME_RATIOS = [("paper", 13, 1.70), ("paper-vit-b", 13, 1.69), ("paper-vit-b", 16, 2.00), ("paper-vit-l", 7, 1.77)]
TOME_RATIOS += [("paper-vit-l", 8, 1.99)]


def counted(space, configuration):
    """FLOPs of one sample's forward."""
    with torch.device("meta"):
        return count_forward(space.build(configuration), space.example_input(1)).total


def make(space_options=None, **options):
    space = find_space("token_reduction", "tiny", {"depth": 2, "width": 32, **(space_options or {})})
    return Classification(space, ClassificationOptions.model_validate({**SMALL, **options}), torch.device("cpu"))


def trained(task, configuration=None, stop_after=None, checkpoint=None, looking=False):
    torch.manual_seed(0)
    model = task.space.build(configuration or task.space.reference)
    rungs = []
    for rung in itertools.islice(task.train(model, 5, checkpoint), stop_after):
        rungs.append(rung)
        if looking:
            task.evaluate(model, "validation", full=False)
    return model, rungs


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("preset", tuple(TokenReduction.presets))
def test_formula_and_counter_agree(preset):
    space = find_space("token_reduction", preset)
    settings = {**space.published, "reference": space.reference}
    small = ("dense", "evit-0.7-dropped") if preset in ("tiny", "small") else ()
    for name in ("reference", f"tome-{space.merges[-1]}", *small):
        found = counted(space, settings[name])
        assert space.forward_flops(settings[name], 3) == pytest.approx(3 * found, rel=1e-3), name


def test_formula_and_counter_agree_on_random_configurations():
    space, rng = find_space("token_reduction", "tiny"), np.random.default_rng(0)
    for _ in range(10):
        configuration = space.random(rng)
        assert space.forward_flops(configuration, 1) == pytest.approx(counted(space, configuration), rel=2e-3)


def test_published_counts_of_evit():
    """By the formula, which is the counter's figure at every preset."""
    space = find_space("token_reduction", "paper")
    for rate, printed in EVIT_GMAC.items():
        configuration = space.reference if rate == 0.7 else space.published[f"evit-{rate}"]
        assert round(space.forward_flops(configuration, 1) / 2e9, 1) == printed


@pytest.mark.parametrize(("preset", "r", "ratio"), TOME_RATIOS)
def test_published_ratios_of_tome(preset, r, ratio):
    space = find_space("token_reduction", preset)
    dense, merged = (space.forward_flops(space.published[name], 1) for name in ("dense", f"tome-{r}"))
    assert dense / merged == pytest.approx(ratio, rel=0.02)


def test_built_models_are_sparsified_twins():
    space = find_space("token_reduction", "tiny")
    torch.manual_seed(0)
    dense = space.build(space.published["dense"]).eval()
    inputs = space.example_input(4)
    twins = {
        "evit-0.5": {"keep_rate": 0.5, "layers": (1, 2, 3)},
        "evit-0.7-dropped": {"keep_rate": 0.7, "layers": (1, 2, 3), "fuse": False},
        "tome-10": {"rule": "tome", "r": 10},
    }
    for name, arguments in twins.items():
        model = space.build(space.published[name]).eval()
        model.load_state_dict(dense.state_dict())
        with torch.device("meta"):
            twin = space.build(space.published["dense"]).network
        twin = sparsify(twin.to_empty(device="cpu"), **arguments).eval()
        twin.load_state_dict(dense.network.state_dict())
        expected = twin(inputs["images"])
        loss, logits = call_model(model, inputs)
        assert torch.equal(logits, expected)
        assert torch.equal(loss, torch.nn.functional.cross_entropy(expected, inputs["labels"]))
        assert torch.equal(model(inputs["images"]), expected)
        assert not torch.allclose(expected, dense(inputs["images"]))


@pytest.mark.parametrize(
    "values",
    [
        {"rule": "evit", "keep_rate": 1.0, "layers": "half", "fuse": False},
        {"rule": "evit", "keep_rate": 0.99, "layers": "thirds", "fuse": True},
        {"rule": "tome", "merged_per_layer": 0, "proportional": False},
    ],
)
def test_what_drops_nothing_is_the_dense_model(values):
    space = find_space("token_reduction", "tiny")
    assert space.configuration(values) == space.configuration({"rule": "none"})


def test_names_of_the_same_layers_are_one_configuration():
    space = find_space("token_reduction", "tiny", {"depth": 2})
    values = {"rule": "evit", "keep_rate": 0.5, "fuse": True}
    assert len({space.configuration({**values, "layers": name}) for name in ("quarters", "thirds", "half")}) == 1


def test_rates_of_the_same_counts_are_one_configuration():
    space, found = find_space("token_reduction", "tiny"), {}
    for step in range(141):
        values = {"rule": "evit", "keep_rate": 0.3 + 0.005 * step, "layers": "quarters", "fuse": True}
        configuration = space.configuration(values)
        assert space.configuration(configuration) == configuration
        found.setdefault(space.forward_flops(configuration, 1), set()).add(configuration)
    assert {len(same) for same in found.values()} == {1}
    assert {0.5, 0.6, 0.7, 0.8, 0.9} <= {c.get("keep_rate") for same in found.values() for c in same}


def test_an_option_that_has_no_effect_is_refused():
    with pytest.raises(ValidationError, match="applies only with anneal = True"):
        ClassificationOptions(epochs=1, anneal=False, anneal_share=0.5)


def test_layers_are_those_of_evit():
    assert layers_of("quarters", 12) == (3, 6, 9)
    assert layers_of("thirds", 12) == (4, 8)
    assert layers_of("half", 24) == (12,)


def test_weights_load_from_a_file_and_a_head_of_other_classes_stays(tmp_path):
    options = {"model": "timm:deit_tiny_patch16_224", "image_size": 32, "num_classes": 3}
    source = timm.create_model("deit_tiny_patch16_224", img_size=32, num_classes=5)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    space = find_space("token_reduction", None, {**options, "pretrained": str(tmp_path / "w.safetensors")})
    state = space.build(space.reference).network.state_dict()
    assert state["head.weight"].shape == (3, 192)
    for name, tensor in source.state_dict().items():
        assert name.startswith("head.") or torch.equal(state[name], tensor)
    assert counted(space, space.reference)
    wrong = find_space("token_reduction", "tiny", {"pretrained": str(tmp_path / "w.safetensors")})
    with pytest.raises(InputError, match=r"w\.safetensors is not of this model: \S+ is"):
        wrong.build(wrong.reference)
    (tmp_path / "text").write_text("none")
    for name in ("text", "missing", "."):
        broken = find_space("token_reduction", "tiny", {"pretrained": str(tmp_path / name)})
        with pytest.raises(InputError, match="cannot be read as safetensors") as raised:
            broken.build(broken.reference)
        assert "\n" not in str(raised.value)


def test_an_export_is_rebuilt_where_the_weights_that_it_began_with_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny = find_space("token_reduction", "tiny")
    safetensors.torch.save_file(tiny.build(tiny.reference).network.state_dict(), tmp_path / "w.safetensors")
    space = find_space("token_reduction", "tiny", {"pretrained": "~/w.safetensors"})
    model, folder = space.build(space.reference), tmp_path / "export"
    folder.mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / WEIGHTS)
    document = {
        "schema": SCHEMA,
        "space": {"name": "token_reduction", "options": space.options.model_dump(mode="json")},
        "configuration": space.reference.as_dict(),
        "weights_sha256": file_digest(folder / WEIGHTS),
    }
    (folder / DOCUMENT).write_text(json.dumps(document))
    (tmp_path / "w.safetensors").unlink()
    again = rebuild(folder).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failed_download_is_one_line(monkeypatch):
    space = find_space("token_reduction", None, {"model": "timm:deit_tiny_patch16_224", "pretrained": True})

    def offline(*_, **__):
        raise OSError("no route to the hub\nsecond line")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"deit_tiny_patch16_224 cannot be downloaded \(no route to the hub\); use false"
    ):
        space.build(space.reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet"}, "'resnet' is unknown; use own or timm:NAME"),
        ({"model": "timm:vit_nothing"}, "timm has no model 'vit_nothing'"),
        ({"model": "timm:resnet18"}, "'resnet18'"),
        ({"model": "timm:vit_base_patch16_224", "width": 8}, "space.options.width: applies only with model = own"),
        ({"model": "timm:vit_base_patch16_siglip_224"}, "no ViT with a class token"),
        ({"model": "timm:deit_tiny_patch16_224", "image_size": 100}, "100 is not two or more patches of 16"),
        ({"model": "own", "width": 8}, "needs width, depth, heads and patch_size"),
        ({"model": "own", "width": 8, "depth": 2, "heads": 3, "patch_size": 4}, "8 is not divisible by 3 heads"),
        ({"published_merges": (0,)}, "published_merges: 0 is not 1 to 32"),
    ],
)
def test_options_that_do_not_go_are_refused(options, message):
    with pytest.raises(InputError, match=message) as raised:
        find_space("token_reduction", None, options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "evit", "keep_rate": 0, "layers": "half", "fuse": True}, "keep_rate: 0 is not allowed"),
        ({"rule": "tome", "merged_per_layer": 25, "proportional": True}, "merged_per_layer: 25 .* from 0 to 24"),
        ({"rule": "none", "keep_rate": 0.5}, "keep_rate: applies only with rule = evit"),
    ],
)
def test_values_that_do_not_go_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        find_space("token_reduction", "tiny").configuration(values)


def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(tmp_path):
    task = make(anneal_share=0.9)
    whole, rungs = trained(task, looking=True)
    _, first = trained(task, stop_after=1, checkpoint=tmp_path / "c")
    torch.manual_seed(99)
    resumed = task.space.build(task.space.reference)
    rest = list(task.train(resumed, 5, tmp_path / "c"))
    assert equal(whole, resumed)
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again
    assert task.evaluate(whole, "test") == task.evaluate(resumed, "test")


@pytest.mark.parametrize("anneal", [True, False])
def test_the_keep_rate_falls_in_training_and_is_the_configurations_at_rungs(anneal, monkeypatch):
    falling = {"anneal_start": 0.25, "anneal_share": 0.5} if anneal else {}
    task, seen = make(anneal=anneal, epochs=2, rung_epochs=1, **falling), []
    forward = SelectingBlock.forward

    def watched(block, x):
        seen.append((block.training, block.keep_rate))
        return forward(block, x)

    monkeypatch.setattr(SelectingBlock, "forward", watched)
    trained(task, looking=True)
    rates = [rate for training, rate in seen if training]
    assert {rate for training, rate in seen if not training} == {0.7}
    if anneal:
        assert (rates[0], rates[-1]) == (1.0, 0.7)
        assert rates == sorted(rates, reverse=True)
        assert len(set(rates)) > 4
    else:
        assert set(rates) == {0.7}


def test_training_learns_and_is_held_against_controls():
    task = make(epochs=6, learning_rate=8e-3, batch_size=50)
    model, rungs = trained(task)
    controls = {control.name: control.measure(0, "test")["top1"] for control in task.controls()}
    assert set(controls) == {"raw_pixels", "untrained"}
    assert controls["raw_pixels"] > 50
    assert controls["untrained"] < 30
    assert rungs[-1].facts["loss"] < rungs[0].facts["loss"]
    assert task.evaluate(model, "test")["top1"] > controls["untrained"] + 20


def test_layer_decay_slows_what_is_far_from_the_head():
    task = make(layer_decay=0.5)
    model = task.space.build(task.space.reference)
    rates = {id(p): g["base_lr"] for g in task._optimiser(model).param_groups for p in g["params"]}
    assert len(rates) == len(list(model.parameters()))
    network, head = model.network, 1e-3 * 100 / 256
    assert rates[id(network.head.weight)] == pytest.approx(head)
    assert rates[id(network.blocks[1].mlp.fc1.weight)] == pytest.approx(head / 2)
    assert rates[id(network.cls_token)] == pytest.approx(head / 8)
    assert len(make()._optimiser(model).param_groups) == 2


def test_divergence_is_said():
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf)"):
        trained(make(learning_rate=1e30))


@pytest.mark.parametrize(
    ("space", "task", "message"),
    [
        ({"in_channels": 3}, {}, "embedded has 1x28x28 images, the space takes 3x28x28"),
        ({"num_classes": 7}, {}, "num_classes: 7, but embedded has 10 classes"),
        ({}, {"batch_size": 601}, "batch_size: 601 is more than the 600"),
        ({}, {"dataset": {"name": "stl10", "unlabeled": True}}, "dataset.unlabeled: images without label"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(space, task, message):
    with pytest.raises(InputError, match=message):
        make(space, **task)


def test_the_benchmark_is_the_data_not_the_recipe():
    assert make().benchmark == make(epochs=9, anneal=False).benchmark
    assert make().benchmark != make(dataset={"train": 500, "validation": 200, "test": 200}).benchmark
