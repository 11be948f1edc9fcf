"""What a prompt gives over a new head on the same encoder, with 16 examples a class, as the encoder learns more words.

Usage: python benchmarks/lmbff_effects.py --reviews vaderSentiment-3.3.2.tar.gz [--steps 0 200 800 2000] [--out FILE]

A small BERT is adapted to film reviews without labels, for longer and longer. After each length: the accuracy of the
zero-shot prompt, and on five splits prompt and head, each with the best of the same learning rates by validation
accuracy, and the frozen baseline. Only the longest is asked about product reviews, too. No effect is claimed below
GATE. One core, about ten minutes; `table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from results_file import RESULTS, write_result
from torch import Tensor

from naslab.nas.statistics import mean_interval
from naslab.search_spaces import find_space, make_task, seed_everything
from naslab.search_spaces.common.training.adaptation import AdaptationOptions, adapt, corpus_tokens
from naslab.search_spaces.data.text import TextOptions
from naslab.search_spaces.lmbff.task import PUBLISHED_SEEDS

RESULT = RESULTS / "lmbff_effects.json"
CPU = torch.device("cpu")
GATE = 60.0
"""Percent of zero-shot accuracy from which on the masked LM is said to know the prompt's words."""
SIZES = {"vocabulary": 4096, "width": 64, "layers": 2, "heads": 4, "length": 64}
STEPS = (0, 200, 800, 2000)
RECIPE = AdaptationOptions(
    steps=1, masked=0.25, learning_rate=2e-3, text=TextOptions(corpus="imdb", max_characters=20_000_000)
)
"""Of the adaptation, but for its steps of 32 windows of 64 tokens each."""
RATES = (3e-4, 1e-3)
TUNING = {"epochs": 4, "steps_per_epoch": 20, "batch_size": 8}
TEST = 1000
NOT_MEASURED = "LM-BFF: not measured."


@cache
def fresh() -> tuple[Any, Any]:
    """The space and task whose BERT is adapted."""
    space = find_space("lmbff", "tiny", SIZES)
    return space, make_task(space, {"data": {"name": "movie_reviews", "test": TEST}}, CPU)


@cache
def corpus() -> Tensor:
    """Tokens of the text without labels."""
    return corpus_tokens(RECIPE, fresh()[1].tokenizer.encode_all)


def adapted(steps: int, folder: str) -> dict[str, Any]:
    """A BERT adapted for so many steps, saved in a folder; what that cost."""
    space, task = fresh()
    tokens = corpus()
    began = time.process_time()
    seed_everything(0)
    model = space.build(space.published["prompt"])
    loss = None
    if steps:
        options = RECIPE.model_copy(update={"steps": steps})
        loss = adapt(model.language_model, task.tokenizer.special, tokens, options, 0).loss
    spent = time.process_time() - began
    model.save_pretrained(Path(folder))
    task.tokenizer.save(Path(folder))
    return {"tokens": steps * RECIPE.batch_size * RECIPE.length, "masked_loss": loss, "seconds": spent}


def measured(folder: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Zero-shot accuracy, the frozen baseline, and every run of both methods."""
    space = find_space("lmbff", "tiny", {"encoder": folder, "length": SIZES["length"]})
    task = make_task(space, {"data": dict(data), **TUNING}, CPU)
    controls = {control.name: control for control in task.controls()}
    runs = []
    for seed in PUBLISHED_SEEDS:
        for method in ("prompt", "standard"):
            for rate in RATES:
                began = time.process_time()
                model = space.build(space.configuration({**space.published[method], "learning_rate": rate}))
                for _ in task.train(model, seed):
                    pass
                scores = {split: task.evaluate(model, split)["accuracy"] for split in ("validation", "test")}
                spent = time.process_time() - began
                runs.append({"method": method, "seed": seed, "rate": rate, "seconds": spent, **scores})
    frozen = {str(seed): controls["frozen_embedding"].measure(seed, "test")["accuracy"] for seed in PUBLISHED_SEEDS}
    return {"zero_shot": controls["zero_shot"].measure(0, "test")["accuracy"], "frozen": frozen, "runs": runs}


def gaps(found: Mapping[str, Any]) -> list[float]:
    """Test accuracy of the prompt less the head's by split, each with the rate of the best validation accuracy."""
    best: dict[tuple[str, int], Mapping[str, Any]] = {}
    for run in found["runs"]:
        key = (run["method"], run["seed"])
        if key not in best or run["validation"] > best[key]["validation"]:
            best[key] = run
    return [best["prompt", seed]["test"] - best["standard", seed]["test"] for seed in PUBLISHED_SEEDS]


def longest() -> Mapping[str, Any]:
    """What the longest adaptation gave, by data set."""
    levels = json.loads(RESULT.read_text(encoding="utf-8"))["levels"] if RESULT.exists() else [{"data": {}}]
    return levels[-1]["data"]  # type: ignore[no-any-return]


def table() -> str:
    """The curve over adaptation tokens as Markdown."""
    if not RESULT.exists():
        return NOT_MEASURED
    lines = [
        "| adaptation tokens | core seconds | data | zero-shot | frozen | prompt | head | prompt less head |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for level in json.loads(RESULT.read_text(encoding="utf-8"))["levels"]:
        for name, found in level["data"].items():
            gap = mean_interval(gaps(found))
            shown = [_mean([r["test"] for r in found["runs"] if r["method"] == m]) for m in ("prompt", "standard")]
            cells = [f"{level['tokens']:,}", f"{level['seconds']:.0f}", name, f"{found['zero_shot']:.1f}"]
            cells += [_mean(found["frozen"].values()), *shown, f"{gap.mean:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(values: Any) -> str:
    found = list(values)
    return f"{sum(found) / len(found):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reviews", type=Path, help="vaderSentiment's source distribution; without it only MR")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    levels = []
    for steps in arguments.steps:
        with tempfile.TemporaryDirectory() as folder:
            level = adapted(steps, folder)
            data = {"movie_reviews": measured(folder, {"name": "movie_reviews", "test": TEST})}
            if arguments.reviews and steps == arguments.steps[-1]:
                products = {"name": "product_reviews", "root": str(arguments.reviews), "test": TEST}
                data["product_reviews"] = measured(folder, products)
        levels.append({**level, "data": data})
        found = data["movie_reviews"]
        print(f"{level['tokens']} tokens: zero-shot {found['zero_shot']:.1f}, {gaps(found)}", flush=True)
    options = {"sizes": SIZES, "tuning": TUNING, "rates": RATES, "seeds": PUBLISHED_SEEDS, "test": TEST, "gate": GATE}
    write_result(arguments.out, {"schema": "naslab.lmbff_effects/1", "options": options, "levels": levels})


if __name__ == "__main__":
    main()
