"""The automatic search of label words and of templates on the training examples of one split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import words_at
from naslab.search_spaces.data.text import LabelledText
from naslab.search_spaces.data.text.templates import Template
from naslab.search_spaces.lmbff.generate import generate_templates, load_infiller
from naslab.search_spaces.lmbff.label_words import likely_words, nearest_words, search_mappings
from naslab.search_spaces.lmbff.model import FewShotModel
from naslab.search_spaces.lmbff.prompts import Prompter
from naslab.search_spaces.lmbff.space import LMBFF

BATCH = 64
Found = TypeVar("Found")


@torch.no_grad()
def words(
    space: LMBFF, model: FewShotModel, prompter: Prompter, seeds: tuple[int, ...], device: torch.device
) -> list[tuple[int, ...]]:
    """The best sets of label words for the prompter's template, without training; see `label_words`."""
    options, train = space.options, prompter.data.train
    logits = np.empty((len(train), model.language_model.config.vocab_size), dtype=np.float32)
    was_training = model.training
    model.eval()
    for numbers, batch in prompter.batches(prompter.rows(train), BATCH):
        inputs = (batch[name].to(device) for name in ("ids", "segments", "at"))
        logits[numbers] = words_at(model.language_model, *inputs).float().cpu().numpy()
    model.train(was_training)
    labels = train.labels.numpy()
    allowed = prompter.tokenizer.whole_words(logits.shape[1])
    candidates = likely_words(logits, labels, allowed, options.likely_words)
    if options.neighbours is not None:
        vectors = model.language_model.get_output_embeddings().weight.float().cpu().numpy()
        candidates = nearest_words(candidates, seeds, vectors, options.neighbours)
    return [mapping.words for mapping in search_mappings(logits, labels, candidates, options.searched_words)]


def templates(space: LMBFF, data: LabelledText, device: torch.device) -> list[Template]:
    """The best templates that the infiller writes around the training examples and their label words.

    Raises:
        InputError: no such infiller.
    """
    options, train = space.options, data.train
    assert options.infiller is not None
    shown = space.options.label_words[0]
    examples = [(train.pair(i), shown[int(train.labels[i])]) for i in range(len(train))]
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
