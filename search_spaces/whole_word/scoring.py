"""Scores of a pre-trained model: sentiment, tags, and the recovery of held-out whole words.

Names: N texts or windows, L tokens, D width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.efficiency.surroundings import seeded
from naslab.search_spaces.common.objectives.masked_units import Masked
from naslab.search_spaces.common.scores.accuracy import accuracy
from naslab.search_spaces.common.training.tuning import TuningOptions, tune
from naslab.search_spaces.data.text import IGNORED
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.whole_word.model import WholeWordModel

ENCODED_BATCH = 128


@torch.no_grad()
def states(model: WholeWordModel, ids_NL: Tensor, pad: int | None = None) -> Tensor:
    """States (N, L, D) of texts, float32."""
    return torch.cat([model.encode(ids, pad).float() for ids in ids_NL.split(ENCODED_BATCH)])


@torch.no_grad()
def sentence_features(model: WholeWordModel, ids_NL: Tensor, pad: int) -> Tensor:
    """The mean state of each text's tokens, (N, D), float32."""
    parts = ((model.encode(ids, pad), ids) for ids in ids_NL.split(ENCODED_BATCH))
    return torch.cat([mean_state(found, ids, pad).float() for found, ids in parts])


def mean_state(states_NLD: Tensor, ids_NL: Tensor, pad: int) -> Tensor:
    """The mean over what is no padding, (N, D)."""
    kept = ids_NL.ne(pad)[..., None]
    return (states_NLD * kept).sum(1) / kept.sum(1)


@torch.no_grad()
def recovery(model: WholeWordModel, masked: Masked, index_NL: Tensor) -> dict[str, float]:
    """Percent of the hidden words whose tokens are all predicted right, and of the hidden tokens; their mean loss.

    Args:
        index_NL: word of each token, from 0 in each text, -1 for none.
    """
    nats, right, tokens, whole, words = 0.0, 0, 0, 0, 0
    parts = zip(*(t.split(ENCODED_BATCH) for t in (masked.ids_BL, masked.labels_BL, index_NL)), strict=True)
    for ids, labels, index in parts:
        hidden = labels != IGNORED
        logits = model.bert.cls(model.encode(ids)[hidden]).float()
        found = logits.argmax(-1) == labels[hidden]
        nats += float(F.cross_entropy(logits, labels[hidden], reduction="sum"))
        right, tokens = right + int(found.sum()), tokens + len(found)
        of_word, asked = index.clamp(min=0), torch.zeros_like(index).masked_fill(hidden, 1)
        wrong = asked.clone()
        wrong[hidden] = (~found).long()
        asked, wrong = (torch.zeros_like(index).scatter_add(1, of_word, counted) for counted in (asked, wrong))
        whole, words = whole + int((asked.gt(0) & wrong.eq(0)).sum()), words + int(asked.gt(0).sum())
    return {
        "word_recovery": 100 * whole / max(words, 1),
        "token_recovery": 100 * right / max(tokens, 1),
        "masked_loss": nats / max(tokens, 1),
    }


class SentenceClassifier(nn.Module):
    """A copy of the model with a linear layer on the mean state: texts (N, L) to logits (N, classes)."""

    def __init__(self, model: WholeWordModel, pad: int, classes: int) -> None:
        super().__init__()
        self.model, self.pad = copy.deepcopy(model), pad
        self.head = nn.Linear(int(model.bert.config.hidden_size), classes)

    def forward(self, ids_NL: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(mean_state(self.model.encode(ids_NL, self.pad), ids_NL, self.pad))
        return logits


def tuned(
    model: WholeWordModel, ids_NL: Tensor, labels_N: Tensor, pad: int, classes: int, options: TuningOptions, seed: int
) -> SentenceClassifier:
    """A classifier trained on labelled texts on the model's device; global generators stay untouched."""
    device = ids_NL.device
    with seeded(derive_seed(seed, "tune"), device):
        classifier = SentenceClassifier(model, pad, classes).to(device)
        loss = lambda chosen, _: F.cross_entropy(classifier(ids_NL[chosen]), labels_N[chosen])  # noqa: E731
        tune(classifier, loss, len(ids_NL), options, seed, device, clip_norm=1.0)
    return classifier


@torch.no_grad()
def classified(classifier: SentenceClassifier, ids_NL: Tensor, labels_N: Tensor) -> float:
    """Percent right."""
    logits = torch.cat([classifier(ids).float() for ids in ids_NL.split(ENCODED_BATCH)])
    return 100 * accuracy(logits, labels_N)
