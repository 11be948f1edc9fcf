"""T5's span corruption: spans of tokens give way to sentinels, and are what is to be predicted.

Raffel et al. 2020, *Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer*, section 3.1.4:
15 % of the tokens in spans of three on average. Every window gives inputs and targets of the same lengths, so that
nothing is padded. Names: B windows, R raw tokens, S spans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naslab.errors import InputError

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class SpanShape:
    """Lengths of span corruption: `raw` tokens, `noise` of them in `spans` spans."""

    raw: int
    noise: int
    spans: int

    @property
    def inputs(self) -> int:
        """Tokens that are left, with one sentinel a span."""
        return self.raw - self.noise + self.spans

    @property
    def targets(self) -> int:
        """Tokens of the spans, each span behind its sentinel, and the end."""
        return self.noise + self.spans + 1


def span_shape(inputs: int, noise_density: float = 0.15, mean_span: float = 3.0) -> SpanShape:
    """The longest raw window whose corrupted form has at most `inputs` tokens.

    Raises:
        InputError: no window is that short.
    """
    shapes = (_shape(raw, noise_density, mean_span) for raw in range(2 * inputs + 2, 1, -1))
    fitting = next((shape for shape in shapes if shape.inputs <= inputs), None)
    if fitting is None:
        raise InputError(f"context: {inputs} tokens are too few for span corruption; use at least 3")
    return fitting


def _shape(raw: int, noise_density: float, mean_span: float) -> SpanShape:
    noise = min(max(round(raw * noise_density), 1), raw - 1)
    spans = min(max(round(noise / mean_span), 1), noise, raw - noise)
    return SpanShape(raw, noise, spans)


def corrupt(
    windows_BR: Tokens, shape: SpanShape, sentinel: int, end: int, rng: np.random.Generator
) -> tuple[Tokens, Tokens]:
    """Inputs (B, shape.inputs) and targets (B, shape.targets) of raw windows.

    Args:
        windows_BR: token ids.
        shape: see `span_shape`.
        sentinel: id of the first sentinel; span i has `sentinel + i`.
        end: id that ends the targets.
        rng: decides where the spans are.
    """
    batch = len(windows_BR)
    kept_BS = _parts(batch, shape.raw - shape.noise, shape.spans, rng)
    noise_BS = _parts(batch, shape.noise, shape.spans, rng)
    inputs, targets = (np.empty((batch, n), np.int64) for n in (shape.inputs, shape.targets))
    for row in range(batch):
        inputs[row], targets[row] = _corrupt_one(windows_BR[row], kept_BS[row], noise_BS[row], sentinel, end)
    return inputs, targets


def _corrupt_one(window_R: Tokens, kept_S: Tokens, noise_S: Tokens, sentinel: int, end: int) -> tuple[Tokens, Tokens]:
    inputs: list[Tokens] = []
    targets: list[Tokens] = []
    at = 0
    for span, (kept, noise) in enumerate(zip(kept_S, noise_S, strict=True)):
        mark = np.array([sentinel + span])
        inputs += [window_R[at : at + kept], mark]
        targets += [mark, window_R[at + kept : at + kept + noise]]
        at += kept + noise
    return np.concatenate(inputs), np.concatenate([*targets, np.array([end])])


def _parts(batch: int, total: int, parts: int, rng: np.random.Generator) -> Tokens:
    """Random lengths (B, parts) of at least 1 that sum to `total`: cuts drawn uniformly without repetition."""
    order = rng.random((batch, total - 1)).argsort(1)[:, : parts - 1] + 1
    cuts = np.sort(order, 1)
    ends = np.concatenate([np.zeros((batch, 1), np.int64), cuts, np.full((batch, 1), total)], 1)
    return np.diff(ends, axis=1)
