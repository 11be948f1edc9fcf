import copy

import numpy as np
import pytest
import torch

from naslab.efficiency import count_forward, count_training_step
from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.modules.experts import ExpertSizes, MixtureOfExperts

T5 = {
    # layers each, width, hidden: embedding and other weight matrices, dense and K = 2 (and K = 4's embedding)
    "paper-small": (3.29e7, 6.58e7, 1.32e8, 3.78e7, 4.09e7),
    "paper": (4.93e7, 9.87e7, 1.97e8, 1.98e8, 2.12e8),
    "paper-large": (6.58e7, 1.32e8, 2.63e8, 7.17e8, 7.68e8),
}


SMALL = {"width": 32, "hidden": 48, "vocabulary": 300}


def configurations(space, experts=()):
    for name, configuration in {"reference": space.reference, **space.published}.items():
        yield name, configuration
        for number in experts:
            yield f"{name}, {number} experts", space.configuration({**configuration, "experts": number})


def counted(space, experts):
    """The same, with experts where the methods cost otherwise: the mixture is one and the same module in all."""
    for name, configuration in configurations(space, experts):
        if "experts" not in name or name.startswith(("reference", "dense,", "sequence-altup", "dhc-2")):
            yield name, configuration


def on_meta(space, configuration):
    with torch.device("meta"):
        return space.build(configuration)


def matrices(model):
    tables = ("embedding.table", "unembedding.table")
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "coefficients" not in name}
    embedding = sum(n for name, n in sizes.items() if name.startswith(tables))
    return embedding, sum(sizes.values()) - embedding


@pytest.mark.parametrize("preset", T5)
def test_parameters_of_the_papers_models(preset):
    space = find_space("altup", preset)
    dense = matrices(on_meta(space, space.published["dense"]))
    two = matrices(on_meta(space, space.reference))
    four = matrices(on_meta(space, space.published["altup-4"]))
    found = (dense[0], two[0], four[0], dense[1], two[1])
    assert found == pytest.approx(T5[preset], rel=0.005)


def test_recycled_altup_adds_six_scalars_a_layer():
    space = find_space("altup", "paper-large")
    counts = [
        sum(p.numel() for p in on_meta(space, space.published[n]).parameters()) for n in ("dense", "recycled-altup")
    ]
    assert counts[1] - counts[0] == 6 * 48


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "dense", "layers": 1, "experts": 8}, {"method": "dense", "layers": 1, "experts": 0}),
        ({"method": "dense_wide", "streams": 8, "width": 64}, {"method": "dense_wide", "streams": 4, "width": 128}),
        ({"method": "dense_wide", "streams": 4, "width": 32}, {"method": "dense", "width": 128}),
        (
            {"method": "altup", "streams": 2, "coefficients": "static", "selection": "same", "layers": 1},
            {"method": "altup", "streams": 2, "coefficients": "static", "selection": "alternating", "layers": 1},
        ),
    ],
)
def test_equal_functions_are_one_configuration(one, other):
    space, sizes = find_space("altup", "tiny"), {"layers": 4, "width": 64, "experts": 0}
    assert space.configuration({**sizes, **one}) == space.configuration({**sizes, **other})


@pytest.mark.parametrize(
    ("preset", "options", "experts"),
    [
        ("tiny", {"layers": 3}, (4,)),
        ("tiny", {"layers": 3, "form": "encoder_decoder", "expert_hidden": 16, "top_k": 2}, (4,)),
        ("small", {"layers": 3}, ()),
        ("paper", {"layers": 4}, ()),
    ],
)
def test_the_formula_is_the_counters_figure(preset, options, experts):
    """With few layers: every further one costs as much as one of these."""
    space = find_space("altup", preset, options)
    for name, configuration in counted(space, experts):
        with torch.device("meta"):
            found = count_forward(space.build(configuration), space.example_input(3))
        assert space.forward_flops(configuration, 3) == pytest.approx(found.total, rel=0.01), name
        assert found.coverage == 1, (name, found.uncovered)


