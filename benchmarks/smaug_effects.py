"""SMAUG's effects: counts against the derived costs, step time of dense over sparse, and accuracy of the ablation.

Usage: python benchmarks/smaug_effects.py [--parts counts,steps,study,long] [--folder naslab-runs] [--slots 2]

`counts`: multiply-adds of the paper's sizes on meta, beside the ratios derived from ViT-B and BERT-base. `steps`: one
training step without masking and sparsification and with, interleaved in one process. `study`: the ablation,
studies/smaug_sparsity.yaml through `naslab run`; `long`: what its clips are too few to teach, smaug_long.yaml; both go
on where an earlier call stopped. Parts that are left out keep what the result file has of them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import write_result
from study_result import interval_text, run_study, seconds_of, table_row
from torch import nn

from naslab.efficiency import count_forward, count_training_step
from naslab.nas.statistics import difference_interval, mean_interval
from naslab.runs.hours import by_clock, clock_of
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.search_spaces import find_space
from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.smaug.space import SMAUG

RESULT = Path(__file__).resolve().parent / "results" / "smaug_effects.json"
STUDIES = {"study": "studies/smaug_sparsity.yaml", "long": "benchmarks/smaug_long.yaml"}
DERIVED = {
    (1, 0.5, 1.0, 1): (1.57, 1.50, 1.21),
    (1, 0.65, 1.0, 1): (1.88, 1.80, 1.39),
    (1, 0.5, 0.7, 1): (1.97, 1.88, 1.44),
    (1, 0.75, 0.7, 1): (2.49, 2.34, 1.70),
    (4, 0.65, 1.0, 4): (2.47, 2.29, 1.56),
    (4, 0.65, 0.7, 2): (3.52, 3.15, 1.91),
    (4, 0.75, 0.7, 4): (4.15, 3.65, 2.09),
    (4, 0.75, 0.5, 2): (5.04, 4.33, 2.29),
}
"""By frames, masking ratio, keep rate and frames kept: FLOPs of the dense step over the sparse one's without decoder,
with 1 and with 8 decoder blocks."""
DECODERS: dict[str, dict[str, Any]] = {
    "no MVM": {"mvm_weight": 0.0},
    "1 block": {"decoder_depth": 1},
    "8 blocks": {"decoder_depth": 8},
}
STEPS = (
    ("tiny", "after", 32), ("tiny", "before", 32), ("small", "after", 4), ("small", "before", 4),
)  # fmt: skip
"""Preset, when frames are selected, and batch size."""
LONG_TITLE = "Four times the training, on ten thousand clips (`benchmarks/smaug_long.yaml`):"
SCORES = ("mean_recall", "recall_at_1", "qa_top1", "choice_top1", "retrieval_qa")
PARTS = ("counts", "steps", *STUDIES)


def space(preset: str, **options: Any) -> SMAUG:
    found = find_space("smaug", preset, options)
    assert isinstance(found, SMAUG)
    return found


def changed(of: SMAUG, **values: Any) -> Configuration:
    """The reference with other values."""
    return of.configuration({**of.reference.as_dict(), **values})


def dense(of: SMAUG, **values: Any) -> Configuration:
    """The same model without visual masking and sparsification; its text is masked as the reference's."""
    frames = values.get("frames", of.reference["frames"])
    values = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames": frames, "frames_kept": frames}
    return changed(of, **values)


def counts() -> list[dict[str, Any]]:
    """Counted FLOPs of dense over sparse at the paper's sizes, for every row of DERIVED."""
    paper = space("paper")
    rows = []
    for (frames, ratio, keep, kept), expected in DERIVED.items():
        whole = counted(paper, dense(paper, frames=frames))
        sparse = {"visual_masking_ratio": ratio, "keep_rate": keep, "frames": frames, "frames_kept": kept}
        for (name, decoder), derived in zip(DECODERS.items(), expected, strict=True):
            flops = counted(paper, changed(paper, **sparse, **decoder))
            row = {**sparse, "decoder": name, "dense_gmac": whole / 2e9, "sparse_gmac": flops / 2e9}
            rows.append({**row, "ratio": whole / flops, "derived": derived})
    return rows


def counted(of: SMAUG, configuration: Configuration) -> int:
    """FLOPs of the pre-training forward of one sample."""
    with torch.device("meta"):
        return count_forward(of.build(configuration), of.example_input(1)).total


