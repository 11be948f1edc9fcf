"""What predicting masked words block after block costs and gives: UniLMv2's AE + PAR against AE alone.

Usage: python benchmarks/pmlm_effects.py [--parts steps quality] [--seeds 5] [--device cpu] [--out FILE]

Two parts, each kept from an earlier result file when it is not asked for:

steps    one training step of the joint pass over one of AE alone, and over two passes, one for each loss; interleaved
quality  held-out masked words, and sentences classified after fine-tuning: after as many steps, and after as many
         processor seconds, for which AE alone takes more steps

`table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any, cast

import torch
from results_file import Part, measure_parts, read_result
from study_result import interval_text, table_row

from naslab.efficiency import compare_latency
from naslab.nas.statistics import mean_interval
from naslab.search_spaces import find_space, make_task, seed_everything
from naslab.search_spaces.pmlm.model import PseudoMaskedLM
from naslab.search_spaces.pmlm.space import PMLM

NOT_MEASURED = "PMLM: not measured."
SIZES = {
    "tiny": ("tiny", {}, 8),
    "two layers of the paper's width, 256 tokens": ("paper", {"layers": 2, "vocabulary": 8192, "context": 256}, 2),
    "two layers of the paper's width, 512 tokens": ("paper", {"layers": 2, "vocabulary": 8192, "context": 512}, 1),
}
"""Preset, options and batch; a step of all twelve layers costs about six times as much, in the same proportions."""
SPACE = {"vocabulary": 2048, "context": 64, "layers": 2, "width": 96}
STEPS = 300
TASK = {
    "data": {"corpus": "python_topics"},
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 4e-3,
    "downstream": "classification",
    "classification": {"data": {"per_class": 1700, "test": 1000}, "tokens": 40, "learning_rate": 1e-3},
}
"""Film reviews do not do: after 1,600 steps a model this small predicts their most frequent words and nothing else."""
SCORES = ("masked_accuracy", "masked_loss", "order_loss", "classification_top1")
ARMS = ("ae_par", "ae", "ae for as long")


def step_costs(device: torch.device) -> list[dict[str, Any]]:
    """Ratios of the time of a training step, at every size with and without the relative bias."""
    rows = []
    for name, (preset, options, batch_size) in SIZES.items():
        space = cast(PMLM, find_space("pmlm", preset, {**options, "dropout": 0.0}))
        for biased in (True, False):
            joint, plain = (space.changed(relative_bias=biased, objective=o) for o in ("ae_par", "ae"))
            par = space.changed(relative_bias=biased, objective="par")
            seed_everything(0)
            model = cast(PseudoMaskedLM, space.build(joint)).to(device)
            batch = {k: v.to(device) for k, v in cast(dict[str, torch.Tensor], space.example_input(batch_size)).items()}
            plans = {"joint": [joint], "ae": [plain], "separate": [plain, par]}
            steps = {key: _step(model, batch, [space.plan(c) for c in chosen]) for key, chosen in plans.items()}
            flops = {key: sum(space.forward_flops(c, batch_size) for c in chosen) for key, chosen in plans.items()}
            row: dict[str, Any] = {"size": name, "batch_size": batch_size, "relative_bias": biased}
            for key, (above, below) in {
                "joint over ae": ("joint", "ae"),
                "separate over joint": ("separate", "joint"),
            }.items():
                found = compare_latency(steps[above], steps[below], device, max_seconds=25.0)
                row[key] = {
                    **{k: getattr(found, k) for k in ("ratio", "low", "high", "noisy")},
                    "flops": flops[above] / flops[below],
                    "samples_ms": [found.a.samples_ms, found.b.samples_ms],
                }
                print(f"{name}, bias {biased}: {key} {found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]", flush=True)
            rows.append(row)
    return rows


def _step(model: PseudoMaskedLM, batch: Mapping[str, torch.Tensor], plans: Sequence[Any]) -> Callable[[], None]:
    """Masks, forward and backward of one pass a plan, then AdamW."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        for plan in plans:
            model.plan = plan
            model(**batch)["loss"].backward()
        optimiser.step()

    return step


