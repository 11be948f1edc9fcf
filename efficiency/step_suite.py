"""Small models of many kinds, timed on this device, from which steps of others are predicted there.

Three sizes of each kind, so that every kind stands in the steps from which a left-out model is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter, perf_counter_ns
from typing import NamedTuple

import torch
from torch import Tensor, nn

from naslab.efficiency.device import synchronise
from naslab.efficiency.flop_count import FlopCount
from naslab.efficiency.flops import forward_count, training_count
from naslab.efficiency.prediction import StepTime, StepTimes
from naslab.efficiency.roofline import Roof
from naslab.efficiency.step_features import features
from naslab.efficiency.training_step import training_loss

MIN_ROUNDS = 3
CALLS_PER_VISIT, SECONDS_PER_VISIT = 5, 0.02


class _Case(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


def measure_steps(device: torch.device, roof: Roof, *, seconds: float = 60.0) -> StepTimes:
    """Time inference and training step of every model of the suite, all in turn, round by round.

    A training run repeats one step, so each visit begins with a call that warms the caches and is not timed. The
    fastest of the next few is the visit's sample, as what a busy neighbour adds is not the model's; the median of the
    samples counts, as the machine's own pace drifts. The first visit of each is a warm-up.

    Args:
        seconds: sample for so long, and at least 3 rounds.
    """
    runs = [run for case in suite() for run in _runs(case, device)]
    samples: list[list[float]] = [[] for _ in runs]
    rounds, end = 0, perf_counter() + seconds
    while rounds <= MIN_ROUNDS or perf_counter() < end:
        for run, taken in zip(runs, samples, strict=True):
            taken.append(run.visit(device))
        rounds += 1
    steps = (
        StepTime(run.name, run.training, features(run.count(), roof), median(taken[1:]), tuple(taken[1:]))
        for run, taken in zip(runs, samples, strict=True)
    )
    return StepTimes(roof, tuple(steps))


def suite_counts(device: torch.device) -> dict[tuple[str, bool], FlopCount]:
    """What each model of the suite does, by its name and whether it is trained."""
    return {(run.name, run.training): run.count() for case in suite() for run in _runs(case, device)}


class _Run:
    """Inference or training step of one model."""

    def __init__(self, case: _Case, device: torch.device, training: bool) -> None:
        torch.manual_seed(0)
        self.name, self.training = case.name, training
        self._model, self._inputs = case.build().to(device).train(training), case.inputs().to(device)

    def visit(self, device: torch.device) -> float:
        """Seconds of the fastest of a few calls in a row, after one that is not timed."""
        self._sample(device)
        taken: list[float] = []
        while len(taken) < CALLS_PER_VISIT and sum(taken) < SECONDS_PER_VISIT:
            taken.append(self._sample(device))
        return min(taken)

    def _sample(self, device: torch.device) -> float:
        synchronise(device)
        began = perf_counter_ns()
        with torch.set_grad_enabled(self.training):
            if self.training:
                training_loss(self._model, self._inputs, torch.sum).backward()
                self._model.zero_grad()
            else:
                self._model(self._inputs)
        synchronise(device)
        return (perf_counter_ns() - began) / 1e9

    def count(self) -> FlopCount:
        count = training_count if self.training else forward_count
        return count(self._model, self._inputs)


def _runs(case: _Case, device: torch.device) -> Iterator[_Run]:
    yield from (_Run(case, device, training) for training in (False, True))


def suite() -> Iterator[_Case]:
    """The models."""
    for size, (channels, side) in {"small": (16, 28), "medium": (24, 34), "large": (32, 40)}.items():
        for name, block in _BLOCKS.items():
            yield _Case(f"{name}, {size}", _network(block, channels), _images(4, side))
        yield _Case(f"plain convolutions, {size}", _plain(channels), _images(4, side))
    sequences = {"small": (128, 64, 4), "medium": (192, 96, 4), "large": (320, 128, 2)}
    for size, (width, tokens, batch) in sequences.items():
        for name, layer in _LAYERS.items():
            yield _Case(f"{name}, {size}", _stack(layer, width, 3), _sequence(batch, tokens, width))
        yield _Case(f"perceptron, {size}", _stack(_perceptron, width, 4), _sequence(batch, tokens, width))


def _images(batch: int, side: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def _sequence(batch: int, tokens: int, width: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(0))


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def _convolved(c_in: int, c_out: int, kernel: int, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(c_out), nn.ReLU()]


def _basic(c: int) -> nn.Module:
    return _Residual(*_convolved(c, c, 3), *_convolved(c, c, 3))


def _bottleneck(c: int) -> nn.Module:
    return _Residual(*_convolved(c, c // 4, 1), *_convolved(c // 4, c // 4, 3), *_convolved(c // 4, c, 1))


def _inverted(c: int) -> nn.Module:
    return _Residual(*_convolved(c, 4 * c, 1), *_convolved(4 * c, 4 * c, 3, 4 * c), *_convolved(4 * c, c, 1))


def _grouped(c: int) -> nn.Module:
    return _Residual(*_convolved(c, c, 1), *_convolved(c, c, 3, 8), *_convolved(c, c, 1))


def _wide_kernel(c: int) -> nn.Module:
    depthwise = nn.Conv2d(c, c, 7, padding=3, groups=c)
    return _Residual(depthwise, nn.GroupNorm(1, c), nn.Conv2d(c, 4 * c, 1), nn.GELU(), nn.Conv2d(4 * c, c, 1))


_BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "residual": _basic,
    "bottleneck": _bottleneck,
    "inverted residual": _inverted,
    "grouped": _grouped,
    "wide kernel": _wide_kernel,
}


def _network(block: Callable[[int], nn.Module], channels: int) -> Callable[[], nn.Module]:
    """Three stages of two blocks, each with half the side and twice the channels of the one before."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [*_convolved(3, channels, 3)]
        for stage in range(3):
            c = channels * 2**stage
            layers += [block(c), block(c)]
            if stage < 2:
                layers += [nn.Conv2d(c, 2 * c, 2, stride=2)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, 100))

    return build


def _plain(channels: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU()]
        for stage in range(3):
            c = channels * 2**stage
            layers += [nn.Conv2d(c, 2 * c, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * channels, 100))

    return build


class _Attention(nn.Module):
    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = width // 32, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return result


def _perceptron(width: int) -> nn.Module:
    return _Residual(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def _encoder(width: int) -> nn.Module:
    return nn.Sequential(_Residual(nn.LayerNorm(width), _Attention(width, causal=False)), _perceptron(width))


def _decoder(width: int) -> nn.Module:
    return nn.Sequential(_Residual(nn.LayerNorm(width), _Attention(width, causal=True)), _perceptron(width))


class _Transposed(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x.transpose(1, 2)).transpose(1, 2)
        return result


def _mixer(width: int) -> nn.Module:
    tokens = {128: 64, 192: 96, 320: 128}[width]
    mixing = _Transposed(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
    return nn.Sequential(_Residual(nn.LayerNorm(width), mixing), _perceptron(width))


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], width: int) -> None:
        super().__init__()
        self.layer = kind(width, width, batch_first=True)  # type: ignore[call-arg, arg-type]

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return states


_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "encoder": _encoder,
    "decoder": _decoder,
    "mixer": _mixer,
    "LSTM": lambda width: _Recurrent(nn.LSTM, width),
    "GRU": lambda width: _Recurrent(nn.GRU, width),
}


def _stack(layer: Callable[[int], nn.Module], width: int, depth: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(layer(width) for _ in range(depth)), nn.Linear(width, 100))
