"""Scores of what a sequence model writes by itself, behind gold and corrupted prefixes, and given gold tokens.

A prefix test begins each target with its first gold tokens, some of them replaced by tokens of other targets, and
scores what the model writes after it against how the target goes on: chrF of the continuations alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from naslab.search_spaces.common.scores.translation import translation_scores
from naslab.search_spaces.data.placing import sent
from naslab.search_spaces.data.text import IGNORED
from naslab.search_spaces.data.text.pair_tokenizers import PairTokenizer
from naslab.search_spaces.dysi.model import SequenceModel
from naslab.search_spaces.dysi.pairs import TokenPairs
from naslab.search_spaces.seeds import derive_seed


@torch.no_grad()
def written(
    model: SequenceModel,
    pairs: TokenPairs,
    rows: Sequence[int],
    tokenizer: PairTokenizer,
    batch_size: int,
    beams: int = 1,
    prefixes: Tensor | None = None,
) -> list[str]:
    """What the model writes for the sources of these pairs, behind the prefixes (rows, P) if there are any."""
    device = next(model.parameters()).device
    begun = torch.zeros(len(rows), 0, dtype=torch.long) if prefixes is None else prefixes
    most = pairs.options.target_tokens - begun.shape[1]
    texts: list[str] = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        given = sent(pairs.source_rows(rows[part]), device), sent(begun[part], device)
        texts += tokenizer.decode([_until_end(row, pairs) for row in model.generate(*given, most, beams).tolist()])
    return texts


def _until_end(row: list[int], pairs: TokenPairs) -> list[int]:
    return row[: row.index(pairs.ids.end)] if pairs.ids.end in row else row


def prefix_chrf(
    model: SequenceModel,
    pairs: TokenPairs,
    rows: Sequence[int],
    tokenizer: PairTokenizer,
    batch_size: int,
    tokens: int,
    corruption: float,
) -> float:
    """chrF of what the model writes behind `tokens` gold tokens, each replaced with probability `corruption`.

    Args:
        rows: pairs of which the target goes on.
    """
    gold = torch.tensor([list(pairs.targets[row][:tokens]) for row in rows])
    generator = torch.Generator().manual_seed(derive_seed("prefix", tokens))
    every = torch.tensor([token for target in pairs.targets for token in target if token != pairs.ids.end])
    others = every[torch.randint(len(every), gold.shape, generator=generator)]
    prefixes = torch.where(torch.rand(gold.shape, generator=generator) < corruption, others, gold)
    endings = [[token for token in pairs.targets[row][tokens:] if token != pairs.ids.end] for row in rows]
    found = written(model, pairs, rows, tokenizer, batch_size, prefixes=prefixes)
    return translation_scores(found, tokenizer.decode(endings))["chrf"]


@torch.no_grad()
def forced_scores(model: SequenceModel, pairs: TokenPairs, rows: Sequence[int], batch_size: int) -> dict[str, float]:
    """With gold prefixes: `nats` a target token, and `token_accuracy` in percent."""
    device = next(model.parameters()).device
    nats = right = number = 0.0
    for batch in _batches(pairs, rows, batch_size):
        source, tokens, targets = (sent(batch[name], device) for name in ("source", "decoder_tokens", "targets"))
        logits = model.write(model.read(source), tokens).float()
        flat = logits.flatten(0, 1), targets.flatten()
        nats += torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum").item()
        right += (logits.argmax(-1) == targets).sum().item()
        number += (targets != IGNORED).sum().item()
    return {"nats": nats / number, "token_accuracy": 100 * right / number}


def _batches(pairs: TokenPairs, rows: Sequence[int], batch_size: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(rows), batch_size):
        yield pairs.batch(rows[start : start + batch_size], generator)