@pytest.mark.parametrize("form", ["decoder", "encoder_decoder"])
def test_every_method_trains_copies_and_is_deterministic(form):
    space = find_space("altup", "tiny", {"form": form, "context": 24, "layers": 3, **SMALL})
    torch.manual_seed(0)
    batch = space.example_input(2)
    for name, configuration in configurations(space, (4,)):
        torch.manual_seed(0)
        model = space.build(configuration)
        model(**batch).backward()
        without = [n for n, p in model.named_parameters() if p.grad is None]
        # What starts at zero has a gradient, too; routers behind it get theirs from the second step on.
        assert not without, (name, without)
        model.zero_grad()
        twin = copy.deepcopy(model).eval()
        assert torch.equal(model.eval()(**batch), twin(**batch)), name
        assert float(model(**batch).detach()) == pytest.approx(np.log(300), rel=0.2)


@pytest.mark.parametrize("form", ["decoder", "encoder_decoder"])
def test_a_training_step_of_every_method_is_covered(form):
    space = find_space("altup", "tiny", {"form": form, "context": 24, "layers": 3, **SMALL})
    for name, configuration in counted(space, (4,)):
        with torch.device("meta"):
            step = count_training_step(space.build(configuration), space.example_input(2))
        assert step is not None
        assert step.coverage == 1, (name, step.uncovered)
        assert step.total == pytest.approx(3 * space.forward_flops(configuration, 2), rel=0.15), name


def test_later_tokens_never_change_earlier_logits():
    options = {"context": 24, "width": 32, "hidden": 48, "vocabulary": 300, "top_k": 2, "capacity_factor": 0.6}
    space = find_space("altup", "tiny", options)
    tokens = torch.randint(300, (1, 24))
    changed = tokens.clone()
    changed[:, 13:] = (changed[:, 13:] + 7) % 300
    for name, configuration in configurations(space, (4,)):
        torch.manual_seed(0)
        model = space.build(configuration).eval()
        before, after = model.logits(tokens), model.logits(changed)
        if " experts" in name and configuration.get("experts"):
            # Which tokens found a seat is the same; the number of seats does not depend on the tokens.
            assert torch.allclose(before[:, :13], after[:, :13], atol=1e-5), name
        else:
            assert torch.allclose(before[:, :13], after[:, :13], atol=1e-6), name
        assert not torch.allclose(before[:, 13:], after[:, 13:], atol=1e-2)


def test_full_altup_with_equal_blocks_is_the_dense_model():
    """K copies of a dense embedding side by side, each output block a K-th of the dense table."""
    space = find_space("altup", "tiny", {"context": 24})
    torch.manual_seed(0)
    dense = space.build(space.published["dense"])
    for streams in (2, 4):
        wide = space.build(space.configuration({**space.reference, "streams": streams}))
        state = {}
        for name, value in dense.state_dict().items():
            if name.startswith("stack."):
                index, rest = name.removeprefix("stack.").split(".", 1)
                state[f"stack.{index}.layer.{rest}"] = value
            elif name == "embedding.table.weight":
                state[name] = value.repeat(1, streams)
            elif name == "unembedding.table.weight":
                state[name] = value.repeat(1, streams) / streams
            else:
                state[name] = value.repeat(streams)
        missing, unexpected = wide.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("coefficients" in name for name in missing)
        tokens = torch.randint(1024, (2, 24))
        assert torch.allclose(wide.logits(tokens), dense.logits(tokens), atol=1e-5)


def test_recycled_altup_and_hyper_connections_start_as_the_dense_model_to_the_bit():
    space = find_space("altup", "tiny", {"context": 24})
    tokens = torch.randint(1024, (2, 24))
    torch.manual_seed(0)
    expected = space.build(space.published["dense"]).logits(tokens)
    for name in ("recycled-altup", "shc-2", "dhc-4"):
        torch.manual_seed(0)
        assert torch.equal(space.build(space.published[name]).logits(tokens), expected), name


