import numpy as np
import pytest
import torch
from torch import nn

from naslab.errors import InputError
from naslab.kernels import feature_pool
from naslab.search_spaces import find_space
from naslab.search_spaces.nasiam.heads import published_heads, searched_heads
from naslab.search_spaces.nasiam.operations import OPERATIONS, FeaturePool, canonical_name, operation

FRAMEWORKS = ("simsiam", "simclr", "mocov2", "byol")


def tiny(framework="simsiam", **options):
    return find_space("nasiam", "tiny", {"framework": framework, **options})


def test_candidates_stand_in_the_papers_order():
    assert OPERATIONS == ("maxpool", "avgpool", "identity", "relu", "silu", "hardswish", "elu")


@pytest.mark.parametrize(
    ("preset", "cells"),
    [
        ("paper", {"projector": (512,) * 7, "predictor": (2048, 512, 512, 512, 2048)}),
        ("paper-simclr", {"projector": (2048, 512, 512, 512, 512, 512, 128)}),
        ("paper-mocov2", {"projector": (512,) * 5}),
    ],
)
def test_paper_widths(preset, cells):
    assert dict(find_space("nasiam", preset).sizes.cells) == cells


def test_sizes_of_the_paper_spaces():
    lengths = {
        preset: [chain.length for chain in find_space("nasiam", preset).chains()]
        for preset in ("paper", "paper-simclr", "paper-mocov2")
    }
    assert lengths == {"paper": [6, 4], "paper-simclr": [6], "paper-mocov2": [4]}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("width_in", "width_out"), [(12, 12), (12, 5), (5, 12)])
def test_operations_map_between_the_widths(name, width_in, width_out):
    layer = operation(name, width_in, width_out)
    assert layer(torch.randn(7, width_in)).shape == (7, width_out)
    linears = [m for m in layer.modules() if isinstance(m, nn.Linear)]
    norms = [m for m in layer.modules() if isinstance(m, nn.BatchNorm1d)]
    pooled = name in ("maxpool", "avgpool")
    if width_in == width_out:
        assert len(linears) == (name in ("relu", "silu", "hardswish", "elu"))
        assert len(norms) == (name != "identity")
    elif width_in > width_out:
        assert len(linears) == 1
        assert linears[0].bias is None
        assert len(norms) == 1 + pooled
    else:
        assert linears[0].bias is not None
        assert len(norms) == pooled


