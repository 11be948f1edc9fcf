import copy

import pytest
import timm
import torch
from torch import nn
from transformers import T5Config
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextAltUp
from transformers.models.t5.modeling_t5 import T5Stack

from naslab.errors import InputError
from naslab.kernels import altup
from naslab.search_spaces.altup.coefficients import PerTokenCoefficients
from naslab.search_spaces.altup.hyper_connections import HyperConnections
from naslab.search_spaces.altup.model import Dense
from naslab.search_spaces.altup.stack import AltUpStack, SequenceAltUpLayer, collapsed, expanded
from naslab.search_spaces.common.modules.gated_transformer import Block, BlockSizes, context

WIDTH, LENGTH = 16, 12
VARIANTS = [
    (k, selection, coefficients)
    for k in (2, 3, 4)
    for selection in ("alternating", "same")
    for coefficients in ("static", "per_token")
]


def blocks(number=5, causal=True):
    torch.manual_seed(0)
    return [Block(BlockSizes(WIDTH, 8, 24, causal)) for _ in range(number)]


def inputs():
    return torch.randn(2, LENGTH, WIDTH), context(LENGTH, 8, torch.device("cpu"))


def disturbed(module, by=0.3):
    """All coefficients away from the identity."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".layer." not in name and "blocks" not in name:
                parameter.add_(by * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("causal", [True, False])
def test_at_its_start_a_wrapped_stack_is_the_plain_one_to_the_bit(variant, causal):
    k, selection, coefficients = variant
    plain = blocks(causal=causal)
    x, here = inputs()
    wrapped = AltUpStack(plain, k, selection, coefficients, width=WIDTH)
    assert torch.equal(wrapped(x, here), Dense(*plain)(x, here))


@pytest.mark.parametrize("variant", VARIANTS)
def test_t5_encoder_and_decoder_stay_the_same_to_the_bit_and_then_change(variant):
    k, selection, coefficients = variant
    for decoder in (False, True):
        config = T5Config(
            vocab_size=50, d_model=WIDTH, d_kv=8, num_heads=2, d_ff=24, num_layers=4, is_decoder=decoder,
            feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False,
        )  # fmt: skip
        torch.manual_seed(0)
        stack = T5Stack(config).eval()
        tokens = torch.randint(50, (2, LENGTH))
        given = {"input_ids": tokens}
        if decoder:
            given["encoder_hidden_states"] = torch.randn(2, 7, WIDTH)
        before = stack(**given).last_hidden_state
        stack.block = AltUpStack(stack.block, k, selection, coefficients, width=WIDTH)
        assert torch.equal(stack(**given).last_hidden_state, before)
        disturbed(stack.block)
        assert not torch.allclose(stack(**given).last_hidden_state, before, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_vit_of_timm_stays_the_same_to_the_bit_and_then_trains(variant):
    k, selection, coefficients = variant
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=WIDTH, depth=4, num_heads=2, num_classes=5
    ).eval()
    images = torch.randn(2, 3, 32, 32)
    before = vit(images)
    vit.blocks = AltUpStack(vit.blocks, k, selection, coefficients, width=WIDTH)
    assert torch.equal(vit(images), before)
    vit(images).square().sum().backward()
    learned = [p for name, p in vit.blocks.named_parameters() if "coefficients" in name]
    assert sum(float(p.grad.abs().sum()) for p in learned if p.grad is not None) > 0


@pytest.mark.parametrize("selection", ["alternating", "same"])
def test_predict_compute_correct_as_the_paper_writes_it(selection):
    plain = blocks(3)
    wrapped = disturbed(AltUpStack(plain, 2, selection, expand="split", collapse="concatenate"))
    _, here = inputs()
    x = torch.randn(2, LENGTH, 2 * WIDTH)
    streams = list(x.chunk(2, -1))
    for index, layer in enumerate(plain):
        a = index % 2 if selection == "alternating" else 0
        p, g = wrapped[index].coefficients.p, wrapped[index].coefficients.g
        predicted = [sum(p[i, j] * streams[j] for j in range(2)) for i in range(2)]
        computed = layer(streams[a], here)
        streams = [predicted[i] + g[i] * (computed - predicted[a]) for i in range(2)]
    assert torch.allclose(wrapped(x, here), torch.cat(streams, -1), atol=1e-4)


@pytest.mark.parametrize("clip", [120.0, 0.05])
@pytest.mark.parametrize("training", [True, False])
def test_coefficients_per_token_are_gemma_3ns(clip, training):
    config = Gemma3nTextConfig(
        hidden_size=WIDTH, altup_num_inputs=4, altup_active_idx=0, altup_coef_clip=clip, rms_norm_eps=1e-6
    )
    torch.manual_seed(2)
    theirs = Gemma3nTextAltUp(config).train(training)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter))
    ours = PerTokenCoefficients(4, WIDTH, clip, output_scale=True).train(training)
    ours.load_state_dict(theirs.state_dict())
    streams, layer = torch.randn(4, 2, LENGTH, WIDTH, requires_grad=True), nn.Linear(WIDTH, WIDTH)
    twin = streams.detach().clone().requires_grad_()

    predicted = theirs.predict(streams)
    corrected = theirs.correct(predicted, layer(predicted[0]))
    expected = [predicted[0], corrected, theirs.scale_corrected_output(corrected[0])]

    prediction = ours.prediction(twin[0])
    seen = torch.einsum("blj,jbld->bld", prediction[..., 0, :], twin)
    computed = layer(seen)
    new = altup(twin, computed, prediction, ours.gain(computed), 0)
    found = [seen, new, ours.scale_output(new[0])]

    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=2e-5, rtol=1e-4)
    expected[1].square().sum().backward()
    found[1].square().sum().backward()
    assert torch.allclose(twin.grad, streams.grad, atol=1e-3, rtol=1e-3)
    of_theirs = dict(theirs.named_parameters())
    for name, a in ours.named_parameters():
        b = of_theirs[name]
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            assert torch.allclose(a, b), name
            assert torch.allclose(a.grad, b.grad, atol=1e-2, rtol=1e-3), name
    if clip == 0.05 and training:
        assert float(ours.prediction_coefs.weight.detach().abs().max()) == pytest.approx(clip)


def test_a_gemma_layer_sees_its_prediction():
    wrapped = disturbed(AltUpStack([nn.Identity()], 3, coefficients="per_token", width=WIDTH, collapse="sum"))
    layer = wrapped[0]
    x = torch.randn(2, LENGTH, WIDTH)
    seen = []
    layer.layer.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    wrapped(x)
    prediction = layer.coefficients.prediction(x)
    assert torch.allclose(seen[0], prediction[..., 0, :].sum(-1, keepdim=True) * x, atol=1e-5)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_hyper_connections_start_as_the_pre_norm_network_to_the_bit(dynamic, streams):
    plain = blocks()
    x, here = inputs()
    connected = HyperConnections(plain, streams, WIDTH, dynamic)
    assert torch.equal(connected(x, here), Dense(*plain)(x, here))


@pytest.mark.parametrize("dynamic", [False, True])
def test_hyper_connections_as_the_paper_writes_them(dynamic):
    """Algorithm 2: [h | H'] = [Am | Ar]^T H, H <- H' + B^T T(h), the dynamic part from each stream's norm."""
    plain = blocks(2)
    n = 3
    connected = disturbed(HyperConnections(plain, n, WIDTH, dynamic, collapse="sum"))
    x, here = inputs()
    h = x[:, :, None].expand(-1, -1, n, -1)
    branches = [branch for block in plain for branch in block.branches]
    for part, branch in zip(connected.connections, branches, strict=True):
        alpha = torch.cat([part.read[:, None], part.mix], 1)
        beta = part.write
        if dynamic:
            normed = nn.functional.layer_norm(h, (WIDTH,), part.norm.weight, part.norm.bias, part.norm.eps)
            alpha = alpha + part.scale * torch.tanh(normed @ part.weight[: n + 1].T)
            beta = beta + part.write_scale * torch.tanh(normed @ part.weight[n + 1])
        mixed = alpha.mT @ h
        h = mixed[..., 1:, :] + beta[..., None] * branch(mixed[..., 0, :], here)[:, :, None]
    assert torch.allclose(connected(x, here), h.sum(2), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 3, 4, 12])