def test_sum_is_dense_with_the_sum_of_its_blocks():
    space = find_space("altup", "tiny", {"context": 24})
    model = space.build(space.published["sum"])
    dense = space.build(space.published["dense"])
    table = model.embedding.table.weight
    state = {**model.state_dict(), "embedding.table.weight": table[:, :64] + table[:, 64:]}
    dense.load_state_dict(state)
    tokens = torch.randint(1024, (2, 24))
    assert torch.allclose(model.logits(tokens), dense.logits(tokens), atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("capacity_factor", [10.0, 0.7])
def test_a_mixture_is_what_a_loop_over_tokens_makes(top_k, capacity_factor):
    torch.manual_seed(0)
    sizes = ExpertSizes(4, 24, top_k, capacity_factor)
    mixture = MixtureOfExperts(16, sizes)
    x = torch.randn(3, 10, 16)
    made = mixture(x)
    capacity, taken = sizes.capacity(30), dict.fromkeys(range(4), 0)
    for token, row in enumerate(x.flatten(0, 1)):
        gates, chosen = (row @ mixture.router.T).softmax(-1).topk(top_k)
        expected = torch.zeros(16)
        for gate, expert in zip(gates, chosen.tolist(), strict=True):
            taken[expert] += 1
            if taken[expert] <= capacity:
                hidden = torch.nn.functional.gelu(row @ mixture.gate[expert], approximate="tanh")
                expected = expected + gate * ((hidden * (row @ mixture.up[expert])) @ mixture.down[expert])
        assert torch.allclose(made.flatten(0, 1)[token], expected, atol=1e-5)
    balance = mixture.take_balance()
    assert balance.requires_grad
    assert mixture.take_balance() is None


def test_the_balance_loss_is_one_when_even_and_the_number_of_experts_when_all_go_to_one():
    mixture = MixtureOfExperts(4, ExpertSizes(4, 8))
    with torch.no_grad():
        mixture.router.copy_(100 * torch.eye(4))
    mixture(torch.eye(4).repeat(5, 1))
    assert float(mixture.take_balance().detach()) == pytest.approx(1)
    mixture(torch.eye(4)[:1].repeat(5, 1))
    assert float(mixture.take_balance().detach()) == pytest.approx(4)


def test_settings_that_build_one_function_are_one_configuration():
    space = find_space("altup", "tiny")
    dense = space.published["dense"]
    sizes = {"layers": 4, "width": 64, "experts": 0}
    altup = {"coefficients": "per_token", "selection": "same", **sizes}
    assert space.configuration({"method": "altup", "streams": 1, **altup}) == dense
    assert space.configuration({"method": "recycled", "streams": 1, **altup}) == dense
    assert space.configuration({"method": "sum", "streams": 1, **sizes}) == dense
    assert space.configuration({"method": "sequence", "stride": 1, **sizes}) == dense
    assert space.configuration({"method": "sequence", "stride": 4, **sizes, "layers": 2})["method"] == "dense"
    wide = space.configuration({"method": "dense_wide", "streams": 2, **sizes})
    assert wide == space.configuration({"method": "dense", **sizes, "width": 128})
    widest = space.configuration({"method": "dense_wide", "streams": 8, **sizes})
    assert widest["method"] == "dense_wide"
    assert space.plan(widest).width == 512
    one = {"method": "hyper_connections", "streams": 1, "coefficients": "static", **sizes}
    assert space.configuration(one)["method"] == "hyper_connections"
    assert space.reference["streams"] == 2


def test_every_proposal_builds():
    space = find_space("altup", "tiny", {"context": 16, "vocabulary": 300})
    rng = np.random.default_rng(0)
    for _ in range(12):
        configuration = space.random(rng)
        model = on_meta(space, configuration)
        with torch.device("meta"):
            assert model(**space.example_input(2)).shape == ()
        assert space.configuration(configuration.as_dict()) == configuration


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        ({}, {"streams": 9}, "streams: 9 is not allowed; use an integer from 1 to 8"),
        ({}, {"streams": 0}, "streams: 0 is not allowed"),
        ({}, {"width": 40}, "width: 40 is not allowed; use an integer from 16 to 256 in steps of 16"),
        ({}, {"method": "altdown"}, "method: 'altdown' is not allowed"),
        ({}, {"stride": 4}, "stride: applies only with method = sequence"),
        ({"width": 40}, {}, "width: 40 is not a multiple of head_width 16"),
        ({"head_width": 5, "width": 40}, {}, "head_width: 5 is odd"),
        ({"top_k": 4}, {"experts": 2}, "experts: 2 are fewer than the top_k 4"),
        ({"vocabulary": 100}, {}, "space.options.vocabulary: input should be greater"),
    ],
)
def test_bad_values_are_refused_in_one_line(options, values, message):
    def make():
        space = find_space("altup", "tiny", options)
        return space.configuration({**space.reference, **values})

    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_stride_longer_than_the_sequence_is_refused():
    space = find_space("altup", "tiny", {"context": 8, "layers": 2})
    with pytest.raises(InputError, match="stride: 12 is longer than the sequence of 8 tokens"):
        space.configuration({"method": "sequence", "stride": 12, "layers": 4, "width": 64, "experts": 0})
