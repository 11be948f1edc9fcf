import copy
import math

import pytest
import torch
from torch.nn import functional as F

from naslab.errors import InputError
from naslab.kernels import negative_cosine, nt_xent
from naslab.search_spaces import find_space, make_task
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.nasiam import frameworks
from naslab.search_spaces.nasiam.frameworks import MOVED_AT_ONCE, JointHead, Views, enqueue, enqueue_unread
from naslab.search_spaces.nasiam.operations import OPERATIONS, operation
from naslab.search_spaces.nasiam.supernet import KeepingLayer, NarrowingLayer, PartialLayer, WideningLayer

FRAMEWORKS = ("simsiam", "simclr", "mocov2", "byol")


def tiny(framework, **options):
    return find_space("nasiam", "tiny", {"framework": framework, **options})


def small_task(framework, batch_size, accumulation):
    few = {"train": 20, "validation": 20, "test": 20}
    options = {"dataset": few, "batch_size": batch_size, "epochs": 1, "policy": {"accumulation": accumulation}}
    return make_task(tiny(framework), options, torch.device("cpu"))


def views(batch=16):
    generator = torch.Generator().manual_seed(0)
    return Views(*(torch.randn(batch, 1, 28, 28, generator=generator) for _ in range(2)))


def test_nt_xent_is_the_papers_sum_over_pairs():
    z1, z2 = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    z, total = torch.cat([z1, z2]), 0.0
    for i in range(10):
        similarity = [F.cosine_similarity(z[i], z[k], dim=0).item() / 0.5 for k in range(10)]
        others = sum(math.exp(s) for k, s in enumerate(similarity) if k != i)
        total -= math.log(math.exp(similarity[(i + 5) % 10]) / others)
    assert nt_xent(z1, z2, 0.5).item() == pytest.approx(total / 10, abs=1e-12)


def test_losses_agree_with_lightly():
    loss = pytest.importorskip("lightly.loss", reason="needs the package lightly as an oracle")
    z1, z2 = torch.randn(8, 6), torch.randn(8, 6)
    assert nt_xent(z1, z2, 0.2).item() == pytest.approx(loss.NTXentLoss(0.2)(z1, z2).item(), rel=1e-5)
    assert negative_cosine(z1, z2).item() == pytest.approx(loss.NegativeCosineSimilarity()(z1, z2).item(), rel=1e-5)


def test_simsiam_stops_the_gradient_at_the_projection():
    z = torch.randn(4, 3, requires_grad=True)
    p = torch.randn(4, 3, requires_grad=True)
    negative_cosine(p, z).backward()
    assert z.grad is None
    assert p.grad is not None


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_training_step_lowers_the_loss_on_the_same_batch(framework):
    torch.manual_seed(0)
    space = tiny(framework)
    model = space.build(space.reference)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch, losses = views(), []
    for step in range(12):
        loss = model.loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if framework == "byol":
            model.after_step(step / 12)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("framework", ["mocov2", "byol"])
def test_the_momentum_encoder_follows_and_is_not_trained(framework):
    space = tiny(framework, momentum=0.9)
    model = space.build(space.reference)
    target = next(model.target_backbone.parameters()).clone()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    model.after_step(0.0)
    moved = next(model.target_backbone.parameters())
    assert torch.allclose(moved, target + 0.1)
    assert not moved.requires_grad


def test_byols_momentum_rises_to_one():
    space = tiny("byol", momentum=0.5)
    model = space.build(space.reference)
    before = next(model.target_backbone.parameters()).clone()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter += 1
    model.after_step(1.0)
    assert torch.allclose(next(model.target_backbone.parameters()), before)


def test_moco_queue_takes_the_newest_keys_first_and_drops_the_oldest():
    space = tiny("mocov2", queue_size=20)
    model = space.build(space.reference)
    old = model.queue.clone()
    model.loss(views(8))
    model.after_step(0.0)
    assert torch.equal(model.queue[8:], old[:12])
    assert torch.allclose(model.queue[:8].norm(dim=1), torch.ones(8))
    model.after_step(0.0)
    assert torch.equal(model.queue[8:], old[:12]), "a second step without new keys changes nothing"


@pytest.mark.parametrize("size", [1, 3, 20, 2 * MOVED_AT_ONCE + 5])
def test_a_queue_is_the_newest_keys_then_the_older_ones(size):
    """Wherever it lies, and however many keys come, in place."""
    keys, queue = torch.randn(size + 1, 2), torch.randn(size, 2)
    for number in {0, 1, 2, size - 1, size, size + 7}:
        expected = torch.cat([keys[:number], queue])[:size]
        for found, given, put in (
            (queue.clone(), number, enqueue),
            (queue.clone(), torch.tensor(number), enqueue_unread),
        ):
            place = found.data_ptr()
            put(found, keys, given)
            assert torch.equal(found, expected)
            assert found.data_ptr() == place