def quality(seeds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Test scores and processor seconds of each arm by seed, after every seed what there is by then.

    The longer AE takes as many steps as cost what AE + PAR did, by the times of the same seed.
    """
    space = cast(PMLM, find_space("pmlm", "tiny", SPACE))
    task = make_task(space, {**TASK, "steps_per_epoch": STEPS}, device)
    controls = {c.name: c.measure(0, "test") for c in task.controls() if not c.trained}
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm in ARMS[:2]:
            rows[arm].append(_trained(task, arm, seed))
        joint, alone = (rows[arm][-1]["train_seconds"] for arm in ARMS[:2])
        steps = round(STEPS * joint / alone)
        rows[ARMS[2]].append(_trained(make_task(space, {**TASK, "steps_per_epoch": steps}, device), ARMS[2], seed))
        yield {"space": SPACE, "task": TASK, "rows": rows, "controls": controls}


def _trained(task: Any, arm: str, seed: int) -> dict[str, Any]:
    seed_everything(seed)
    model = task.space.build(task.space.changed(objective=arm.split()[0]))
    began = time.process_time()
    for _ in task.train(model, seed):
        pass
    spent = time.process_time() - began
    scores = task.evaluate(model, "test")
    print(arm, seed, f"{spent:.1f} s", {k: round(scores[k], 3) for k in SCORES}, flush=True)
    return {"seed": seed, "steps": task.steps_per_epoch, "train_seconds": spent, "scores": scores}


def effects(score: str, than: str) -> list[float]:
    """AE + PAR's score less another arm's, seed by seed; nothing where it was not measured."""
    found = read_result("pmlm_effects", {}).get("quality")
    return [] if found is None else _gains(found, score, than)


def useless() -> str:
    """Why classes tell nothing of pre-training: no arm's are above those of a model without; empty where one's are."""
    found = read_result("pmlm_effects", {}).get("quality")
    if found is None:
        return ""
    rows = [[run["scores"]["classification_top1"] for run in runs] for runs in found["rows"].values()]
    above, without = max(map(mean, rows)), found["controls"]["untrained"]["classification_top1"]
    if above > without:
        return ""
    return f"undecided; {above:.1f} % at most, {without:.1f} % without pre-training: a longer one on a GPU"


def _gains(found: Mapping[str, Any], score: str, than: str) -> list[float]:
    own, theirs = ([row["scores"][score] for row in found["rows"][arm]] for arm in ("ae_par", than))
    return [a - b for a, b in zip(own, theirs, strict=True)]


def table() -> str:
    """The result file as Markdown tables; says "not measured" where there is none."""
    document = read_result("pmlm_effects", {})
    parts = [_steps_table(document.get("steps", [])), _quality_table(document.get("quality") or {})]
    return "\n\n".join(filter(None, parts)) or NOT_MEASURED


def _steps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = ("joint over ae", "separate over joint")
    head = ["size", "batch", "bias", *(cell for key in keys for cell in (key, "FLOPs"))]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for row in rows:
        cells = [row["size"], str(row["batch_size"]), "yes" if row["relative_bias"] else "no"]
        for key in keys:
            cells += [interval_text({"mean": row[key]["ratio"], **row[key]}), f"{row[key]['flops']:.2f}"]
        lines.append(table_row(cells))
    return "\n".join(lines) if rows else ""


def _quality_table(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    head = ["arm", "steps", "CPU s", *SCORES]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for arm, rows in found["rows"].items():
        cells = [f"{mean([r['scores'][score] for r in rows]):.3f}" for score in SCORES]
        lines.append(
            table_row(
                [
                    arm,
                    f"{mean([r['steps'] for r in rows]):.0f}",
                    f"{mean([r['train_seconds'] for r in rows]):.1f}",
                    *cells,
                ]
            )
        )
    for name, than in (("AE + PAR less AE, as many steps", "ae"), ("less AE, as long", "ae for as long")):
        cells = [interval_text(asdict(mean_interval(_gains(found, score, than))), sign=True) for score in SCORES]
        lines.append(table_row([name, "", "", *cells]))
    for name, scores in found["controls"].items():
        lines.append(
            table_row([f"control: {name}", "", "", *(f"{scores[s]:.3f}" if s in scores else "" for s in SCORES)])
        )
    return "\n".join(lines)


def main() -> None:
    """Measure the parts that are asked for and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parts: dict[str, Part] = {
        "steps": lambda _, device: [step_costs(device)],
        "quality": lambda given, device: quality(given.seeds, device),
    }
    measure_parts("pmlm_effects", parts, parser)


if __name__ == "__main__":
    main()
