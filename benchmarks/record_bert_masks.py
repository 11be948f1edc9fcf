"""Masks of BERT's published whole-word generator on given texts and draws, for the tests to hold ours to.

Usage: python benchmarks/record_bert_masks.py create_pretraining_data.py
                                              [--out tests/search_spaces/published/bert_masks.json]

The file is of github.com/google-research/bert, commit eedf571. Only its function create_masked_lm_predictions is run,
with a random number generator that writes down what it gave; the rest of the file needs TensorFlow 1.
"""

from __future__ import annotations

import argparse
import ast
import collections
import hashlib
import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULT = Path(__file__).resolve().parents[1] / "tests" / "search_spaces" / "published" / "bert_masks.json"
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
WORDS = [f"{mark}{chr(97 + i)}" for mark in ("", "##") for i in range(20)]
MIXED = (1, 1, 1, 2, 2, 3, 4, 6)
SETTINGS = ((0.15, 20), (0.15, 77), (0.4, 30), (0.01, 20), (0.3, 5))


class Recording(random.Random):
    """Keeps the order that a shuffle gave, and every draw."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.order: list[list[int]] = []
        self.draws: list[tuple[str, float]] = []

    def shuffle(self, x: Any) -> None:
        super().shuffle(x)
        self.order = [list(indices) for indices in x]
        self.draws.clear()  # a shuffle draws from random() too

    def random(self) -> float:
        drawn = super().random()
        self.draws.append(("random", drawn))
        return drawn

    def randint(self, a: int, b: int) -> int:
        drawn = a + int(super().random() * (b - a + 1))
        self.draws.append(("word", drawn))
        return drawn


def published(path: Path) -> Any:
    """The function, with whole-word masking on."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = "create_masked_lm_predictions"
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    instance = collections.namedtuple("instance", ["index", "label"])
    scope: dict[str, Any] = {"FLAGS": SimpleNamespace(do_whole_word_mask=True), "MaskedLmInstance": instance}
    exec(compile(ast.Module(kept, []), str(path), "exec"), scope)
    return scope[name]


def case(function: Any, seed: int) -> dict[str, Any]:
    """One text with its mask; `noise` is by position what decided its fate and its random token, in our terms."""
    made = random.Random(seed)
    lengths = (2, 2, 3) if seed % 7 == 0 else MIXED
    tokens = ["[CLS]"]
    for _ in range(made.randint(1, 60)):
        pieces = made.choice(lengths)
        tokens += [made.choice(WORDS[:20]), *(made.choice(WORDS[20:]) for _ in range(pieces - 1))]
    tokens.append("[SEP]")
    rate, most = SETTINGS[seed % len(SETTINGS)]
    rng = Recording(seed)
    output, positions, _ = function(list(tokens), rate, most, WORDS, rng)
    vocabulary = {token: number for number, token in enumerate(SPECIAL + WORDS)}
    return {
        "ids": [vocabulary[token] for token in tokens],
        "order": [indices[0] for indices in rng.order],
        "noise": noise(rng, set(positions)),
        "rate": rate,
        "most": most,
        "masked": [vocabulary[token] for token in output],
        "positions": positions,
    }


def noise(rng: Recording, positions: set[int]) -> dict[str, list[float]]:
    """Fate and random token of each masked position as uniform numbers: below .8 [MASK], below .9 random, else kept."""
    draws, found = iter(rng.draws), {}
    for index in (i for indices in rng.order if indices[0] in positions for i in indices):
        fate, word = next(draws)[1], 0.0
        if fate >= 0.8:
            kept = next(draws)[1] < 0.5
            fate = 0.95 if kept else 0.85
            word = 0.0 if kept else (next(draws)[1] + 0.5) / len(WORDS)
        found[str(index)] = [fate, word]
    return found


def main() -> None:
    """Write the cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    function = published(arguments.source)
    document = {
        "source": "github.com/google-research/bert, create_pretraining_data.py, commit eedf571",
        "sha256": hashlib.sha256(arguments.source.read_bytes()).hexdigest(),
        "special": len(SPECIAL),
        "vocabulary": len(SPECIAL) + len(WORDS),
        "continued": len(SPECIAL) + 20,
        "cases": [case(function, seed) for seed in range(60)],
    }
    arguments.out.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
