"""FLOP counts against formulas worked out by hand."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from naslab.efficiency import InputError, Work, count, count_forward, count_training_step, register_formula
from naslab.efficiency.formulas import FORMULAS


def test_linear_is_two_flops_a_multiply_add():
    counted = count_forward(nn.Linear(7, 11), torch.randn(3, 7))
    assert counted.total == 2 * 3 * 7 * 11
    assert counted.work.pointwise == 3 * 11  # the bias
    assert (counted.coverage, counted.uncovered) == (1.0, ())


@pytest.mark.parametrize("groups", [1, 3])
def test_convolution(groups):
    layer = nn.Conv2d(6, 9, (3, 5), stride=2, padding=1, groups=groups)
    images = torch.randn(2, 6, 13, 17)
    height, width = layer(images).shape[2:]
    assert count_forward(layer, images).total == 2 * 2 * height * width * 9 * (6 // groups) * 3 * 5


def test_transposed_convolution_counts_at_the_input():
    layer = nn.ConvTranspose2d(6, 4, 3, stride=2)
    assert count_forward(layer, torch.randn(2, 6, 5, 7)).total == 2 * 2 * 5 * 7 * 6 * 4 * 9


def test_first_convolution_has_no_input_gradient():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3))
    images = torch.randn(2, 3, 9, 9)
    first, second = 2 * 2 * 49 * 5 * 3 * 9, 2 * 2 * 25 * 7 * 5 * 9
    assert count_training_step(model, images).total == 3 * (first + second) - first


def test_training_step_of_an_mlp_is_three_forwards_less_the_first_input_gradient():
    model = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 4))
    inputs = torch.randn(5, 6)
    forward = count_forward(model, inputs).total
    assert forward == 2 * 5 * (6 * 10 + 10 * 4)
    step = count_training_step(model, inputs)
    assert step.total == 3 * forward - 2 * 5 * 6 * 10
    assert step.coverage == 1.0


@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_the_cpu_is_counted_forward_and_backward(causal):
    batch, heads, queries, keys, width = 2, 3, 9, 9, 8
    q, k, v = (torch.randn(batch, heads, n, width, requires_grad=True) for n in (queries, keys, keys))
    product = 2 * batch * heads * queries * keys * width

    def step():
        F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()

    counted = count(step)
    # Two products forward; backward computes the scores again and then four gradients.
    assert counted.total == (2 + 5) * product
    seen = batch * heads * queries * (queries + 1) // 2 * 2 * width if causal else product
    assert counted.work.effective == 7 * seen
    assert counted.coverage == 1.0


def test_cross_attention_with_more_queries_than_keys_and_a_causal_mask():
    q, k = torch.randn(1, 1, 5, 8), torch.randn(1, 1, 3, 8)
    counted = count(F.scaled_dot_product_attention, q, k, k, is_causal=True)
    assert counted.total == 2 * 2 * 5 * 3 * 8
    assert counted.work.effective == 2 * 2 * (1 + 2 + 3 + 3 + 3) * 8


def test_fused_multi_head_attention_equals_the_parts():
    layer, tokens = nn.MultiheadAttention(16, 4, batch_first=True).eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        fused = count(layer, tokens, tokens, tokens)
    assert "_native_multi_head_attention" in fused.by_operation
    assert fused.total == 8 * 2 * 5 * 16**2 + 4 * 2 * 5 * 5 * 16


def test_fused_encoder_layer_equals_its_unfused_training_form():
    layer, tokens = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True), torch.randn(2, 5, 16)
    fused = count_forward(layer, tokens)
    assert "_transformer_encoder_layer_fwd" in fused.by_operation
    assert fused.total == count(layer.train(), tokens).total > 0


def test_fused_encoder_layer_skips_padding_as_the_nested_kernel_does():
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2)
    tokens = torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    counted = count_forward(layers, {"src": tokens, "src_key_padding_mask": padding})
    assert counted.total == 2 * (8 * 8 * 16**2 + 4 * (5**2 + 3**2) * 16 + 4 * 8 * 16 * 24)


def test_grouped_query_attention_counts_every_query_head():
    query, key = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    counted = count(lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=True))
    assert counted.total == 2 * 2 * 4 * 5 * 5 * 8


def test_inference_mode_sees_the_same():
    model, inputs = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4)), torch.randn(5, 6)
    with torch.inference_mode():
        counted = count(model, inputs)
    assert counted.total == count_forward(model, inputs).total
    assert counted.coverage == 1.0


def test_recurrent_layer():
    counted = count_forward(nn.LSTM(6, 10, num_layers=2), torch.randn(7, 3, 6))
    assert counted.total == 2 * 7 * 3 * 4 * 10 * ((6 + 10) + (10 + 10))


def test_einsum():
    counted = count(torch.einsum, "bij,bkj->bik", torch.randn(2, 3, 4), torch.randn(2, 5, 4))
    assert counted.total == 2 * 2 * 3 * 5 * 4


def test_einsum_is_a_kind_of_its_own_forward_and_backward():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 4))
            self.linear = nn.Linear(5, 6)

        def forward(self, inputs):
            return self.linear(torch.einsum("bj,ij->bi", inputs, self.weight))

    before = torch.functional._VF.einsum
    counted = count_training_step(Both(), torch.ones(3, 4))
    assert counted.by_kind["einsum"].contraction == 2 * (2 * 3 * 4 * 5)
    assert counted.by_kind["matrix product"].contraction == 3 * (2 * 3 * 5 * 6)
    assert count_forward(Both().to("meta"), torch.ones(3, 4, device="meta")).by_kind["einsum"].contraction == 120
    assert torch.functional._VF.einsum is before or "einsum" not in vars(torch.functional._VF)


def test_vision_transformer_by_hand():
    model, images = timm.create_model("vit_tiny_patch16_224"), torch.randn(2, 3, 224, 224)
    tokens, width, hidden, batch = 196 + 1, 192, 768, 2
    block = tokens * width * (4 * width + 2 * hidden) + 2 * tokens**2 * width
    multiply_adds = 196 * 3 * 16 * 16 * width + 12 * block + width * 1000
    counted = count_forward(model, images)
    assert counted.total == 2 * batch * multiply_adds
    assert counted.coverage == 1.0
    assert counted.by_module["blocks.3"].contraction == 2 * batch * block
    assert counted.by_module[""] == counted.work


def test_convolutional_network_agrees_with_torch():
    model, images = timm.create_model("resnet10t").eval(), torch.randn(1, 3, 96, 96)
    with FlopCounterMode(display=False) as theirs:
        model(images)
    assert count_forward(model, images).total == theirs.get_total_flops() > 0


def test_interpolation_and_sampling_are_pointwise():
    counted = count(F.grid_sample, torch.randn(1, 3, 4, 4), torch.rand(1, 5, 6, 2), align_corners=False)
    assert counted.work == Work(0, 30 * (10 + 2 * 4 * 3))
    assert count(F.max_pool2d, torch.randn(2, 3, 8, 8), 2).work == Work(0, 2 * 3 * 4 * 4 * 4)


def test_unknown_operations_lower_the_coverage_and_are_named():
    counted = count(lambda: torch.linalg.svd(torch.ones(4, 4)))
    assert counted.uncovered == ("_linalg_svd",)
    assert counted.coverage_by["operations"] == 1 / 2
    assert counted.coverage_by["elements"] == pytest.approx(16 / (16 + 36))
    # Ones are written; the decomposition reads them and writes two matrices and a vector.
    assert counted.coverage_by["bytes"] == pytest.approx(16 / (16 + 16 + 36))
    assert counted.coverage == min(counted.coverage_by.values())


def test_custom_operation_with_a_formula_of_its_own():
    @torch.library.custom_op("naslab_test::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    assert count(double, torch.ones(3, 5)).uncovered == ("naslab_test::double",)
    register_formula("naslab_test::double", lambda call: Work(pointwise=call.elements))
    try:
        counted = count(double, torch.ones(3, 5))
    finally:
        del FORMULAS["naslab_test::double"]
    assert counted.work == Work(pointwise=15)
    assert counted.coverage == 1.0


def test_counting_on_meta_equals_counting_on_the_cpu():
    model = timm.create_model("resnet10t")
    expected = count_training_step(model, torch.randn(2, 3, 64, 64))
    counted = count_training_step(model.to("meta"), torch.randn(2, 3, 64, 64, device="meta"))
    assert counted.total == expected.total


def test_counting_leaves_the_model_and_the_random_state_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5))
    images = torch.randn(4, 3, 8, 8)
    model(images).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    count_forward(model, images)
    count_training_step(model, images)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_a_failing_forward_leaves_no_hooks():
    with pytest.raises(RuntimeError):
        count_forward(nn.Linear(3, 4), torch.ones(2, 5))
    assert not torch.nn.modules.module._global_forward_hooks


def test_no_training_step_where_there_is_nothing_to_train_or_one_sample_for_batch_norm():
    assert count_training_step(nn.ReLU(), torch.ones(2, 3)) is None
    assert count_training_step(nn.BatchNorm1d(3), torch.ones(1, 3)) is None


def test_backward_work_belongs_to_the_module_whose_gradient_it_is():
    model = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4))
    counted = count_training_step(model, torch.randn(5, 6))
    assert counted.by_module["0"].contraction == 2 * 5 * 6 * 10
    assert counted.backward_by_module["0"].contraction == 2 * 5 * 6 * 10  # weights only: nothing before it
    assert counted.backward_by_module["2"].contraction == 2 * 2 * 5 * 10 * 4
    assert counted.backward_by_module["1"].pointwise > 0
    assert counted.backward_by_module[""].contraction == counted.by_phase["backward"].contraction


def test_checkpointed_modules_keep_their_recomputed_forward():
    from torch.utils.checkpoint import checkpoint

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
            self.second = nn.Linear(6, 4)

        def forward(self, inputs):
            return self.second(checkpoint(self.first, inputs, use_reentrant=False))

    counted = count_training_step(Saving(), torch.randn(5, 6, requires_grad=True))
    product = 2 * 5 * 6 * 6
    assert counted.backward_by_module["first"].contraction == 5 * product
    # Each layer's two gradients, and the forward of the first again; that of the second is not needed.


def test_kinds_stand_in_columns_of_their_own():
    model = nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 3), nn.ReLU())
    kinds = count_forward(model, torch.arange(5)).by_kind
    assert kinds["matrix product"].contraction == 2 * 5 * 8 * 3
    assert kinds["normalisation"].pointwise == 8 * 5 * 8
    assert (kinds["embedding"], kinds["elementwise"].pointwise) == (Work(), 5 * 3)


def test_bytes_are_every_operand_once():
    counted = count_forward(nn.Linear(7, 11), torch.randn(3, 7))
    assert counted.bytes_moved == 4 * (3 * 7 + 7 * 11 + 11 + 3 * 11)
    rows = count_forward(nn.Embedding(1000, 8), torch.arange(5))
    assert rows.bytes_moved == 2 * 4 * 5 * 8 + 8 * 5  # the rows read and written, not the table
    expanded = torch.ones(1, 7).expand(3, 7)
    assert count(torch.add, expanded, expanded).bytes_moved == 4 * (7 + 3 * 7)


def test_a_mask_given_as_a_tensor_lowers_the_effective_work():
    q, mask = torch.randn(2, 3, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()
    counted = count(F.scaled_dot_product_attention, q, q, q, attn_mask=mask)
    assert counted.total == 2 * 2 * 2 * 3 * 25 * 8
    assert counted.work.effective == 2 * 2 * 2 * 3 * 15 * 8


def test_pruned_weights_lower_the_effective_work():
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight[:, :2] = 0
    counted = count_forward(layer, torch.randn(3, 8))
    assert counted.work.effective == 2 * 3 * 6 * 4 < counted.total


def test_attention_on_meta_is_the_fused_one_forward_and_backward():
    model = timm.create_model("vit_tiny_patch16_224").to("meta")
    images = torch.empty(2, 3, 224, 224, device="meta")
    real = timm.create_model("vit_tiny_patch16_224")
    there = count_training_step(real, torch.randn(2, 3, 224, 224))
    counted = count_training_step(model, images)
    assert (counted.total, counted.work.pointwise) == (there.total, there.work.pointwise)
    assert counted.bytes_moved == pytest.approx(there.bytes_moved, rel=0.01)  # 2.11 hands other small tensors back
    assert counted.by_kind["attention"].contraction == 12 * 7 * 2 * 3 * 2 * 197**2 * 64
    assert counted.coverage == 1.0


def test_optimiser_step_is_pointwise_work_of_its_own():
    model = nn.Linear(8, 4)
    plain = count_training_step(model, torch.randn(3, 8))
    counted = count_training_step(model, torch.randn(3, 8), torch.optim.AdamW)
    assert counted.total == plain.total
    assert counted.by_phase["optimiser"].pointwise >= 8 * 36
    assert counted.coverage == 1.0


def test_compiled_parts_are_counted_by_their_operations():
    model = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 4))
    model[0] = torch.compile(model[0])
    assert count_forward(model, torch.randn(5, 6)).total == 2 * 5 * (60 + 40)


def test_flex_attention_counts_the_blocks_that_its_mask_leaves():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q = torch.randn(1, 2, 256, 16)
    blocks = create_block_mask(lambda b, h, i, j: i >= j, None, None, 256, 256, device="cpu", BLOCK_SIZE=128)
    counted = count(flex_attention, q, q, q, block_mask=blocks)
    assert counted.coverage == 1.0
    assert counted.total == 2 * 2 * 2 * 3 * 128**2 * 16


def test_quantised_layers_are_counted():
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 4)), {nn.Linear})
    counted = count_forward(model, torch.randn(3, 8))
    assert (counted.total, counted.coverage) == (2 * 3 * 8 * 4, 1.0)


def test_wrappers_are_opened_or_refused_with_a_reason():
    layer, inputs = nn.Linear(6, 4), torch.randn(5, 6)
    spread = nn.DataParallel(layer)  # on the first GPU, where there is one
    assert count_forward(spread, inputs.to(layer.weight.device)).total == 2 * 5 * 24
    layer.cpu()
    with pytest.raises(InputError, match="TorchScript"):
        count_forward(torch.jit.trace(layer, inputs), inputs)
