"""What a wider residual stream costs and gives: AltUp against dense, wider dense, Sum and Hyper-Connections.

Usage: python benchmarks/altup_effects.py [--folder naslab-runs] [--slots 2] [--parts counts steps study]
                                          [--out benchmarks/results/altup_effects.json]

Three parts, each kept from an earlier result file when it is not asked for:

counts  parameters and FLOPs of T5 1.1 with AltUp, on meta tensors: nothing is timed
steps   one training step with AltUp over one of the dense model, interleaved in one process, at two sizes
study   studies/altup_width.yaml through `naslab run`: loss at equal steps and at equal device hours, seven seeds

`table()` renders the result file as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from results_file import Part, measure_parts, read_result
from study_result import run_study
from torch import nn

from naslab.efficiency import Comparison, compare_latency
from naslab.nas.statistics import difference_interval
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.trial import RungRecord, Trial
from naslab.search_spaces import Configuration, SearchSpace, find_space, seed_everything

STUDY = "studies/altup_width.yaml"
METRIC, SHOWN = "saved_bits_per_byte", "bits_per_byte"
COUNTED = {"T5 S": "paper-small", "T5 B": "paper", "T5 L": "paper-large"}
NOT_MEASURED = "AltUp: not measured."


def counts() -> list[dict[str, Any]]:
    """Parameters of embeddings and of the rest, and forward FLOPs of one sequence, for dense, K = 2, 4 and Recycled."""
    rows = []
    for model_name, preset in COUNTED.items():
        space = find_space("altup", preset)
        chosen = {"dense": space.published["dense"], "AltUp K=2": space.reference}
        chosen |= {"AltUp K=4": space.published["altup-4"], "Recycled K=2": space.published["recycled-altup"]}
        for name, configuration in chosen.items():
            with torch.device("meta"):
                model = space.build(configuration)
            sizes = {n: p.numel() for n, p in model.named_parameters()}
            tables = sum(size for n, size in sizes.items() if n.endswith("embedding.table.weight"))
            rows.append(
                {
                    "model": model_name,
                    "method": name,
                    "embedding_parameters": tables,
                    "other_parameters": sum(sizes.values()) - tables,
                    "forward_flops": space.forward_flops(configuration, 1),
                }
            )
    return rows


def step_costs(device: torch.device) -> list[dict[str, Any]]:
    """Ratios of the time of a training step to the dense model's, at the sizes of the presets tiny and small."""
    rows = []
    for preset, options, batch_size in (("tiny", {}, 16), ("small", {"context": 256, "layers": 4}, 2)):
        space = find_space("altup", preset, options)
        dense = training_step(space, space.published["dense"], batch_size, device)
        for name, configuration in compared(space).items():
            other = training_step(space, configuration, batch_size, device)
            found = compare_latency(other, dense, device, max_seconds=10.0)
            flops = [space.forward_flops(c, batch_size) or 0 for c in (configuration, space.published["dense"])]
            rows.append(
                {
                    "preset": preset,
                    "options": options,
                    "batch_size": batch_size,
                    "method": name,
                    "flops_over_dense": flops[0] / flops[1],
                    **timing(found),
                }
            )
            print(f"{preset} {name}: {found.ratio:.2f} of dense")
    return rows


def compared(space: SearchSpace) -> dict[str, Configuration]:
    """The methods whose step is timed."""
    recycled_4 = space.configuration({**space.published["recycled-altup"], "streams": 4})
    return {
        "AltUp K=2": space.reference,
        "AltUp K=4": space.published["altup-4"],
        "Recycled K=2": space.published["recycled-altup"],
        "Recycled K=4": recycled_4,
        "Gemma 3n coefficients K=4": space.published["gemma3n-coefficients"],
        "Hyper-Connections n=2": space.published["dhc-2"],
        "dense, twice the width": space.published["dense-2x"],
    }


def training_step(
    space: SearchSpace, configuration: Configuration, batch_size: int, device: torch.device
) -> Callable[[], None]:
    """Forward, backward and AdamW step of one configuration on a fixed batch."""
    seed_everything(0)
    model: nn.Module = space.build(configuration).to(device)
    given = space.example_input(batch_size)
    assert isinstance(given, Mapping)
    batch = {name: tensor.to(device) for name, tensor in given.items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        model(**batch).backward()
        optimiser.step()

    return step


def timing(found: Comparison) -> dict[str, Any]:
    """A comparison as plain values with its raw samples."""
    samples = {"samples_ms": found.a.samples_ms, "dense_samples_ms": found.b.samples_ms}
    return {
        "step_ms": found.a.median,
        "dense_step_ms": found.b.median,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "noisy": found.noisy,
        **samples,
    }


def summarise(ledger: Ledger) -> dict[str, Any]:
    """Ranking, raw trials, and differences in bits per byte to dense and to Hyper-Connections; negative is better.

    At equal steps: the test scores at the end. At equal hours: the validation scores that each seed had reached when
    it had spent what the cheaper of the two spent in the mean, between rungs linearly.
    """
    trials = ledger.trials()
    groups = grouped(trials)
    against: dict[str, dict[str, Any]] = {}
    for name, group in groups.items():
        against[name] = {"bits_per_byte": [t.scores[SHOWN] for t in group]}
        for rival in ("dense", "hyper_connections n=2"):
            if rival in groups and rival != name:
                against[name][f"less {rival}"] = differences(group, groups[rival])
    return {
        "study": ledger.study.document(),
        "ranking": rank(ledger.study, trials).to_dict(),
        "against": against,
        "controls": control_bits(trials),
        "trials": [raw(trial) for trial in trials],
    }


def control_bits(trials: Sequence[Trial]) -> dict[str, float]:
    """Bits per byte of each control, in the mean over its seeds."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        if trial.job.role == "control" and trial.state == "complete":
            found.setdefault(trial.job.label, []).append(trial.scores[SHOWN])
    return {name: sum(bits) / len(bits) for name, bits in found.items()}


def grouped(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Finished runs of each method by seed."""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda t: t.job.seed):
        if trial.job.role in ("reference", "final") and trial.state == "complete" and trial.job.configuration:
            groups.setdefault(label(trial.job.configuration), []).append(trial)
    return groups


