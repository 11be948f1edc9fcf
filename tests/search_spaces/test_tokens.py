"""Sparsified transformers against twins that hold every attention matrix; published counts: test_published.py."""

import copy
import math

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, VisionTransformer

from naslab.efficiency import count_training_step
from naslab.errors import InputError
from naslab.kernels._dispatch import switched
from naslab.search_spaces.common.modules.tokens import (
    MergingBlock,
    Reduction,
    SelectingBlock,
    anneal,
    merge_schedule,
    set_keep_rate,
    sparsify,
)


def tiny(seed=0, **options):
    """A ViT of 4 blocks over 5 x 5 patches, with layer scale and weights far from their start."""
    torch.manual_seed(seed)
    settings = {"img_size": 20, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 7}
    settings |= {"init_values": 0.5}
    model = VisionTransformer(**(settings | options)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def images(batch=3):
    torch.manual_seed(1)
    return torch.randn(batch, 3, 20, 20, dtype=torch.float64)


def naive_attention(block, x, sizes=None):
    """Tokens after attention, all its probabilities, and the keys."""
    attn = block.attn
    b, n, d = x.shape
    q, k, v = attn.qkv(block.norm1(x)).reshape(b, n, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attn.q_norm(q), attn.k_norm(k)
    logits = q @ k.mT * attn.scale
    if sizes is not None:
        logits = logits + sizes.log()[:, None, None]
    p = logits.softmax(-1)
    return x + block.ls1(attn.proj((p @ v).transpose(1, 2).reshape(b, n, d))), p, k


def naive_evit(model, x, rate, layers, fuse, prefix=1):
    x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    for n, block in enumerate(model.blocks):
        x, p, _ = naive_attention(block, x)
        if n in layers:
            score = p[:, :, 0, prefix:].mean(1)
            patches = x[:, prefix:]
            order = score.argsort(1, descending=True)
            kept = math.ceil(rate * score.shape[1])
            best, rest = (
                (i, patches.gather(1, i[..., None].expand(-1, -1, x.shape[2])))
                for i in order.split([kept, score.shape[1] - kept], 1)
            )
            parts = [x[:, :prefix], best[1]]
            if fuse:
                parts.append((rest[1] * score.gather(1, rest[0])[..., None]).sum(1, keepdim=True))
            x = torch.cat(parts, 1)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x))


def naive_tome(model, x, r, proportional):
    """One sample at a time; tokens are lists of original members, each of which counts once in an average."""
    x = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    sizes = torch.ones(x.shape[:2], dtype=x.dtype)
    for block in model.blocks:
        x, _, keys = naive_attention(block, x, sizes if proportional else None)
        samples = []
        for one, size, metric in zip(x, sizes, keys.mean(1), strict=True):
            metric = metric / metric.norm(dim=1, keepdim=True)
            similar = metric[::2] @ metric[1::2].T
            prefix = model.num_prefix_tokens
            merges = min(r, (len(one) - prefix) // 2)
            rows = range(prefix, len(similar))
            edges = sorted((-similar[i].max().item(), i, similar[i].argmax().item()) for i in rows)
            into = {i: j for _, i, j in edges[:merges]}
            # As published, without a class token the unmerged stand by falling similarity.
            order = range(len(similar)) if prefix else [i for _, i, _ in edges]
            groups = [[2 * i] for i in order if i not in into]
            groups += [[2 * j + 1, *(2 * i for i in into if into[i] == j)] for j in range(similar.shape[1])]
            weights = torch.zeros(len(groups), len(one), dtype=x.dtype)
            for row, group in enumerate(groups):
                weights[row, group] = size[group]
            samples.append((weights @ one / weights.sum(1, keepdim=True), weights.sum(1)))
        x, sizes = (torch.stack(parts) for parts in zip(*samples, strict=True))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    x = model.norm(x)
    if model.global_pool != "avg":
        return model.forward_head(x)
    first = 0 if model.pool_include_prefix else model.num_prefix_tokens
    weights = sizes[:, first:, None]
    return model.head(model.fc_norm((weights * x[:, first:]).sum(1) / weights.sum(1)))


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"qkv_bias": False}, {"reg_tokens": 3}], ids=str)
def test_selection_is_its_naive_twin(fuse, options):
    model = tiny(**options)
    expected = naive_evit(model, images(), 0.7, (1, 2), fuse, model.num_prefix_tokens)
    names = list(model.state_dict())
    sparse = sparsify(copy.deepcopy(model), 0.7, layers=(1, 2), fuse=fuse)
    torch.testing.assert_close(sparse(images()), expected)
    assert list(sparse.state_dict()) == names