def test_sequence_altup_as_the_paper_writes_it(stride):
    (block,) = blocks(1)
    layer = SequenceAltUpLayer(block, stride)
    x, here = inputs()
    if stride == 1:
        assert torch.equal(layer(x, here), block(x, here))
    with torch.no_grad():
        layer.scalars.copy_(torch.tensor([0.9, 0.2, 0.7]))
    computed = block(x[:, ::stride], here.thinned(stride))
    for i in range(LENGTH):
        s = stride * (i // stride)
        predicted, at_start = 0.9 * x[:, i] + 0.2 * x[:, s], 1.1 * x[:, s]
        expected = predicted + 0.7 * (computed[:, s // stride] - at_start)
        assert torch.allclose(layer(x, here)[:, i], expected, atol=1e-5)


def test_ends_of_a_stack():
    x = torch.randn(2, 5, 12)
    assert torch.equal(collapsed(expanded(x, 3, "split"), "concatenate"), x)
    assert torch.equal(expanded(x, 3, "split")[1], x[..., 4:8])
    for k in range(1, 9):
        assert torch.equal(collapsed(expanded(x, k, "replicate"), "mean"), x)
    assert torch.allclose(collapsed(expanded(x, 3, "replicate"), "sum"), 3 * x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AltUpStack([], 2), "layers: an AltUp stack needs at least one"),
        (lambda: AltUpStack(blocks(1), 0), "streams: 0 is not allowed"),
        (lambda: AltUpStack(blocks(1), 2, coefficients="per_token"), "width: coefficients per token"),
        (lambda: expanded(torch.zeros(2, 5, 12), 5, "split"), "streams: 5 does not divide the width 12"),
        (lambda: SequenceAltUpLayer(blocks(1)[0], 13)(*inputs()), "stride: 13 is longer than the sequence of 12"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_wrapped_stack_copies_saves_and_loads():
    x, here = inputs()
    wrapped = disturbed(AltUpStack(blocks(), 2))
    twin = copy.deepcopy(wrapped)
    fresh = AltUpStack(blocks(), 2)
    fresh.load_state_dict(wrapped.state_dict())
    assert torch.equal(twin(x, here), wrapped(x, here))
    assert torch.equal(fresh(x, here), wrapped(x, here))
