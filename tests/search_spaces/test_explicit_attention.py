"""Attention by products is PyTorch's attention, and stands in for it where that is slow."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from naslab.search_spaces.common.training.explicit import ExplicitForms
from naslab.search_spaces.common.training.explicit_attention import LONGEST, explicit_attention
from naslab.search_spaces.common.training.policy import Policy

CPU = torch.device("cpu")
B, H, T, S, K = 2, 3, 5, 7, 4


def parts(dtype=torch.float64, length=S):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, T, K), (B, H, length, K), (B, H, length, 2 * K))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def masks():
    generator = torch.Generator().manual_seed(1)
    seen = torch.rand(B, 1, T, S, generator=generator) < 0.6
    seen[..., 0] = True
    one_blind = seen.clone()
    one_blind[0, :, 2] = False
    return {
        "none": {},
        "causal": {"is_causal": True},
        "keys": {"attn_mask": seen[:, :, :1]},
        "pairs": {"attn_mask": seen},
        "a query that sees nothing": {"attn_mask": one_blind},
        "added": {"attn_mask": torch.randn(T, S, generator=generator, dtype=torch.float64)},
        "added, a query that sees nothing": {
            "attn_mask": torch.zeros(B, 1, T, S, dtype=torch.float64).masked_fill(~one_blind, -torch.inf)
        },
    }


@pytest.mark.parametrize(("name", "scale"), list(itertools.product(masks(), (None, 0.3))))
def test_results_and_gradients_are_pytorchs(name, scale):
    options = {**masks()[name], "scale": scale}
    found = []
    for attend in (explicit_attention, F.scaled_dot_product_attention):
        given = parts()
        result = attend(*given, **options)
        weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        found.append([result, *torch.autograd.grad((result * weights).sum(), given)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dropout_keeps_the_mean_and_drops_weights():
    torch.manual_seed(0)
    query, key, value = (part.detach() for part in parts())
    one = explicit_attention(query, key, torch.ones_like(value), dropout_p=0.5)
    assert not torch.allclose(one, torch.ones_like(one))
    many = explicit_attention(query.expand(4000, -1, H, T, K)[:, 0], key[0], torch.ones_like(value)[0], dropout_p=0.5)
    # Each is a sum of S weights, doubled or dropped: its variance is at most the sum of squared weights, at most 1.
    assert (many.mean(0) - 1).abs().max() < 6 / 4000**0.5


def asked(policy, length=S):
    """What runs within the policy's forward: operations by name."""
    query, key, value = parts(torch.float32, length)
    with torch.profiler.profile() as profile, policy.forward(CPU):
        F.scaled_dot_product_attention(query, key, value[..., :K])
    return {event.key for event in profile.key_averages()}


FUSED = "aten::scaled_dot_product_attention"


def test_short_attention_in_bfloat16_is_explicit_on_a_cpu():
    assert FUSED not in asked(Policy("bfloat16"))
    assert "aten::softmax" in asked(Policy("bfloat16"))


@pytest.mark.parametrize("policy", [Policy(), Policy("bfloat16", recompute=True)], ids=str)
def test_elsewhere_it_is_pytorchs(policy):
    assert FUSED in asked(policy)


def test_long_attention_is_pytorchs():
    assert FUSED in asked(Policy("bfloat16"), LONGEST + 1)
    assert FUSED not in asked(Policy("bfloat16"), LONGEST)


def test_nothing_is_left_behind():
    with pytest.raises(RuntimeError), Policy("bfloat16").forward(CPU):
        raise RuntimeError
    assert not torch.is_autocast_enabled("cpu")
    assert FUSED in asked(Policy())


def test_bfloat16_is_as_near_as_its_inputs_are():
    """Inputs, scores' operands, weights and result are rounded: to 2^-9 of themselves each."""
    query, key, value = (part.detach().clamp(-2, 2) for part in parts())
    exact = F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", torch.bfloat16), ExplicitForms():
        near = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
    assert near.dtype == torch.bfloat16
    unit = 2.0**-8
    scores = 4 * K * K**-0.5  # the largest that |q k| / sqrt(K) can be; an error e in scores moves a weight by e^(2e)
    error = 3 * unit * scores
    bound = 2 * (torch.tensor(2 * error).expm1().item() + 3 * unit)
    assert (near.double() - exact).abs().max() < bound


def test_grouped_queries_are_pytorchs():
    query, key, value = parts(torch.float32)
    with Policy("bfloat16").forward(CPU):
        result = F.scaled_dot_product_attention(query, key[:, :1], value[:, :1], enable_gqa=True)
    assert result.shape == (B, H, T, 2 * K)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_sequences_of_several_lengths_are_pytorchs(layout):
    nested = torch.nested.nested_tensor([torch.zeros(H, 1, K), torch.ones(H, 2, K)])
    if layout == torch.jagged:
        parts = [torch.zeros(1, H, K), torch.ones(2, H, K)]
        nested = torch.nested.nested_tensor(parts, layout=layout).transpose(1, 2)
    with Policy("bfloat16").forward(CPU):
        result = F.scaled_dot_product_attention(nested, nested, nested)
    for found, value in zip(result.unbind(), (0.0, 1.0), strict=True):
        assert torch.equal(found.float(), torch.full_like(found, value, dtype=torch.float32))


def test_masks_of_pytorchs_own_kind_are_pytorchs():
    query, key, value = parts(torch.float32)
    with Policy("bfloat16").forward(CPU):
        own, plain = (
            F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            for mask in (causal_lower_right(T, S), torch.ones(T, S, dtype=torch.bool).tril(S - T))
        )
    torch.testing.assert_close(own, plain, rtol=2**-5, atol=2**-5)


def test_tokens_without_features_see_all_keys_alike():
    query, key, value = torch.zeros(B, H, T, 0), torch.zeros(B, H, S, 0), torch.ones(B, H, S, K)
    with Policy("bfloat16").forward(CPU):
        result = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(result.float(), torch.ones(B, H, T, K), rtol=2**-7, atol=0)


@pytest.mark.parametrize("wrong", [{"dtype": torch.bool, "is_causal": True}, {"dtype": torch.int32}], ids=str)
def test_a_mask_that_pytorch_refuses_is_refused(wrong):
    """Two masks, of which one would be left out, and numbers that might mean either kind."""
    query, key, value = parts(torch.float32)
    mask = torch.ones(T, S, dtype=wrong["dtype"])
    with pytest.raises(RuntimeError, match="attn_mask"), Policy("bfloat16").forward(CPU):
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal="is_causal" in wrong)
