"""Sentences as vectors of length 1 that no training changes: for the filter of demonstrations and the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from naslab.errors import InputError
from naslab.search_spaces.common.modules.language_models import usable_positions
from naslab.search_spaces.common.modules.pretrained import read_pretrained
from naslab.search_spaces.common.scores.probe import linear_probe_accuracy
from naslab.search_spaces.data.text.hub_tokenizers import load_tokenizer

Vectors: TypeAlias = Any
"""(N, F), dense or sparse."""
Embed: TypeAlias = Callable[[Sequence[str]], Vectors]
Labelled: TypeAlias = tuple[Sequence[str], torch.Tensor]
"""Texts, and their classes (N,)."""
Encode: TypeAlias = Callable[[str], Sequence[int]]
BATCH = 64
LONGEST = 256
"""Tokens of a text, as sentence-transformers cuts it for MiniLM."""


def embedder(name: str, encode: Encode, size: int, known: Sequence[str], device: torch.device) -> Embed:
    """`words`: counts of tokens, weighted by their rarity in `known`; else the mean state of a sentence encoder.

    Args:
        encode, size: a text to token numbers, and how many numbers there are.

    Raises:
        InputError: there is no such encoder.
    """
    return word_counts(encode, size, known) if name == "words" else sentence_states(name, device)


def word_counts(encode: Encode, size: int, known: Sequence[str]) -> Embed:
    """Sparse counts times log(texts / texts with the token)."""
    seen = Counter(token for text in known for token in set(encode(text)))
    weight_V = np.log(len(known) / np.array([max(seen[token], 1) for token in range(size)])) + 1e-9

    def embed(texts: Sequence[str]) -> Vectors:
        from scipy.sparse import csr_matrix

        counts = [Counter(encode(text)) for text in texts]
        rows = [row for row, of_text in enumerate(counts) for _ in of_text]
        columns = [token for of_text in counts for token in of_text]
        values = np.array([number for of_text in counts for number in of_text.values()], float) * weight_V[columns]
        norms = np.sqrt(np.bincount(rows, values**2, len(texts))).clip(min=1e-12)
        return csr_matrix((values / norms[rows], (rows, columns)), (len(texts), size))

    return embed


def sentence_states(name: str, device: torch.device) -> Embed:
    """Mean of the last states over the tokens, as sentence-transformers pools them.

    Raises:
        InputError: there is no such encoder, its checkpoint lacks weights, or it cannot be asked.
    """
    from transformers import AutoModel

    where = "task.embedder"
    model, missing = read_pretrained(AutoModel, name, where)
    if lacking := [key for key in missing if not key.startswith("pooler.")]:
        raise InputError(f"{where}: the checkpoint of {name} lacks {len(lacking)} weights, such as {lacking[0]}")
    model, tokenizer = model.to(device).eval(), load_tokenizer(name, where)
    longest = min(LONGEST, usable_positions(model.config))

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Vectors:
        found = []
        for start in range(0, len(texts), BATCH):
            inputs = tokenizer(
                list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=longest,
                return_tensors="pt", split_special_tokens=True,
            ).to(device)  # fmt: skip
            kept = inputs["attention_mask"][..., None]
            mean = (model(**inputs)[0] * kept).sum(1) / kept.sum(1)
            found.append(torch.nn.functional.normalize(mean, dim=1).cpu().numpy())
        return np.concatenate(found).astype(np.float64)

    try:
        embed(["a " * longest, "the"])
    except Exception as error:  # noqa: BLE001 - whatever the model or its tokenizer raises, it is no sentence encoder
        words = " ".join(str(error).split())[:120]
        raise InputError(f"{where}: {name!r}, a {model.config.model_type}, cannot be used: {words}") from None
    return embed


def cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Of every vector of the first with every one of the second."""
    product = first @ second.T
    return dense(product)


def probe_accuracy(embed: Embed, train: Labelled, scored: Labelled, classes: int) -> float:
    """Share of texts that logistic regression on the vectors of others classifies right."""
    bank, queries = (torch.from_numpy(dense(embed(texts))) for texts, _ in (train, scored))
    used = bank.abs().sum(0) > 0
    return linear_probe_accuracy(bank[:, used], train[1], queries[:, used], scored[1], classes)


def dense(vectors: Vectors) -> NDArray[np.float64]:
    """Vectors as an array of all their values."""
    return np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors)