def steps(seconds: float) -> list[dict[str, Any]]:
    """Seconds of training steps, dense and sparse in turn, with the ratio of their medians and of their FLOPs."""
    rows = []
    for preset, selection, batch in STEPS:
        of = space(preset)
        made = {"dense": dense(of), "sparse": changed(of, selection=selection)}
        torch.manual_seed(0)
        models = {name: of.build(configuration).train() for name, configuration in made.items()}
        inputs = of.example_input(batch)
        work = {}
        for name, model in models.items():
            step = count_training_step(model, inputs)
            assert step is not None
            work[name] = step.total
        samples = interleaved(models, inputs, seconds)
        row = {"preset": preset, "selection": selection, "batch_size": batch, "samples_s": samples}
        row |= {"time": ratio(samples["dense"], samples["sparse"]), "flops": work["dense"] / work["sparse"]}
        rows.append({**row, "training_flops": work, "threads": torch.get_num_threads()})
        print(f"{preset} {selection}: {row['time']['ratio']:.2f} of {row['flops']:.2f} by FLOPs", flush=True)
    return rows


def interleaved(models: dict[str, nn.Module], inputs: Any, seconds: float) -> dict[str, list[float]]:
    """Seconds of whole steps (forward, backward, AdamW), one of each model a round; at least ten rounds."""
    optimisers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    samples: dict[str, list[float]] = {name: [] for name in models}
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 12 or time.perf_counter() < end:
        for name, model in models.items():
            start = time.perf_counter()
            model(**inputs)["loss"].backward()
            optimisers[name].step()
            optimisers[name].zero_grad()
            if rounds >= 2:
                samples[name].append(time.perf_counter() - start)
        rounds += 1
    return samples


