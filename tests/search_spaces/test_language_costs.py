"""The closed form of each language system's FLOPs is the counter's, at whatever sizes, of whatever configuration."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from naslab.efficiency import count_forward, count_training_step
from naslab.search_spaces import find_space
from naslab.search_spaces.dysi.networks import step_flops

HEADS = st.integers(1, 3)
HEAD_WIDTH = st.integers(1, 9)
LAYERS = st.integers(1, 3)
BATCH = st.sampled_from([1, 3])
SEEDS = st.integers(0, 2**16)
quickly = settings(max_examples=12, deadline=None)


def counted(space, configuration, batch):
    with torch.device("meta"):
        return count_forward(space.build(configuration), space.example_input(batch))


def drawn(space, seed):
    return space.random(np.random.default_rng(seed))


@quickly
@given(
    st.fixed_dictionaries({
        "vocabulary": st.integers(64, 130),
        "context": st.integers(8, 33),
        "layers": LAYERS,
        "head_width": HEAD_WIDTH,
        "budget": st.sampled_from(["exact", "at_least"]),
    }),
    HEADS, BATCH, SEEDS,
)  # fmt: skip
def test_pmlm(sizes, heads, batch, seed):
    width = heads * sizes["head_width"]
    if width < 2:
        width, sizes = 2, {**sizes, "head_width": 2}
    space = find_space("pmlm", "tiny", {**sizes, "width": width})
    configuration = drawn(space, seed)
    assert space.forward_flops(configuration, batch) == counted(space, configuration, batch).total


@quickly
@given(
    st.fixed_dictionaries({"vocabulary": st.integers(16, 130), "length": st.integers(8, 33), "heads": HEADS}),
    HEAD_WIDTH, BATCH, SEEDS,
)  # fmt: skip
def test_whole_word(sizes, head_width, batch, seed):
    space = find_space("whole_word", "tiny", {**sizes, "width": max(sizes["heads"] * head_width, 2 * sizes["heads"])})
    configuration = drawn(space, seed)
    assert space.forward_flops(configuration, batch) == counted(space, configuration, batch).total


@quickly
@given(
    st.fixed_dictionaries({
        "vocabulary": st.integers(64, 130), "length": st.integers(8, 33), "layers": LAYERS, "heads": HEADS,
        "shots": st.integers(2, 5),
    }),
    HEAD_WIDTH, BATCH, st.sampled_from(["standard", "prompt", "reference"]),
)  # fmt: skip
def test_lmbff(sizes, head_width, batch, name):
    width = max(sizes["heads"] * head_width, 2 * sizes["heads"])
    space = find_space("lmbff", "tiny", {**sizes, "width": width})
    configuration = {"reference": space.reference, **space.published}[name]
    assert space.forward_flops(configuration, batch) == counted(space, configuration, batch).total


@pytest.mark.parametrize("form", ["encoder_decoder", "decoder"])
@quickly
@given(
    sizes=st.fixed_dictionaries({
        "source_tokens": st.integers(1, 17), "target_tokens": st.integers(2, 17), "vocabulary": st.integers(259, 300),
        "layers": LAYERS, "heads": HEADS, "hidden": st.integers(1, 40),
    }),
    head_width=HEAD_WIDTH, batch=BATCH, seed=SEEDS,
)  # fmt: skip
def test_dysi(form, sizes, head_width, batch, seed):
    space = find_space("dysi", "tiny", {**sizes, "width": sizes["heads"] * head_width, "form": form, "dropout": 0.0})
    configuration = drawn(space, seed)
    assert space.forward_flops(configuration, batch) == counted(space, configuration, batch).total
    passes = int(configuration.get("passes", 1))
    with torch.device("meta"):
        step = count_training_step(space.build(configuration), space.example_input(batch))
    # A fused attention computes its scores once more in its backward, which is no work of the model; T5 fuses what has
    # no learned bias.
    source, target = sizes["source_tokens"], sizes["target_tokens"]
    fused = [(source + target) ** 2] if form == "decoder" else [0, target * source]
    unit = 2 * batch * sizes["layers"] * sizes["heads"] * head_width
    assert step.total - step_flops(space.options, batch, passes) in [unit * pairs for pairs in fused]
