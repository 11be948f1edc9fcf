"""The training policy: applied a step at a time, recorded, kept over a resume."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_training import batches, equal_states, loss, made
from torch import nn
from torch.utils.checkpoint import checkpoint

from naslab.errors import InputError
from naslab.runs.yaml_text import read_yaml
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.modules.backbones import GlobalAveragePool
from naslab.search_spaces.common.training import train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.policy import Policy, PolicyOptions
from naslab.search_spaces.common.training.recomputation import recomputed_blocks, repeated_blocks
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.find import make_task
from naslab.search_spaces.nasiam.frameworks import Views


def trained(policy, clip_norm=None, steps=8, **made_by):
    model, optimiser = made(**made_by)
    stepper = Stepper(model.train(), optimiser, loss, policy, clip_norm)
    with policy.blocks(model):
        losses = [stepper(batch)["loss"].item() for batch in batches(model, optimiser, 0, steps)]
    return model, losses


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        (Policy("bfloat16"), 2**-6),
        (Policy("float16"), 2**-8),
        (Policy(memory_format="channels_last"), 1e-4),
        (Policy("bfloat16", "channels_last"), 2**-6),
    ],
    ids=str,
)
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_policy_trains_as_float32_does_up_to_its_rounding(policy, tolerance, clip_norm):
    """Relative rounding of a product's inputs is 2^-9 and 2^-12; some steps add up to a few times as much."""
    _, plain = trained(Policy(), clip_norm)
    model, losses = trained(policy, clip_norm)
    assert losses == pytest.approx(plain, rel=tolerance)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_scaled_gradient_is_clipped_to_the_norm_that_is_asked_for():
    """SGD moves by rate times the clipped gradient: the scale of 2^16 must be taken off before."""
    start, _ = made(optimiser=torch.optim.SGD)
    model, _ = trained(Policy("float16"), clip_norm=0.05, steps=1, optimiser=torch.optim.SGD)
    moved = [(a - b).norm() for a, b in zip(start.parameters(), model.parameters(), strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(0.01 * 0.05, rel=1e-2)


def test_forwards_of_different_steps_share_no_rounded_weights():
    """What an autocast context that spans steps gets wrong: the forward would go on with the first weights."""
    model, optimiser = made(optimiser=torch.optim.SGD)
    seen = []

    def spied(model, batch):
        seen.append(model.head(torch.eye(4)).detach().float())
        return loss(model, batch)

    stepper = Stepper(model, optimiser, spied, Policy("bfloat16"))
    for group in optimiser.param_groups:
        group["lr"] = 10.0
    for batch in batches(model, optimiser, 0, 3):
        now = model.head(torch.eye(4)).detach()
        stepper(batch)
        assert (seen[-1] - now).abs().max() < 2**-7 * now.abs().max()
    assert (seen[-1] - seen[0]).abs().max() > 2**-4 * now.abs().max()


def test_simclr_does_not_collapse_in_bfloat16():
    space = find_space("nasiam", "tiny", {"framework": "simclr"})
    deviations = {}
    for policy in (Policy(), Policy("bfloat16", "channels_last")):
        seed_everything(0)
        model = space.build(space.reference).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        stepper = Stepper(model, optimiser, lambda model, views: model.loss(views), policy)
        for _ in range(12):
            images = torch.randn(32, 1, 28, 28)
            stepper(Views(images, images + 0.1 * torch.randn_like(images)))
        z = nn.functional.normalize(model.eval().project(torch.randn(64, 1, 28, 28)).detach(), dim=1)
        deviations[policy.precision] = (z.std(0) * z.shape[1] ** 0.5).mean().item()
    assert deviations["bfloat16"] == pytest.approx(deviations["float32"], rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_map_and_its_gradient_have_the_layout_that_the_policy_names(channels, precision):
    """Images of one channel too, which PyTorch takes for laid out either way: one map in another order costs copies."""
    space = find_space("nasiam", "tiny", {"framework": "simclr", "in_channels": channels})
    model = space.build(space.reference).train()
    maps = []

    def seen(module, _, result):
        if result.ndim == 4 and result.shape[2] > 1:
            maps.append(("map", result.stride(), result.shape))
            result.register_hook(lambda g: maps.append(("gradient", g.stride(), g.shape)))

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU):
            module.register_forward_hook(seen)
    stepper = Stepper(model, torch.optim.SGD(model.parameters()), _views_loss, Policy(precision, "channels_last"))
    stepper(Views(*torch.randn(2, 8, channels, 28, 28)))
    assert {name for name, *_ in maps} == {"map", "gradient"}
    for name, stride, shape in maps:
        written_out = torch.empty(shape).to(memory_format=torch.channels_last).stride()
        assert stride == written_out or (name == "gradient" and stride[2:] == (0, 0)), (name, stride, shape)


def _views_loss(model, views):
    return model.loss(views)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_pool_is_the_mean_of_a_map_in_every_number_format(dtype):
    """Of a sum of 784 places that each are 90, float16 has no number."""
    x = (90 + torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    mean = GlobalAveragePool()(x)
    assert mean.shape == (2, 3, 1, 1)
    assert mean.dtype == dtype
    # Sums are of float32 at least; sum and quotient are rounded once more each.
    rtol = 2 * torch.finfo(dtype).eps + 784 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    torch.testing.assert_close(mean.double(), x.double().mean((2, 3), keepdim=True), rtol=rtol, atol=0)
    (slope,) = torch.autograd.grad(mean.sum(), x)
    torch.testing.assert_close(slope, torch.ones_like(slope) / 784, rtol=rtol, atol=0)


def test_a_model_that_recomputes_by_itself_trains_where_the_policy_says_so():
    torch.manual_seed(0)
    model, images = Attending(), torch.randn(2, 32, 4, 4)
    found = []
    for way in (_attending, lambda model, images: checkpoint(model, images, use_reentrant=False)):
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=0.0), way, Policy("bfloat16", recompute=True))
        stepper(images)
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *found))