def test_moco_queue_takes_the_keys_of_all_parts_of_a_batch_and_of_nothing_else():
    space = tiny("mocov2", queue_size=20)
    model, batch = space.build(space.reference).eval(), views(8)
    start = copy.deepcopy(model.state_dict())
    queues = []
    for parts in (1, 3):
        model.load_state_dict(start)
        model.loss(views(5))  # of alphas, say
        model.before_step()
        for part, _ in Policy(accumulation=parts).parts(batch):
            model.loss(part)
        model.after_step(0.0)
        queues.append(model.queue.clone())
    torch.testing.assert_close(*queues, rtol=1e-4, atol=1e-5)
    assert torch.equal(queues[1][8:], start["queue"][:12])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_batch_in_the_smallest_parts_trains(framework):
    """Seven samples in three parts: none has a single one, of which there are no batch statistics."""
    with pytest.raises(
        InputError, match=r"task\.policy\.accumulation: 4 parts are too many for a batch of 7; at most 3"
    ):
        small_task(framework, 7, 4)
    task = small_task(framework, 7, 3)
    rungs = list(task.train(task.space.build(task.space.reference), 0))
    assert math.isfinite(rungs[-1].facts["loss"])


def test_moco_keys_come_back_in_the_order_of_their_images():
    space = tiny("mocov2")
    model = space.build(space.reference).eval()
    images = views(9).second
    assert torch.allclose(model._shuffled(images), model.target_backbone(images), atol=1e-5)


@pytest.mark.parametrize("layer_type", ["keeping", "narrowing", "widening"])
@pytest.mark.parametrize("column", range(len(OPERATIONS)))
def test_a_one_hot_mixed_layer_is_the_discrete_operation(layer_type, column):
    """With a single weight of one, the batched layer and the operation with copied weights agree."""
    torch.manual_seed(1)
    width_in, width_out = {"keeping": (6, 6), "narrowing": (6, 4), "widening": (4, 6)}[layer_type]
    mixed = {
        "keeping": lambda: KeepingLayer(6),
        "narrowing": lambda: NarrowingLayer(6, 4),
        "widening": lambda: WideningLayer(4, 6),
    }[layer_type]()
    discrete = operation(OPERATIONS[column], width_in, width_out)
    row = column - 3 if layer_type == "keeping" else column
    for module in discrete.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = mixed.linear.weight.data.unflatten(0, (-1, width_out))[row].clone()
            if module.bias is not None:
                module.bias.data = mixed.linear.bias.data.unflatten(0, (-1, width_out))[row].clone()
    x = torch.randn(11, width_in)
    mixing = torch.zeros(len(OPERATIONS))
    mixing[column] = 1
    assert torch.allclose(mixed(x, mixing), discrete(x), atol=1e-5)


@pytest.mark.parametrize("partial_channels", [1, 2])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_views_that_go_through_mixed_heads_together_are_as_two_that_go_alone(framework, partial_channels, monkeypatch):
    """Loss, gradients, batch statistics: the order of sums is all that differs."""
    found = []
    for head in (JointHead, ()):
        monkeypatch.setattr(frameworks, "JointHead", head)
        torch.manual_seed(2)
        supernet = tiny(framework).supernet(lambda alpha: (alpha + 0.1).softmax(-1), partial_channels).double()
        loss = supernet.loss(Views(*(view.double() for view in views())))
        gradients = torch.autograd.grad(loss, [*supernet.architecture(), *supernet.weights()], allow_unused=True)
        found.append([loss, *(g for g in gradients if g is not None), *supernet.buffers()])
    assert len(found[0]) == len(found[1])
    for together, alone in zip(*found, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_partial_channels_pass_the_rest_through_and_shuffle():
    layer = PartialLayer(8, 4)
    x = torch.randn(5, 8)
    out = layer(x, torch.full((7,), 1 / 7))
    assert out.shape == x.shape
    for part in range(1, 4):
        for i in range(2):
            assert torch.equal(out[:, i * 4 + part], x[:, part * 2 + i])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_architecture_loss_reaches_every_alpha_and_no_backbone(framework):
    torch.manual_seed(0)
    supernet = tiny(framework).supernet(lambda alpha: alpha.softmax(-1))
    loss = supernet.architecture_loss(views())
    loss.backward()
    for alpha in supernet.architecture():
        assert (alpha.grad.abs().sum(1) > 0).all()
    assert all(p.grad is None for p in supernet.framework.backbone.parameters())
    full = supernet.loss(views())
    gradients = torch.autograd.grad(full, supernet.architecture())
    assert all(g.isfinite().all() for g in gradients)


def test_alphas_are_in_the_state_and_not_among_the_weights():
    supernet = tiny("mocov2").supernet(lambda alpha: alpha.softmax(-1))
    assert "alphas.projector" in supernet.state_dict()
    ids = {id(p) for p in supernet.weights()}
    assert not ids & {id(p) for p in supernet.architecture()}
    assert not ids & {id(p) for p in supernet.framework.target_projector.parameters()}


def test_skipping_counts_only_layers_that_keep_their_width():
    supernet = tiny("simsiam").supernet(lambda alpha: alpha.softmax(-1))
    assert supernet.skipping("projector").sum().item() == 6 * 3
    assert supernet.skipping("predictor").sum(1).tolist() == [0, 3, 3, 0]
