"""The automatic search of label words and of templates on the training examples of one split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import words_at
from naslab.search_spaces.common.modules.modes import evaluating
from naslab.search_spaces.common.scores.label_words import likely_words, nearest_words, search_mappings
from naslab.search_spaces.data.text import LabelledText
from naslab.search_spaces.data.text.templates import Template
from naslab.search_spaces.lmbff.generate import generate_templates, load_infiller
from naslab.search_spaces.lmbff.model import FewShotModel
from naslab.search_spaces.lmbff.prompts import Batch, Prompter
from naslab.search_spaces.lmbff.space import LMBFFOptions

Found = TypeVar("Found")


def words(
    options: LMBFFOptions, model: FewShotModel, prompter: Prompter, device: torch.device
) -> list[tuple[int, ...]]:
    """The best sets of label words for the prompter's template, without training.

    Args:
        prompter: its words are those that neighbours are near to.
    """
    train, network = prompter.data.train, model.language_model

    def ask(batch: Batch) -> Tensor:
        return words_at(network, *(batch[name].to(device) for name in ("ids", "segments", "at")))

    with evaluating(model):
        logits = prompter.answers([prompter.row(train, index) for index in range(len(train))], ask).numpy()
    labels = train.labels.numpy()
    likely = likely_words(logits, labels, prompter.tokenizer.whole_words(logits.shape[1]), options.likely_words)
    if options.neighbours is not None:
        vectors = network.get_output_embeddings().weight.detach().float().cpu().numpy()
        likely = nearest_words(likely, prompter.words, vectors, options.neighbours)
    return [mapping.words for mapping in search_mappings(logits, labels, likely, options.searched_words)]


def templates(options: LMBFFOptions, data: LabelledText, device: torch.device) -> list[Template]:
    """The best templates that the infiller writes around the training examples and their label words.

    Raises:
        InputError: no such infiller.
    """
    train, shown = data.train, options.label_words[0]
    assert options.infiller is not None
    examples = [(train.pair(index), shown[label]) for index, label in enumerate(train.labels.tolist())]
    network, tokenizer = load_infiller(options.infiller)
    return generate_templates(network.to(device), tokenizer, examples, options.searched_templates, options.pooling)


def ranked(found: Sequence[Found], rank: int, what: str) -> Found:
    """The one of a rank.

    Raises:
        InputError: so many were not found.
    """
    if rank >= len(found):
        raise InputError(f"{what}: {rank} is too high; the search found {len(found)} on this split")
    return found[rank]
