"""What the authors' own code computes, recorded by benchmarks/s2s_ft_reference.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from naslab.search_spaces.common.modules.masked_lm import BertSizes
from naslab.search_spaces.common.modules.relative_bias import BiasSizes
from naslab.search_spaces.common.objectives.masked_blocks import Masking
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.pmlm.attention import step_codes, visible
from naslab.search_spaces.pmlm.generation import target_slots
from naslab.search_spaces.pmlm.model import Plan, PseudoMaskedLM

RECORD = json.loads(Path(__file__).with_name("s2s_ft.json").read_text(encoding="utf-8"))
CASES = pytest.mark.parametrize(
    "case", RECORD["cases"], ids=lambda c: f"{c['bias']}-{'spans' if c['spans'] else 'tokens'}"
)
SPECIAL = SpecialIds()


def batch(spans):
    random = np.random.RandomState(11)
    sources, targets, pseudo = (torch.tensor(random.randint(5, 40, shape)) for shape in ((3, 9), (3, 6), (3, 6)))
    for row, (source, target) in enumerate(((9, 6), (6, 3), (7, 5))):
        sources[row, source:], targets[row, target:] = SPECIAL.pad, SPECIAL.pad
    slots = target_slots(sources, targets, SPECIAL)
    if spans:
        steps = torch.tensor([[2, 2, 1, 3, 3, 3], [1, 2, 2, 3, 3, 3], [4, 3, 3, 1, 2, 5]])
        slots = slots._replace(steps_BM=steps.masked_fill(targets == SPECIAL.pad, 0))
    return sources, slots, pseudo


def model_of(case):
    sizes, random = RECORD["sizes"], np.random.RandomState(7)
    layers, heads = sizes["num_hidden_layers"], sizes["num_attention_heads"]
    body = BertSizes(sizes["vocab_size"], sizes["hidden_size"], layers, heads, 4 * sizes["hidden_size"], 512)
    plan = Plan(body, Masking(), bias=BiasSizes(case["buckets"], case["furthest"]) if case["buckets"] else None)
    model = PseudoMaskedLM(plan).double().eval()
    state = model.lm.state_dict()
    for name in case["names"]:
        # Theirs is a linear layer on one-hot buckets.
        own = model.relative_bias.table.weight.detach().T if name == "bert.rel_pos_bias.weight" else state[name]
        drawn = torch.tensor(random.standard_normal(own.shape))
        own.copy_(1 + 0.3 * drawn if name.endswith("LayerNorm.weight") else 0.5 * drawn)
    return model


@CASES
def test_the_mask_is_theirs(case):
    sources, slots, _ = batch(case["spans"])
    codes = step_codes(sources != SPECIAL.pad, slots.steps_BM)
    ours = visible(codes.queries_BT, codes.keys_BT)
    recorded = torch.tensor([[letter == "1" for letter in row] for row in case["mask"]]).view_as(ours)
    real = codes.keys_BT < 1 << 30
    assert real.any()
    both = real[:, :, None] & real[:, None, :]
    assert torch.equal(ours & both, recorded & both)
    # What is no padding sees no padding in either, but for the padded pseudo masks of theirs, which nothing else sees.
    assert not (ours & real[:, :, None] & ~real[:, None, :]).any()


@CASES
def test_the_loss_is_theirs(case):
    sources, slots, pseudo = batch(case["spans"])
    _, states = model_of(case).states(sources, slots, pseudo, slot_type=1)
    kept = slots.steps_BM > 0
    loss = torch.nn.functional.cross_entropy(model_of(case).logits(states)[kept], slots.originals_BM[kept])
    # They add 1e-5 to the number of tokens and -10,000 to what is not seen, and turn logits into float32.
    assert loss.item() == pytest.approx(case["loss"] * (1 + 1e-5 / int(kept.sum())), rel=1e-6)