def _attending(model, images):
    return model(images)


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    """Without batch statistics; the parts of 8 samples in 3 are 3, 3 and 2."""
    torch.manual_seed(0)
    whole, parts = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()
    parts.load_state_dict(whole.state_dict())
    x, y = torch.randn(8, 5).double(), torch.randint(3, (8,))
    for model, policy in ((whole, Policy()), (parts, Policy(accumulation=3))):
        stepper = Stepper(model, torch.optim.SGD(model.parameters(), lr=1.0), _plain_loss, policy)
        value = stepper((x, y))["loss"]
    assert value.item() == pytest.approx(_plain_loss(whole, (x, y)).item(), abs=1)
    assert torch.allclose(whole.weight, parts.weight, rtol=1e-12)


def _plain_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_recomputed_blocks_change_neither_weights_nor_batch_statistics():
    plain, losses = trained(Policy())
    recomputed, again = trained(Policy(recompute=True))
    assert again == losses
    assert equal_states(plain, recomputed)


def test_recomputation_keeps_less_and_leaves_the_model_as_it_was():
    model, _ = made()
    assert repeated_blocks(model) == list(model.blocks)
    images = torch.randn(8, 4, 6, 6)
    sizes = []
    pack = lambda tensor: sizes.append(tensor.numel()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images).sum()
        kept = sum(sizes)
        sizes.clear()
        with recomputed_blocks(model):
            model(images).sum()
    assert sum(sizes) < kept / 2
    assert all("forward" not in vars(block) for block in model.blocks)