def test_pooling_runs_along_the_features():
    x = torch.tensor([[0.0, 3.0, 6.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    average = feature_pool(x, "avgpool")
    assert torch.allclose(average, torch.tensor([[1.0, 3.0, 3.0, 2.0], [2 / 3, 1.0, 1.0, 2 / 3]]))
    highest = feature_pool(x, "maxpool")
    assert torch.equal(highest[0], torch.tensor([3.0, 6.0, 6.0, 6.0]))


@pytest.mark.parametrize(("width_in", "width_out"), [(6, 6), (6, 3), (3, 6)])
def test_canonical_names_join_exactly_the_equal_functions(width_in, width_out):
    def structure(name):
        layers = operation(name, width_in, width_out)
        made = [m for m in layers.modules() if isinstance(m, FeaturePool) or not list(m.children())]
        return [(type(m).__name__, getattr(m, "name", "")) for m in made]

    for a in OPERATIONS:
        for b in OPERATIONS:
            same = structure(a) == structure(b)
            assert same == (canonical_name(a, width_in, width_out) == canonical_name(b, width_in, width_out))


def test_configurations_that_build_the_same_function_are_equal():
    space = tiny()
    chosen = {"head": "cell", "projector": ["relu"] * 6}
    configurations = {
        space.configuration({**chosen, "predictor": [first, "silu", "elu", last]})
        for first in ("relu", "identity")
        for last in ("relu", "silu", "hardswish", "elu", "identity")
    }
    assert len(configurations) == 1
    assert len({c.digest for c in configurations}) == 1


def test_an_identity_does_nothing_wherever_it_stands():
    space = tiny()
    spelled = [["relu", "identity", "silu"], ["identity", "relu", "silu"], ["relu", "silu", "identity"]]
    rest = {"head": "cell", "predictor": ["relu", "identity", "elu", "relu"]}
    points = {space.configuration({**rest, "projector": [*three, "elu", "elu", "avgpool"]}) for three in spelled}
    assert len(points) == 1
    assert points.pop().chain("projector") == ("relu", "silu", "elu", "elu", "avgpool", "identity")
    assert space.configuration({**rest, "projector": ["relu"] * 6}).chain("predictor") == (
        "relu", "elu", "identity", "identity",
    )  # fmt: skip


def test_the_published_heads_written_as_cells_are_the_reference():
    cells = {
        "projector": ["relu", "identity", "relu", "identity", "identity", "identity"],
        "predictor": ["relu", "identity", "identity", "identity"],
    }
    space = tiny()
    assert space.configuration({"head": "cell", **cells}) == space.reference
    other = {**cells, "projector": ["relu", "silu", *["identity"] * 4]}
    assert space.configuration({"head": "cell", **other}) != space.reference


@pytest.mark.parametrize(
    ("framework", "option"),
    [
        ("simsiam", "temperature"), ("simsiam", "momentum"), ("simsiam", "queue_size"),
        ("simclr", "momentum"), ("simclr", "queue_size"),
        ("mocov2", "hidden_width"),
        ("byol", "temperature"), ("byol", "queue_size"),
    ],
)  # fmt: skip
def test_an_option_of_another_framework_is_refused(framework, option):
    with pytest.raises(InputError, match=rf"^space\.options\.{option}: applies only with framework = "):
        tiny(framework, **{option: 2 if option == "hidden_width" else 1})


def test_yaml_form_reads_back():
    import yaml

    space = tiny()
    configuration = space.random(np.random.default_rng(3))
    text = configuration.to_yaml()
    assert "projector: [" in text
    assert space.configuration(yaml.safe_load(text)) == configuration


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head": "cell", "projector": ["relu"] * 5, "predictor": ["relu"] * 4}, "projector"),
        ({"head": "cell", "projector": ["relu"] * 6, "predictor": ["mish"] * 4}, r"predictor\[0\]: 'mish'"),
        ({"head": "cell", "projector": ["relu"] * 6}, "predictor: missing"),
        ({"head": "published", "projector": ["relu"] * 6}, "projector: applies only with head = cell"),
        ({"head": "published", "depth": 3}, "depth: unknown parameter"),
        ({"head": "other"}, "head: 'other'"),
        ({"head": "published", "space": "mae"}, "space"),
    ],
)
def test_bad_configurations_name_the_place(values, message):
    with pytest.raises(InputError, match=message):
        tiny().configuration(values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18"}, "backbone"),
        ({"backbone": "timm:resnet19"}, "resnet"),
        ({"framework": "dino"}, "framework"),
        ({"widht": 3}, "widht: unknown key"),
    ],
)
def test_bad_options_name_the_place(options, message):
    with pytest.raises(InputError, match=message):
        find_space("nasiam", "tiny", options)


def test_engines_never_propose_the_published_head():
    space, rng = tiny(), np.random.default_rng(0)
    assert {space.random(rng)["head"] for _ in range(20)} == {"cell"}


def test_simsiams_published_heads_are_a_point_of_its_cells():
    """Two ReLU layers and four identities before the tail are the published three-layer projector."""
    space = tiny()
    published = nn.Sequential(*(make() for make in published_heads("simsiam", space.sizes)))
    genotype = {
        "projector": ("relu", "relu", "identity", "identity", "identity", "identity"),
        "predictor": ("relu", "identity", "identity", "identity"),
    }
    searched = nn.Sequential(*(make() for make in searched_heads(space.sizes, genotype)))
    ours, theirs = list(searched.state_dict().values()), list(published.state_dict().values())
    assert [v.shape for v in ours] == [v.shape for v in theirs]
    searched.load_state_dict(dict(zip(searched.state_dict(), theirs, strict=True)))
    x = torch.randn(9, space.sizes.features)
    assert torch.equal(searched(x), published(x))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_published_genotypes_and_reference_build(framework):
    space = tiny(framework)
    for configuration in (space.reference, *space.published.values(), space.random(np.random.default_rng(1))):
        model = space.build(configuration)
        assert model(torch.randn(4, 1, 28, 28)).shape == (4, space.sizes.output)
        assert "<svg" in space.draw(configuration)


def test_resnet_gets_the_cifar_stem_only_for_small_images():
    small = find_space("nasiam", "paper").build(find_space("nasiam", "paper").reference).backbone
    large_space = find_space("nasiam", "paper", {"image_size": 224})
    large = large_space.build(large_space.reference).backbone
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    assert large.conv1.stride == (2, 2)
    assert not isinstance(large.maxpool, nn.Identity)


def test_making_a_space_draws_nothing_from_the_generator():
    torch.manual_seed(0)
    tiny()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize("framework", ["simsiam", "byol"])
@pytest.mark.parametrize("width", [2, 3])
def test_narrow_projections_have_a_predictor(framework, width):
    space = tiny(framework, output_width=width)
    cells = {chain.name: (chain.choices[0],) * chain.length for chain in space.chains()}
    for configuration in (space.reference, space.genotype(cells)):
        assert space.build(configuration).eval()(space.example_input(2)) is not None