def label(configuration: Configuration) -> str:
    """A method in a few words; the study's widths are the preset's and twice that."""
    streams, method = configuration.get("streams"), str(configuration["method"])
    if method == "dense":
        space = find_space("altup", "tiny")
        times = int(str(configuration["width"])) // int(str(space.reference["width"]))
        return "dense" if times == 1 else f"dense, {times} times the width"
    return f"{method} n={streams}" if method == "hyper_connections" else f"{method} K={streams}"


def differences(group: Sequence[Trial], rival: Sequence[Trial]) -> dict[str, Any]:
    """Intervals of the difference in bits per byte at equal steps and at equal device hours."""
    at_end = difference_interval([t.scores[SHOWN] for t in group], [t.scores[SHOWN] for t in rival])
    seconds = min(sum(spent(t, t.rungs[-1]) for t in side) / len(side) for side in (group, rival))
    reached = [[bits_after(t, seconds) for t in side] for side in (group, rival)]
    return {
        "equal_steps": asdict(at_end),
        "equal_hours": asdict(difference_interval(*reached)),
        "device_hours": seconds / 3600,
    }


def bits_after(trial: Trial, seconds: float) -> float:
    """Validation bits per byte after so many device seconds: between two rungs linearly, at the ends the nearest."""
    before = None
    for rung in trial.rungs:
        if spent(trial, rung) >= seconds:
            if before is None:
                return rung.scores[SHOWN]
            share = (seconds - spent(trial, before)) / (spent(trial, rung) - spent(trial, before))
            return before.scores[SHOWN] + share * (rung.scores[SHOWN] - before.scores[SHOWN])
        before = rung
    return trial.rungs[-1].scores[SHOWN]


def spent(trial: Trial, rung: RungRecord) -> float:
    """Device seconds up to a rung without compilation, of which the first trials have some before they train."""
    return rung.device_seconds - trial.seconds.get("compile", 0.0)


def raw(trial: Trial) -> dict[str, Any]:
    """A trial as plain values, with its rungs."""
    configuration = trial.job.configuration
    rungs = [{"epoch": r.epoch, "device_seconds": r.device_seconds, SHOWN: r.scores.get(SHOWN)} for r in trial.rungs]
    return {
        "number": trial.number,
        "key": trial.job.key,
        "role": trial.job.role,
        "seed": trial.job.seed,
        "state": trial.state,
        "configuration": None if configuration is None else configuration.as_dict(),
        "seconds": dict(trial.seconds),
        "scores": dict(trial.scores),
        "rungs": rungs,
    }


def table() -> str:
    """The result file as Markdown tables; says "not measured" where there is none."""
    document = read_result("altup_effects", {})
    parts = [
        _counts_table(document.get("counts", [])),
        _steps_table(document.get("steps", [])),
        _study_table(document.get("study") or {}),
    ]
    return "\n\n".join(filter(None, parts)) or NOT_MEASURED


def _counts_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| model | method | embedding | other parameters | forward GFLOPs |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        flops = f"{row['forward_flops'] / 1e9:.1f}"
        sizes = f"{row['embedding_parameters']:.2e} | {row['other_parameters']:.2e}"
        lines.append(f"| {row['model']} | {row['method']} | {sizes} | {flops} |")
    return "\n".join(lines) if rows else ""


def _steps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| size | batch | method | step over dense | FLOPs over dense |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(
            f"| {row['preset']} | {row['batch_size']} | {row['method']} | {ratio} | {row['flops_over_dense']:.2f} |"
        )
    return "\n".join(lines) if rows else ""


def _study_table(study: Mapping[str, Any]) -> str:
    rivals = ("dense", "hyper_connections n=2")
    lines = [
        "| method | bits per byte | less dense, equal steps | equal hours | less HC, equal steps | equal hours |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in study.get("against", {}).items():
        bits = found["bits_per_byte"]
        cells = [name, f"{sum(bits) / len(bits):.3f}"]
        for rival in rivals:
            gaps = found.get(f"less {rival}")
            cells += [_signed(gaps[at]) if gaps else "" for at in ("equal_steps", "equal_hours")]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {name} | {bits:.3f} | | | | |" for name, bits in study.get("controls", {}).items()]
    return "\n".join(lines) if study else ""


def _signed(interval: Mapping[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    bounds = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
    return f"{interval['mean']:+.3f}{bounds}"


def main() -> None:
    """Measure the parts that are asked for and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("naslab-runs"))
    parser.add_argument("--slots", type=int, default=2)
    parts: dict[str, Part] = {
        "counts": lambda *_: [counts()],
        "steps": lambda _, device: [step_costs(device)],
        "study": lambda given, _: [summarise(run_study(STUDY, str(given.folder / "altup.db"), given.slots))],
    }
    measure_parts("altup_effects", parts, parser)


if __name__ == "__main__":
    main()