def test_gradients_of_selection_are_the_twins():
    model = tiny()
    sparse = sparsify(copy.deepcopy(model), 0.5, layers=(1, 2))
    naive_evit(model, images(), 0.5, (1, 2), True).square().sum().backward()
    sparse(images()).square().sum().backward()
    for (name, a), b in zip(model.named_parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("r", [1, 4, 50])
def test_merging_is_its_naive_twin(r, proportional):
    model = tiny()
    expected = naive_tome(model, images(), r, proportional)
    sparse = sparsify(copy.deepcopy(model), rule="tome", r=r, proportional=proportional)
    torch.testing.assert_close(sparse(images()), expected)


AVERAGED = [{}, {"fc_norm": False}, {"class_token": False}, {"pool_include_prefix": True, "fc_norm": False}]


@pytest.mark.parametrize("options", AVERAGED, ids=str)
def test_an_average_counts_a_merged_token_once_for_each_patch(options):
    model = tiny(global_pool="avg", **options)
    expected = naive_tome(model, images(), 4, True)
    sparse = sparsify(copy.deepcopy(model), rule="tome", r=4)
    torch.testing.assert_close(copy.deepcopy(sparse)(images()), expected)
    sparse.set_grad_checkpointing()
    torch.testing.assert_close(sparse.train()(images()), expected)
    assert sparse.forward_features(images()).shape[1] < images()[0, 0].numel() // 16
    assert list(sparse.state_dict()) == list(model.state_dict())


def test_fused_kernels_give_the_same_model():
    model = tiny().float()
    for sparse in (sparsify(copy.deepcopy(model), 0.6, (0, 1, 2)), sparsify(copy.deepcopy(model), rule="tome", r=5)):
        outcomes = []
        for way in ("reference", "fused"):
            with switched(way):
                out = sparse(images().float())
                outcomes.append([out, *torch.autograd.grad(out.square().sum(), list(sparse.parameters()))])
        for a, b in zip(*outcomes, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.detach().abs().max()) + 1e-6)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_at_rate_one_nothing_changes(name):
    model = timm.create_model(name, img_size=64, num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(sparsify(copy.deepcopy(model), 1.0)(x), model(x))
    assert torch.equal(sparsify(copy.deepcopy(model), rule="tome", r=0)(x), model(x))


@pytest.mark.parametrize("rate", [0.55, 0.56, 0.58, 0.7, 1.0])
def test_what_is_counted_is_what_stays(rate):
    """100 x .55 is 55.000000000000007 in floating point, and so 56 in the published code."""
    torch.manual_seed(0)
    block = Block(8, 2)
    assert SelectingBlock(block, rate, False, 1)(torch.randn(1, 101, 8)).shape[1] == 1 + math.ceil(rate * 100)
    for rule, kept in (("evit", SelectingBlock(block, rate, True, 1)), ("tome", None)):
        reduction = Reduction(rule, (0,), rate)
        made = kept or MergingBlock(block, reduction.merges, 1, True, last=True)
        assert made(torch.randn(1, 101, 8)).shape[1] == 1 + reduction.left(100)


def test_a_training_step_is_covered():
    for sparse in (sparsify(tiny().float(), 0.6, (1, 2)), sparsify(tiny().float(), rule="tome", r=3)):
        step = count_training_step(sparse, images().float())
        assert step is not None
        assert step.coverage == 1, step.uncovered


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "pool"),
    [
        ({"keep_rate": 0.6, "layers": (0, 1)}, "token"),
        ({"rule": "tome", "r": 4}, "avg"),
    ],
    ids=str,
)
def test_it_copies_compiles_and_exports(arguments, pool):
    sparse = sparsify(tiny(depth=2, global_pool=pool).float(), **arguments)
    x = images().float()
    expected = sparse(x)
    assert torch.equal(copy.deepcopy(sparse)(x), expected)
    torch.compiler.reset()
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    program = torch.export.export(sparse, (x,))
    assert "naslab" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), expected)


