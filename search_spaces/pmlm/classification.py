"""Fine-tuned as a bidirectional encoder: classes of sentences by the state of [CLS], as BERT and UniLMv2 do."""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.efficiency.surroundings import seeded
from naslab.errors import InputError
from naslab.search_spaces.common.modules.class_head import class_head
from naslab.search_spaces.common.scores.accuracy import accuracy, most_frequent
from naslab.search_spaces.common.training.tuning import TuningOptions, tune
from naslab.search_spaces.data.text import SentenceOptions, TextTokenizer, load_sentences
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.pmlm.model import PseudoMaskedLM
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.splits import Splits
from naslab.search_spaces.task import Split

SCORED = 128
"""Sentences of a batch that is scored."""


class ClassificationOptions(TuningOptions):
    """Which sentences, and the recipe."""

    seed: int = Field(0, ge=0)
    """Decides the new weights, the order of the sentences, and dropout."""
    data: SentenceOptions = SentenceOptions()
    tokens: int = Field(64, ge=4, le=2**14)
    """Length of a sentence, [CLS] and [SEP] included; longer ones are cut."""


class Classifier(nn.Module):
    """A copy of the model, BERT's pooler and a linear layer: texts (B, L) to logits (B, classes)."""

    def __init__(self, model: PseudoMaskedLM, classes: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.head = class_head(model.lm.config, classes, drop_states=False)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Logits."""
        states_BLD, _ = self.model.states(ids_BL)
        logits: Tensor = self.head(states_BLD[:, 0])
        return logits


class Classification:
    """Sentences with their classes, and what a pre-trained model makes of them."""

    metric = "classification_top1"
    trivial = "always the most frequent class"
    """What the baseline is."""

    def __init__(self, options: ClassificationOptions, tokenizer: TextTokenizer, device: torch.device) -> None:
        self.options, self.device = options, device
        with data_of("task.classification.data"):
            data = load_sentences(options.data)
        if data.train.seconds:
            raise InputError("task.classification.data: pairs of sentences are not read here; use single sentences")
        rows = tokenizer.of_length(options.tokens)
        parts = (data.train, data.validation, data.test)
        self.ids = Splits(*(rows.worded(part.texts, "task.classification.data").to(device) for part in parts))
        self.labels = Splits(*(part.labels.to(device) for part in parts))
        self.classes, self.sha256 = data.classes, data.sha256

    def scores(self, model: PseudoMaskedLM, split: Split, full: bool) -> dict[str, float]:
        """`classification_top1`, percent, of a copy that is fine-tuned."""
        ids, labels, options = self.ids.train, self.labels.train, self.options
        with seeded(derive_seed(options.seed, "fine-tuning"), self.device):
            classifier = Classifier(model, len(self.classes)).to(self.device)
            loss = lambda chosen, _: F.cross_entropy(classifier(ids[chosen]), labels[chosen])  # noqa: E731
            tune(classifier, loss, len(ids), options, options.seed, self.device)
        with torch.no_grad():
            logits = torch.cat([classifier(ids) for ids in self.ids.of(split).split(SCORED)])
        return {self.metric: 100 * accuracy(logits, self.labels.of(split))}

    def baseline(self, split: Split) -> dict[str, float]:
        """The most frequent class."""
        return {self.metric: 100 * most_frequent(self.labels.train, self.labels.of(split))}
