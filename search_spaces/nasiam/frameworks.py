"""SimSiam, SimCLR, MoCo v2 and BYOL: heads around a backbone, the loss between two views, momentum encoders.

Every framework splits its loss in two: `encode` runs what the searched cells do not touch (the backbones),
`head_loss` the rest. The alpha step of the differentiable engine records gradients for `head_loss` alone.

Shapes: a view is (B, C, H, W); features f are (B, F), projections z and predictions p (B, D).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslab import kernels
from naslab.search_spaces.common.objectives.float32 import in_float32


class Views(NamedTuple):
    """Two augmented views of the same images, each (B, C, H, W)."""

    first: Tensor
    second: Tensor


info_nce, negative_cosine = in_float32(kernels.info_nce), in_float32(kernels.negative_cosine)
nt_xent = in_float32(kernels.nt_xent)
Encoded = tuple[Tensor, ...]
MakeHead = Callable[[], nn.Module]
KEY_GROUPS = 4
"""Parts of a batch of keys, each with batch statistics of its own."""


class JointHead(nn.Module):
    """A head that also takes several batches at once, (V, B, F) to (V, B, D), each with its own batch statistics."""


def of_each(head: nn.Module, batches: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The head's outputs (B, D) of batches (B, F), as if it was called with one after the other."""
    if isinstance(head, JointHead):
        outputs: Tensor = head(torch.stack(tuple(batches)))
        return outputs.unbind()
    return tuple(head(batch) for batch in batches)


class Framework(nn.Module, ABC):
    """A siamese self-supervised method. `projector` and `predictor` are the heads that the lab searches.

    Args:
        backbone: images to (B, F); a factory, because a momentum encoder needs a second one.
        projector: factory of F -> D.
        predictor: factory of D -> D; frameworks without one ignore it.
    """

    has_predictor = True

    def __init__(self, backbone: MakeHead, projector: MakeHead, predictor: MakeHead) -> None:
        super().__init__()
        self.backbone = backbone()
        self.projector = projector()
        self.predictor = predictor() if self.has_predictor else nn.Identity()

    def features(self, images_BCHW: Tensor) -> Tensor:
        """What evaluation freezes and scores: backbone features (B, F)."""
        output: Tensor = self.backbone(images_BCHW)
        return output

    def project(self, images_BCHW: Tensor) -> Tensor:
        """Projections z (B, D), where collapse shows."""
        output: Tensor = self.projector(self.features(images_BCHW))
        return output

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """One branch from image to the end of its heads, (B, D): what the profiler counts."""
        output: Tensor = self.predictor(self.project(images_BCHW))
        return output

    def loss(self, views: Views) -> Tensor:
        """The framework's loss, a scalar."""
        return self.head_loss(self.encode(views))

    def encode(self, views: Views) -> Encoded:
        """Features of both views; each goes through the backbone by itself, with its own batch statistics."""
        return self.features(views.first), self.features(views.second)

    @abstractmethod
    def head_loss(self, encoded: Encoded) -> Tensor:
        """The loss from the features on."""

    def before_step(self) -> None:
        """What precedes a weight step, of which each loss up to `after_step` is a part."""

    def after_step(self, progress: float) -> None:
        """What follows a weight step; `progress` from 0 to 1."""


class SimSiam(Framework):
    """Chen & He 2021: negative cosine to the other view's stopped projection, mean of the two sides."""

    def head_loss(self, encoded: Encoded) -> Tensor:
        """Equation 2."""
        z1, z2 = of_each(self.projector, encoded)
        p1, p2 = of_each(self.predictor, (z1, z2))
        return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2


class SimCLR(Framework):
    """Chen et al. 2020: every other image of the batch is a negative."""

    has_predictor = False

    def __init__(self, backbone: MakeHead, projector: MakeHead, predictor: MakeHead, temperature: float) -> None:
        super().__init__(backbone, projector, predictor)
        self.temperature = temperature

    def head_loss(self, encoded: Encoded) -> Tensor:
        """NT-Xent."""
        z1, z2 = of_each(self.projector, encoded)
        return nt_xent(z1, z2, self.temperature)


class MomentumFramework(Framework):
    """A framework with a second, slowly following encoder (`target_*`), never trained by gradient."""

    def __init__(self, backbone: MakeHead, projector: MakeHead, predictor: MakeHead) -> None:
        super().__init__(backbone, projector, predictor)
        self.target_backbone = backbone()
        self.target_projector = projector()
        self.target_backbone.load_state_dict(self.backbone.state_dict())
        self.target_projector.load_state_dict(self.projector.state_dict())
        for parameter in (*self.target_backbone.parameters(), *self.target_projector.parameters()):
            parameter.requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """target <- momentum target + (1 - momentum) online."""
        for online, target in (
            (self.backbone, self.target_backbone),
            (self.projector, self.target_projector),
        ):
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)