class Tied(nn.Module):
    """Two lists of the same blocks, whose forwards have been replaced, as hooks of other libraries do."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)]
        self.first, self.second = (nn.ModuleDict({"blocks": nn.Sequential(*blocks)}) for _ in range(2))
        for block in blocks:
            block.forward = partial(doubled, block.forward)

    def forward(self, x):
        return self.second["blocks"](self.first["blocks"](x))


def doubled(forward, x):
    return 2 * forward(x)


def test_shared_blocks_are_recomputed_once_each_and_keep_forwards_of_their_own():
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(3, 4)
    blocks = list(model.first["blocks"])
    before = [block.forward for block in blocks]
    assert repeated_blocks(model) == blocks
    plain = torch.autograd.grad(model(x).sum(), tuple(model.parameters()))
    with recomputed_blocks(model):
        again = torch.autograd.grad(model(x).sum(), tuple(model.parameters()))
    assert all(map(torch.equal, plain, again))
    assert [block.forward for block in blocks] == before


@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.SGD])
def test_a_resumed_training_keeps_policy_layout_and_scale(tmp_path, optimiser):
    """Fused optimisers walk memory: state that is loaded contiguous would meet weights in another order."""
    budget = SimpleNamespace(epochs=2, rung_epochs=1)
    wanted = Wanted(PolicyOptions(precision="float16", memory_format="channels_last", compile="off"), 8, {})
    runs = {}
    for name, stops in {"unbroken": (2,), "broken": (1, 2)}.items():
        for epochs in stops:
            model, opt = made(optimiser=lambda p, lr: optimiser(p, lr=lr, fused=True, **_momentum(optimiser)))
            budget.epochs = epochs
            # The second process asks for something else, as after a new measurement: the checkpoint's policy holds.
            asked = wanted if epochs == stops[0] else Wanted(PolicyOptions(), 8, {})
            rungs = list(train_in_rungs(model, opt, batches, loss, budget, 0, tmp_path / name, None, asked))
            assert rungs[-1].policy == Policy("float16", "channels_last").to_dict()
        runs[name] = model
    assert equal_states(runs["unbroken"], runs["broken"])


def _momentum(optimiser):
    return {"momentum": 0.9} if optimiser is torch.optim.SGD else {}


def test_compiled_training_equals_eager(monkeypatch):
    width = {"DEFAULT": 1, "AVX2": 256}.get(torch.backends.cpu.get_cpu_capability())
    monkeypatch.setattr("torch._inductor.config.cpp.simdlen", width)  # Inductor looks at the processor by itself
    eager, plain = trained(Policy(), steps=3)
    for recompute in (False, True):
        model, compiled = trained(Policy(compile=True, recompute=recompute), steps=3)
        assert compiled == pytest.approx(plain, rel=1e-4)
        for name, statistics in model.named_buffers():  # each batch counts once
            torch.testing.assert_close(statistics, eager.get_buffer(name), rtol=1e-2, atol=1e-2)


def test_a_study_may_ask_for_a_policy_and_the_rungs_say_it():
    space = find_space("token_reduction", "tiny", {})
    values = {"epochs": 1, "batch_size": 32, "dataset": {"train": 64, "validation": 10, "test": 10}}
    task = make_task(space, {**values, "policy": {"precision": "bfloat16"}}, torch.device("cpu"))
    (rung,) = task.train(space.build(space.reference), 0)
    assert rung.policy == Policy("bfloat16").to_dict()
    with pytest.raises(InputError, match=r"task\.policy\.precision: must be .*float32"):
        make_task(space, {**values, "policy": {"precision": "bf16"}}, torch.device("cpu"))
    for word in ("on", True):
        with pytest.raises(InputError, match=r"task\.policy\.cuda_graphs: on, but the study runs on cpu; leave it out"):
            make_task(space, {**values, "policy": {"cuda_graphs": word}}, torch.device("cpu"))
    make_task(space, {**values, "policy": {"cuda_graphs": False}}, torch.device("cpu"))
    with pytest.raises(InputError, match=r"task\.policy\.cuda_graphs: on, but with recompute nothing is recorded"):
        make_task(space, {**values, "policy": {"cuda_graphs": "on", "recompute": True}}, torch.device("cuda"))


@pytest.mark.parametrize(("written", "word"), [("off", "off"), ("on", "on"), ("auto", "auto"), ("false", "off")])
@pytest.mark.parametrize("option", ["compile", "cuda_graphs"])
def test_words_mean_in_a_study_file_what_they_say(option, written, word):
    """YAML's off and on are truth values."""
    options = PolicyOptions.model_validate(read_yaml(f"{option}: {written}"))
    assert getattr(options, option) == word


class Attending(nn.Module):
    """A convolution over a small map, and attention over its places: both have own forms in bfloat16 on a CPU."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(32, 8, 3, padding=1)

    def forward(self, images):
        tokens = self.convolution(images).flatten(2).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).float().square().mean()


def test_what_is_compiled_has_our_forms_of_operations_too_and_is_traced_once():
    torch.manual_seed(0)
    model, images = Attending(), torch.randn(2, 32, 4, 4)
    policy, names, found = Policy("bfloat16"), [], []

    def kept(graph, inputs):
        names.append(" ".join(str(node.target) for node in graph.graph.nodes))
        return graph

    compiled = torch.compile(model, backend=kept, fullgraph=True)
    for forward in (model, compiled, compiled):
        with policy.forward(torch.device("cpu")):
            value = forward(images)
        found.append([value, *torch.autograd.grad(value, tuple(model.parameters()))])
    assert len(names) == 1
    assert "scaled_dot_product" not in names[0]
    assert "softmax" in names[0]
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours - theirs).norm() <= 2**-6 * theirs.norm()