def ratio(a: list[float], b: list[float]) -> dict[str, float]:
    """Ratio of medians a / b with a bootstrap 95 % interval over rounds, resampled in pairs."""
    pairs, rng = np.array([a, b]), np.random.default_rng(0)
    medians = np.median(pairs[:, rng.integers(pairs.shape[1], size=(2000, pairs.shape[1]))], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return {"ratio": float(np.median(a) / np.median(b)), "low": float(low), "high": float(high)}


def summarise(ledger: Ledger) -> dict[str, Any]:
    """Accuracy with intervals, training seconds, and both held against the dense model."""
    recorded = ledger.trials()
    clock = clock_of([recorded])  # core hours, which a neighbour does not move, as in the ranking
    trials = [t for t in by_clock(recorded, clock) if t.state == "complete"]
    groups: dict[str, dict[str, Any]] = {}
    for trial in trials:
        if trial.job.configuration is None or trial.job.role not in ("reference", "final"):
            continue
        group = groups.setdefault(
            trial.job.configuration.digest, {"configuration": trial.job.configuration.as_dict(), "trials": []}
        )
        group["trials"].append({"seed": trial.job.seed, "seconds": dict(trial.seconds), "scores": dict(trial.scores)})
    dense_ones = [g for g in groups.values() if is_dense(g["configuration"])]
    plain = min(dense_ones, key=lambda group: group["configuration"]["text_masking_ratio"])
    for group in groups.values():
        group["scores"] = {s: asdict(mean_interval(column(group, s))) for s in SCORES}
        group["against_dense"] = {s: asdict(difference_interval(column(group, s), column(plain, s))) for s in SCORES}
        group["training_seconds"] = asdict(mean_interval(training(group)))
        group["dense_time_ratio"] = asdict(mean_interval(time_ratios(plain, group)))
    controls: dict[str, list[dict[str, float]]] = {}
    for trial in trials:
        if trial.job.role == "control":
            controls.setdefault(str(trial.job.label), []).append(dict(trial.scores))
    return {
        "configurations": groups,
        "controls": {
            name: {s: asdict(mean_interval([row[s] for row in rows])) for s in SCORES if s in rows[0]}
            for name, rows in controls.items()
        },
        "clock": clock,
        "ranking": rank(ledger.study, recorded).to_dict(),
    }


def is_dense(values: dict[str, Any]) -> bool:
    """Whether nothing of the frames is masked or dropped."""
    return (
        values["visual_masking_ratio"] == 0 and values["keep_rate"] == 1 and values["frames_kept"] == values["frames"]
    )


def column(group: dict[str, Any], score: str) -> list[float]:
    """A score of each seed."""
    return [trial["scores"][score] for trial in group["trials"]]


def training(group: dict[str, Any]) -> list[float]:
    """Training seconds of each seed."""
    return [trial["seconds"]["train"] for trial in group["trials"]]


def time_ratios(plain: dict[str, Any], group: dict[str, Any]) -> list[float]:
    """Training seconds of the dense model over the group's, seed by seed."""
    dense_seconds = {trial["seed"]: trial["seconds"]["train"] for trial in plain["trials"]}
    shared = [trial for trial in group["trials"] if trial["seed"] in dense_seconds]
    return [dense_seconds[trial["seed"]] / trial["seconds"]["train"] for trial in shared]


def table() -> str:
    """The measured tables as Markdown; what is missing says so."""
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    ablation, long = (_study(found.get(part)) for part in STUDIES)
    return "\n\n".join([_counts(found.get("counts")), _steps(found.get("steps")), ablation, LONG_TITLE, long])


def _counts(rows: list[dict[str, Any]] | None) -> str:
    if not rows:
        return "Counts: not measured."
    head = ["frames", "masked", "keep", "frames kept", *(f"{name}: counted (derived)" for name in DECODERS)]
    lines = [table_row(head), table_row(["---"] * len(head))]
    cells = {(_key(row), row["decoder"]): f"{row['ratio']:.2f} ({row['derived']:.2f})" for row in rows}
    for key in dict.fromkeys(_key(row) for row in rows):
        lines.append(table_row([*(f"{value:g}" for value in key), *(cells[key, name] for name in DECODERS)]))
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[float, ...]:
    return row["frames"], row["visual_masking_ratio"], row["keep_rate"], row["frames_kept"]


def _steps(rows: list[dict[str, Any]] | None) -> str:
    if not rows:
        return "Step time: not measured."
    head = ["preset", "frames selected", "batch", "step time, dense over sparse", "training FLOPs, dense over sparse"]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for row in rows:
        cells = [row["preset"], f"{row['selection']} encoding", str(row["batch_size"])]
        lines.append(
            table_row([*cells, interval_text({**row["time"], "mean": row["time"]["ratio"]}), f"{row['flops']:.2f}"])
        )
    return "\n".join(lines)


def _study(found: dict[str, Any] | None) -> str:
    if not found:
        return "Not measured."
    shown = ("mean_recall", "qa_top1")
    head = ["frames masked", "text masked", "kept of tokens", "of frames", seconds_of(found), "dense time over its"]
    head += [cell for score in shown for cell in (score, "less dense")] + ["choice_top1"]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for group in found["configurations"].values():
        values = group["configuration"]
        cells = [f"{values['visual_masking_ratio']:g}", f"{values['text_masking_ratio']:g}", _kept(values)]
        cells += [f"{values['frames_kept']} of {values['frames']}"]
        if values["frames_kept"] < values["frames"]:
            cells[-1] += f", chosen {values['selection']}"
        cells += [interval_text(group["training_seconds"]), interval_text(group["dense_time_ratio"])]
        for score in shown:
            cells += [interval_text(group["scores"][score]), interval_text(group["against_dense"][score])]
        lines.append(table_row([*cells, interval_text(group["scores"]["choice_top1"])]))
    for name, scores in found["controls"].items():
        cells = [cell for score in shown for cell in (interval_text(scores[score]) if score in scores else "", "")]
        lines.append(table_row([f"control: {name}", *[""] * 5, *cells, interval_text(scores["choice_top1"])]))
    return "\n".join(lines)


def _kept(values: dict[str, Any]) -> str:
    rate = values["keep_rate"]
    return "all" if rate == 1 else f"{rate:g} at {values['sparsify_layers']}"


def main() -> None:
    """Measure the parts that are asked for and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--folder", type=Path, default=Path("naslab-runs"))
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each pair of step times")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    wanted = arguments.parts.split(",")
    document = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    document = {key: document[key] for key in PARTS if key in document}
    if "counts" in wanted:
        document["counts"] = counts()
    if "steps" in wanted:
        document["steps"] = steps(arguments.seconds)
    for part in [part for part in STUDIES if part in wanted]:
        ledger = run_study(STUDIES[part], str(arguments.folder / "benchmark.db"), arguments.slots)
        document[part] = summarise(ledger)
    write_result(arguments.out, {"schema": "naslab.smaug_effects/1", **document, "seed": 0})


if __name__ == "__main__":
    main()
