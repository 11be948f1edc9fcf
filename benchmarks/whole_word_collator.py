"""How fast whole words are masked: our collator against transformers' at 128 and 512 tokens.

Usage: python benchmarks/whole_word_collator.py [--out benchmarks/results/whole_word_collator.json]

Both get the same batch of 32 texts of random words, as lists; transformers' has its own default of whole words, all
[MASK], which is less work than 80/10/10. Interleaved in one process. `table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from results_file import read_result, write_result
from study_result import table_row
from transformers import BertTokenizer, DataCollatorForLanguageModeling

from naslab.efficiency import compare_latency
from naslab.search_spaces.common.objectives.masked_units import Budget
from naslab.search_spaces.data.text import SpecialIds
from naslab.search_spaces.whole_word.collator import WholeWordCollator

RESULT = Path(__file__).resolve().parent / "results" / "whole_word_collator.json"
LENGTHS, BATCH = (128, 512), 32
PIECES = [f"{mark}{chr(97 + i)}{chr(97 + j)}" for mark in ("", "##") for i in range(26) for j in range(26)]
NAMES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")


def tokenizer() -> BertTokenizer:
    """WordPiece over pairs of letters: a word of 2, 4 or 6 letters has one, two or three pieces."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("\n".join((*NAMES, *PIECES)), encoding="utf-8")
        return BertTokenizer(str(path))


def texts(length: int) -> list[str]:
    """Random words, more than fill the length."""
    rng = random.Random(0)
    return [" ".join(rng.choice("abcdefgh") * rng.choice((2, 2, 4, 6)) for _ in range(length)) for _ in range(BATCH)]


def collators(length: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and theirs on one batch."""
    made = tokenizer()
    codes = made(
        texts(length),
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    ours = [{"input_ids": codes["input_ids"][i], "words": codes.word_ids(i)} for i in range(BATCH)]
    names = ("input_ids", "attention_mask", "offset_mapping", "special_tokens_mask")
    theirs = [{name: codes[name][i] for name in names} for i in range(BATCH)]
    collate = WholeWordCollator(SpecialIds(), len(made), Budget(0.15))
    peer = DataCollatorForLanguageModeling(made, whole_word_mask=True, mask_replace_prob=1, random_replace_prob=0)
    return lambda: collate(ours), lambda: peer([dict(text) for text in theirs])


def measure(length: int) -> dict[str, Any]:
    """Milliseconds a batch of both, and how many times as long transformers takes."""
    ours, theirs = collators(length)
    found = compare_latency(theirs, ours, torch.device("cpu"), max_seconds=10.0)
    return {
        "length": length,
        "batch": BATCH,
        "ms": found.b.median,
        "transformers_ms": found.a.median,
        "times": found.ratio,
        "low": found.low,
        "high": found.high,
        "noisy": found.noisy,
        "samples_ms": found.b.samples_ms,
        "transformers_samples_ms": found.a.samples_ms,
    }


def table() -> str:
    """The result file as a Markdown table; says "not measured" where there is none."""
    rows = read_result("whole_word_collator", {"rows": []})["rows"]
    if not rows:
        return "The collator: not measured."
    lines = [table_row(["tokens", "ours, ms a batch of 32", "transformers, ms", "times as long"])]
    lines.append(table_row(["---"] * 4))
    for row in rows:
        times = f"{row['times']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        lines.append(table_row([str(row["length"]), f"{row['ms']:.2f}", f"{row['transformers_ms']:.1f}", times]))
    return "\n".join(lines)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = [measure(length) for length in LENGTHS]
    write_result(arguments.out, {"schema": "naslab.whole_word_collator/1", "rows": rows}, "cpu")


if __name__ == "__main__":
    main()
