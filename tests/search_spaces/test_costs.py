"""The closed costs against the operator counter on the modules themselves."""

import pytest
import torch
from torch import nn

from naslab.efficiency import count_forward
from naslab.search_spaces.common import costs
from naslab.search_spaces.common.modules.vit import Sizes, make_blocks


def counted(module, *inputs, **named):
    return count_forward(module, (*inputs,) if not named else {**named}).total / 2


@pytest.mark.parametrize(("tokens", "sizes"), [(7, Sizes(24, 2, 3, 48)), (50, Sizes(64, 3, 4, 256))])
def test_a_stack_of_blocks(tokens, sizes):
    found = counted(make_blocks(sizes), torch.randn(1, tokens, sizes.width))
    assert found == sizes.multiply_adds(tokens)
    assert found == sizes.depth * costs.block(tokens, sizes.width, sizes.hidden)


def test_a_block_whose_mlp_sees_fewer_tokens():
    (block,) = make_blocks(Sizes(24, 1, 3, 96))
    whole, few = torch.randn(1, 9, 24), torch.randn(1, 4, 24)
    expected = counted(block.attn, whole) + counted(block.mlp, few)
    assert costs.block(9, 24, 96, left=4) == expected
    assert costs.stack([(9, 4), (4, 4)], 24, 96) == expected + counted(block, few)


def test_attention_across_to_wider_tokens():
    attention = nn.MultiheadAttention(16, 4, kdim=24, vdim=24, batch_first=True)
    queries, keys = torch.randn(1, 5, 16), torch.randn(1, 11, 24)
    found = counted(attention, query=queries, key=keys, value=keys)
    assert costs.attention(5, 16, keys=11, key_width=24) == found


def test_gated_and_plain():
    gate = nn.Linear(8, 20)
    assert costs.linear(3, 8, 20) == counted(gate, torch.randn(3, 8))
    assert costs.mlp(3, 8, 20) == 2 * counted(gate, torch.randn(3, 8))
    assert costs.mlp(3, 8, 20, gated=True) == 3 * counted(gate, torch.randn(3, 8))
