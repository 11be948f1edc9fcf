"""Cost of a NAS step (one alpha step and one weight step) over a plain SSL step of the same backbone and policy.

Usage: python benchmarks/nas_step_cost.py [--device cpu|cuda] [--repeats 15] [--cases 7] [--out FILE]

All are timed in turn (A B C A B C ...) in one process on the same batches; the ratio is of medians, with a bootstrap
interval over the repeats. Goal: at most 1.45 in first order and 3 in second. Beside them stand the FLOPs of these steps
over the plain step's, counted in matrix products and convolutions. Of a large backbone the first order takes about 4/3
of them: its alpha step has no backward through the backbone, so it costs one forward where a plain step costs a forward
and a backward of about two; the second order about 11/3: five forwards and three backwards. The two forwards of its
finite difference are float32 under each policy.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import RESULTS, write_result
from torch import Tensor

from naslab.efficiency.device import resolve_device, synchronise
from naslab.efficiency.flops import count
from naslab.nas.arms import AlphaOptimiser
from naslab.nas.differentiable.bilevel import Bilevel
from naslab.search_spaces import find_space, seed_everything
from naslab.search_spaces.common.training.policy import Policy
from naslab.search_spaces.common.training.step import Stepper
from naslab.search_spaces.nasiam.frameworks import Views
from naslab.search_spaces.nasiam.recipes import RECIPES, make_optimiser
from naslab.search_spaces.nasiam.space import NASiam

CASES = [
    ("simsiam", "small", 256),
    ("simclr", "small", 256),
    ("mocov2", "small", 256),
    ("byol", "small", 256),
    ("simsiam", "tiny", 256),
    ("simclr", "tiny", 256),
    ("simsiam", "timm:resnet18", 64),
]
POLICIES = (Policy(), Policy("bfloat16", "channels_last"))
WARM_UP_STEPS = 4
"""What is recorded is so by then."""
ON_A_GPU = (*POLICIES, Policy("bfloat16", "channels_last", cuda_graphs=True))


def steps(
    framework: str, backbone: str, batch_size: int, policy: Policy, device: torch.device
) -> dict[str, Callable[[], None]]:
    """The steps to time, each on its own model and the same batch, as plain training and the search take them."""
    image = (
        {"in_channels": 3, "image_size": 32} if backbone.startswith("timm") else {"in_channels": 1, "image_size": 28}
    )
    space = find_space("nasiam", None, {"framework": framework, "backbone": backbone, **image})
    assert isinstance(space, NASiam)
    seed_everything(0)
    side = image["image_size"]
    views = (torch.randn(batch_size, image["in_channels"], side, side, device=device) for _ in range(2))
    batch = policy.laid_out(Views(*views))
    plain = space.build(space.reference).to(device)
    supernet = space.supernet(lambda alpha: alpha.softmax(-1)).to(device)
    recipe = RECIPES[framework]
    weights = supernet.weights()
    plain_step = Stepper(
        plain.train(),
        make_optimiser(recipe, plain, [p for p in plain.parameters() if p.requires_grad], batch_size),
        lambda model, views: model.loss(views),
        policy,
    )
    weight_optimiser = make_optimiser(recipe, supernet, weights, batch_size)
    alphas = supernet.architecture()
    defaults = AlphaOptimiser()
    alpha_optimiser = torch.optim.Adam(alphas, lr=defaults.learning_rate, betas=defaults.betas)
    policy.place(supernet, weight_optimiser)
    nothing = lambda: torch.zeros((), device=device)  # noqa: E731
    bilevel = Bilevel(supernet, nothing, lambda: policy.forward(device), records=policy.cuda_graphs)

    def whole_plain_step() -> None:
        plain_step(batch)
        plain.after_step(0.0)

    def weight_step() -> None:
        supernet.before_step()
        for weight, gradient in zip(weights, bilevel.weights(batch)[1], strict=True):
            weight.grad = gradient
        weight_optimiser.step()
        supernet.after_step(0.0)

    def nas_step(gradients: Callable[[], Iterable[Tensor]]) -> None:
        for alpha, gradient in zip(alphas, gradients(), strict=True):
            alpha.grad = gradient
        alpha_optimiser.step()
        weight_step()

    return {
        "plain": whole_plain_step,
        "supernet_weight_step": weight_step,
        "nas": lambda: nas_step(lambda: bilevel.first_order(batch)),
        "second_order": lambda: nas_step(lambda: bilevel.second_order(batch, batch, recipe.learning_rate)),
    }


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall time of one call, the device idle before and after."""
    synchronise(device)
    start = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - start


def ratio(a: list[float], b: list[float]) -> dict[str, float]:
    """Ratio of medians a / b with a bootstrap 95 % interval over repeats, resampled in pairs."""
    pairs, rng = np.array([a, b]), np.random.default_rng(0)
    chosen = rng.integers(pairs.shape[1], size=(2000, pairs.shape[1]))
    medians = np.median(pairs[:, chosen], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return {"ratio": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high)}


def measure(
    framework: str, backbone: str, batch_size: int, policy: Policy, repeats: int, device: torch.device
) -> dict[str, Any]:
    """One row of the table."""
    timed = steps(framework, backbone, batch_size, policy, device)
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for step, _ in itertools.product(timed.values(), range(WARM_UP_STEPS)):
        step()
    flops = {name: count(step).work.contraction for name, step in timed.items()} if not policy.cuda_graphs else {}
    for _, (name, step) in itertools.product(range(repeats), timed.items()):
        samples[name].append(seconds(step, device))
    return {
        "framework": framework,
        "backbone": backbone,
        "batch_size": batch_size,
        "policy": str(policy),
        "nas_over_plain": ratio(samples["nas"], samples["plain"]),
        "second_order_over_plain": ratio(samples["second_order"], samples["plain"]),
        "supernet_weight_step_over_plain": ratio(samples["supernet_weight_step"], samples["plain"]),
        "flops": flops,
        "samples_s": samples,
    }


def main() -> None:
    """Measure every case and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first so many")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    out = arguments.out or RESULTS / ("gpu/nas_step_cost.json" if device.type == "cuda" else "nas_step_cost.json")
    rows = []
    for case, policy in itertools.product(CASES[: arguments.cases], ON_A_GPU if device.type == "cuda" else POLICIES):
        row = measure(*case, policy, arguments.repeats, device)
        rows.append(row)
        costs = (row["nas_over_plain"], row["second_order_over_plain"])
        told = ", ".join(f"{cost['ratio']:.2f} [{cost['low']:.2f}, {cost['high']:.2f}]" for cost in costs)
        print(f"{row['framework']:8} {row['backbone']:14} {policy}: {told}", flush=True)
        write_result(out, {"schema": "naslab.nas_step_cost/1", "rows": rows, "seed": 0}, str(device))


if __name__ == "__main__":
    main()