@pytest.mark.slow
def test_an_annealed_rate_reaches_a_compiled_model():
    sparse = sparsify(tiny(depth=2).float(), 0.9, (0,))
    x = images().float()
    torch.compiler.reset()
    compiled = torch.compile(sparse, fullgraph=True, backend="eager")
    for rate in (0.9, 0.5, 0.3, 1.0):
        set_keep_rate(sparse, rate)
        torch.testing.assert_close(compiled(x), sparse(x))


def test_it_trains_under_autocast_and_checkpointing():
    for sparse in (sparsify(tiny().float(), 0.6, (1, 2)), sparsify(tiny().float(), rule="tome", r=4)):
        sparse.train()
        sparse.set_grad_checkpointing()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sparse(images().float()).float().square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in sparse.parameters())


def test_annealing_is_the_published_cosine():
    assert [anneal(e, 0.7) for e in (0, 9.99, 10)] == [1, 1, 1]
    assert anneal(60, 0.7) == pytest.approx(0.85)
    assert anneal(35, 0.5) == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi / 4)))
    assert [anneal(e, 0.7) for e in (110, 299)] == [0.7, 0.7]
    assert [anneal(e, 0.7, start=2, over=0) for e in (1, 2)] == [1, 0.7]


def test_merge_schedules():
    assert merge_schedule(8, 12) == [8] * 12
    assert merge_schedule(8, 5, -1) == [16, 12, 8, 4, 0]
    assert merge_schedule(8, 5, 1) == [0, 4, 8, 12, 16]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, {"keep_rate": 0}, "keep_rate: 0 "),
        ({}, {"keep_rate": 1.2}, "keep_rate: 1.2 "),
        ({}, {"keep_rate": float("nan")}, "keep_rate: nan "),
        ({}, {}, "keep_rate: rule"),
        ({}, {"keep_rate": 0.7}, r"layers: \[3, 6, 9\]"),
        ({}, {"keep_rate": 0.7, "layers": (-1,)}, r"layers: \[-1\] .* 0 to 3"),
        ({}, {"keep_rate": 0.7, "layers": ()}, "layers"),
        ({}, {"keep_rate": 0.7, "r": 3}, "r: only"),
        ({}, {"rule": "tome"}, "r: rule"),
        ({}, {"rule": "tome", "r": -1}, "r: -1"),
        ({}, {"rule": "tome", "r": [1] * 5}, "at most 4"),
        ({}, {"rule": "tome", "r": 3, "keep_rate": 0.5}, "keep_rate: only"),
        ({}, {"rule": "best", "keep_rate": 0.7}, "rule: 'best'"),
        ({"class_token": False, "global_pool": "avg"}, {"keep_rate": 0.7, "layers": (1,)}, "no class token"),
        ({"global_pool": "avgmax"}, {"rule": "tome", "r": 1}, "cannot be pooled by 'avgmax'"),
    ],
)
def test_bad_input_is_one_line(options, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        sparsify(tiny(**options), **arguments)
    assert "\n" not in str(error.value)


def test_what_is_no_plain_vision_transformer_is_named():
    with pytest.raises(InputError, match="Linear is not a timm VisionTransformer"):
        sparsify(torch.nn.Linear(2, 2), 0.7)
    with pytest.raises(InputError, match="already"):
        sparsify(sparsify(tiny(), 0.7, (1,)), 0.7, (1,))
    from timm.models.vision_transformer import ParallelScalingBlock

    with pytest.raises(InputError, match="ParallelScalingBlock"):
        sparsify(tiny(block_fn=ParallelScalingBlock), 0.7, (1,))
    with pytest.raises(InputError, match="selects no tokens"):
        set_keep_rate(tiny(), 0.5)
    assert type(tiny().blocks[0]) is Block


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision(dtype):
    for arguments in ({"keep_rate": 0.6, "layers": (1, 2)}, {"rule": "tome", "r": 4}):
        assert sparsify(tiny().to(dtype), **arguments)(images().to(dtype)).dtype == dtype


def test_training_lowers_the_loss_and_reaches_every_weight():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=20, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=7)
    sparse = sparsify(model, 0.5, (1, 2)).train()
    x, labels = images(8).float(), torch.arange(8).remainder(7)
    optimiser = torch.optim.Adam(sparse.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(sparse(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(p.grad is not None for p in sparse.parameters())


def test_without_a_class_token_merging_works():
    model = tiny(class_token=False, global_pool="avg")
    assert sparsify(model, rule="tome", r=3)(images()).shape == (3, 7)