class MoCoV2(MomentumFramework):
    """He et al. 2020, Chen et al. 2020: queries against their keys and a queue of earlier keys (InfoNCE).

    The key encoder sees the batch shuffled and in KEY_GROUPS parts with their own batch statistics, the one-device
    form of shuffling BatchNorm, so that the query cannot recognise its key by them.
    """

    has_predictor = False
    queue: Tensor
    _new_keys: Tensor
    _number: Tensor

    def __init__(
        self,
        backbone: MakeHead,
        projector: MakeHead,
        predictor: MakeHead,
        temperature: float,
        momentum: float,
        queue_size: int,
        width: int,
    ) -> None:
        super().__init__(backbone, projector, predictor)
        self.temperature = temperature
        self.momentum = momentum
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, width), dim=1))
        # In place: a step may be recorded. What comes behind the queue's end is too much.
        self.register_buffer("_new_keys", torch.zeros(queue_size + 1, width), persistent=False)
        self.register_buffer("_number", torch.zeros((), dtype=torch.int64), persistent=False)

    def encode(self, views: Views) -> Encoded:
        """Query features, and key features from the momentum backbone."""
        return self.features(views.first), self._shuffled(views.second)

    @torch.no_grad()
    def _shuffled(self, images_BCHW: Tensor) -> Tensor:
        order = torch.randperm(images_BCHW.shape[0], device=images_BCHW.device)
        groups = images_BCHW[order].chunk(min(KEY_GROUPS, max(images_BCHW.shape[0] // 2, 1)))
        encoded = torch.cat([self.target_backbone(group) for group in groups])
        return encoded[torch.argsort(order)]

    def head_loss(self, encoded: Encoded) -> Tensor:
        """InfoNCE with the key as the positive and the queue as the negatives."""
        query_features, key_features = encoded
        query = F.normalize(self.projector(query_features), dim=1)
        with torch.no_grad():
            keys = F.normalize(self.target_projector(key_features), dim=1)
        loss = info_nce(query, keys, self.queue, self.temperature)
        self._keep(keys)
        return loss

    @torch.no_grad()
    def _keep(self, keys: Tensor) -> None:
        places = self._number + torch.arange(len(keys), device=keys.device)
        self._new_keys.index_copy_(0, places.clamp(max=len(self.queue)), keys.to(self.queue.dtype))
        self._number += len(keys)

    @torch.no_grad()
    def before_step(self) -> None:
        """Forget the keys of other losses, such as those of alphas."""
        self._number.zero_()

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Momentum step, then the newest keys replace the oldest (the queue is kept in order of age)."""
        self.follow(self.momentum)
        if self.queue.device.type == "cpu":
            enqueue(self.queue, self._new_keys, int(self._number))
        else:
            enqueue_unread(self.queue, self._new_keys, self._number)
        self._number.zero_()


MOVED_AT_ONCE = 2048
"""Keys whose copies stay in a core's cache."""


@torch.no_grad()
def enqueue(queue: Tensor, keys: Tensor, number: int) -> None:
    """Put the first `number` keys at the head of the queue, in place; its tail is dropped.

    In place and in small parts: a new queue at each step costs several times as much, most of it for fresh memory.
    """
    size, number = len(queue), min(number, len(queue))
    for end in range(size, number, -MOVED_AT_ONCE):
        start = max(end - MOVED_AT_ONCE, number)
        queue[start:end] = queue[start - number : end - number].clone()
    queue[:number] = keys[:number]


@torch.no_grad()
def enqueue_unread(queue: Tensor, keys: Tensor, number: Tensor) -> None:
    """The same where the number is on a GPU, and nobody waits for it."""
    size = len(queue)
    places = torch.arange(size, device=queue.device)
    both = torch.cat([keys[:size], queue])
    queue.copy_(both[torch.where(places < number, places, size + places - number)])


class BYOL(MomentumFramework):
    """Grill et al. 2020: predict the momentum encoder's projection of the other view, no negatives."""

    def __init__(self, backbone: MakeHead, projector: MakeHead, predictor: MakeHead, momentum: float) -> None:
        super().__init__(backbone, projector, predictor)
        self.momentum = momentum

    def encode(self, views: Views) -> Encoded:
        """Online and target features of both views."""
        with torch.no_grad():
            targets = tuple(self.target_backbone(view) for view in views)
        return (*super().encode(views), *targets)

    def head_loss(self, encoded: Encoded) -> Tensor:
        """Normalised mean squared error, both sides (equation 2): 2 - 2 cosine."""
        online, targets = encoded[:2], encoded[2:]
        p1, p2 = of_each(self.predictor, of_each(self.projector, online))
        with torch.no_grad():
            z1, z2 = of_each(self.target_projector, targets)
        return 4 + 2 * (negative_cosine(p1, z2) + negative_cosine(p2, z1))

    def after_step(self, progress: float) -> None:
        """The momentum rises to 1 along a half cosine (section 3.2 of the paper)."""
        rising = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        self.follow(rising)
