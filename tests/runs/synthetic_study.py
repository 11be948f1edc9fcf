"""A small study and its ledger, made by hand: every role and state, figures chosen so that answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from naslab.runs.study import Study, parse_study
from naslab.runs.trial import Job, Role, RungRecord, State, Trial
from naslab.search_spaces import Configuration

METRIC = "knn_top1"
OPERATIONS = ("maxpool", "avgpool", "identity", "relu", "silu", "hardswish", "elu")
PROVENANCE = {"device": "cpu", "torch": "2.11", "naslab": "0.1.0", "date": "2026-01-02T03:04:05Z"}


def make_study(**changes: Any) -> Study:
    """A NASiam study of two arms; `changes` replace top keys."""
    document: dict[str, Any] = {
        "schema": "naslab.study/1",
        "name": "demo",
        "description": "SimSiam heads on small images",
        "seeds": [0, 1, 2],
        "space": {"name": "nasiam", "preset": "tiny"},
        "task": {
            "epochs": 4,
            "batch_size": 64,
            "dataset": {"name": "embedded", "train": 200, "validation": 100, "test": 100},
        },
        "arms": [
            {"engine": "differentiable", "name": "darts", "epochs": 5},
            {"engine": "optuna", "name": "tpe", "sampler": "tpe", "trials": 6},
        ],
    }
    return parse_study({**document, **changes}, "test")


def head(*projector: str, predictor: Sequence[str] = ("silu", "relu", "identity", "identity")) -> Configuration:
    """A searched head; the operations given are repeated to six layers."""
    chain = tuple(projector[i % len(projector)] for i in range(6))
    return Configuration("nasiam", (("head", "cell"), ("projector", chain), ("predictor", tuple(predictor))))


PUBLISHED = Configuration("nasiam", (("head", "published"),))
BY_DARTS, BY_TPE = head("relu", "silu"), head("identity", "avgpool")


def trial(
    number: int,
    role: Role,
    score: float,
    *,
    seconds: float = 360.0,
    seed: int = 0,
    configuration: Configuration | None = None,
    arm: str | None = None,
    label: str = "",
    state: State = "complete",
    rungs: Sequence[float] = (),
    device: str = "cpu",
    **extras: Any,
) -> Trial:
    """One trial whose rungs are spread evenly over its training time."""
    job = Job(f"{role}/{arm or label}/{number}", role, label or role, seed, configuration, arm)
    step = 0.9 * seconds / max(len(rungs), 1)
    records = tuple(RungRecord(i + 1, step * (i + 1), {METRIC: r}) for i, r in enumerate(rungs))
    phase = {"search": {"search": seconds}, "profile": {"profile": seconds}}.get(
        role, {"train": 0.9 * seconds, "evaluate": 0.1 * seconds}
    )
    scores = {METRIC: score} if state == "complete" and role not in ("search", "profile") else {}
    made = Trial(number, job, state, records, phase, device, scores, {"metric": METRIC})  # type: ignore[arg-type]
    return replace(made, **{"result": {**made.result, **extras.pop("result", {})}, **extras})


def make_trials() -> list[Trial]:
    """Reference 80 %, darts 82 % at the same cost, tpe 78 % (below the floor), three seeds each."""
    trials = [
        trial(0, "control", 70.0, label="raw_pixels", seconds=2.0),
        trial(1, "control", 72.0, label="untrained", seconds=3.0),
        trial(2, "control", 73.0, label="untrained", seconds=3.0, seed=1),
        trial(3, "search", 0.0, arm="darts", seconds=720.0, result=search_result()),
    ]
    for i, (score, state) in enumerate(
        ((74, "complete"), (76, "complete"), (0, "failed"), (0, "interrupted"), (0, "pruned"))
    ):
        given: dict[str, Any] = {"error": "the training loss is nan in epoch 2"} if state == "failed" else {}
        rungs = (60.0, 68.0, 71.0, float(score)) if state == "complete" else (58.0, 55.0)
        trials.append(
            trial(4 + i, "proposal", score, arm="tpe", seconds=180.0, state=state, rungs=rungs,  # type: ignore[arg-type]
                  configuration=head(OPERATIONS[i], OPERATIONS[i + 1]), seed=i, **given)
        )  # fmt: skip
    for seed in range(3):
        jitter = 0.2 * (seed - 1)
        for k, (role, arm, configuration, score, seconds) in enumerate(
            (
                ("reference", None, PUBLISHED, 80.0, 360.0),
                ("final", "darts", BY_DARTS, 82.0, 350.0),
                ("final", "tpe", BY_TPE, 78.0, 340.0),
                ("random", None, head(OPERATIONS[seed]), 77.0, 350.0),
            )
        ):
            rungs = (score - 12, score - 6, score - 1.5, score - 0.5)
            trials.append(
                trial(10 + 4 * seed + k, role, score + jitter, arm=arm, seconds=seconds + seed, seed=seed,  # type: ignore[arg-type]
                      configuration=configuration, rungs=rungs)
            )  # fmt: skip
    profile = {
        "target": "reference",
        "batch_size": 32,
        "parameters": 512_345,
        "flops": {"forward": 123_456_789, "training_step": 370_000_000, "effective_forward": 123_456_789},
        "coverage": 0.97,
        "latency_ms": {"median": 4.2, "p10": 4.0, "p90": 5.1, "low": 4.1, "high": 4.3},
        "dtype": "float32",
        "peak_memory_bytes": 12_345_678,
        "roofline": {
            "device": "cpu: measured",
            "intensity": 8.0,
            "ridge": 5.0,
            "peak_flops_per_second": 1e11,
            "bytes_per_second": 2e10,
            "bound_ms": 2.1,
            "explained": 0.5,
        },
        "provenance": PROVENANCE,
    }
    trials.append(trial(30, "profile", 0.0, configuration=PUBLISHED, seconds=5.0, result={"profile": profile}))
    return trials


def search_result(epochs: int = 12) -> dict[str, Any]:
    """What a differentiable search leaves: its genotype is BY_DARTS, and one candidate a layer pulls ahead."""
    chosen = {"projector": BY_DARTS.chain("projector"), "predictor": BY_DARTS.chain("predictor")}
    trajectory = []
    for epoch in range(1, epochs + 1):
        alphas = {
            name: [[0.03 * epoch * (o == pick) - 0.002 * epoch * i for i, o in enumerate(OPERATIONS)] for pick in picks]
            for name, picks in chosen.items()
        }
        entropy = {name: [1.0 - 0.02 * epoch] * len(picks) for name, picks in chosen.items()}
        trajectory.append(
            {
                "epoch": epoch,
                "alphas": alphas,
                "entropy": entropy,
                "skip_share": 0.4 - 0.01 * epoch,
                "train_loss": 5.0 - 0.1 * epoch,
                "held_out_loss": 5.1 - 0.1 * epoch,
                "scores": {METRIC: 60.0 + epoch},
            }
        )
    return {
        "genotype": BY_DARTS.as_dict(),
        "candidates": {name: list(OPERATIONS) for name in chosen},
        "trajectory": trajectory,
        "relaxed_loss": 3.9,
        "discrete_loss": 4.2,
        "supernet_scores": trajectory[-1]["scores"],
    }
