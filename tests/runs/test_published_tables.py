"""The printed tables of MAE and MAE-ST through the ranking: it must give the Pareto sets that follow from them.

Accuracies: He et al. 2022 (figure 5, tables 1a and 1b) and Feichtenhofer et al. 2022 (table 2). Costs: multiply-adds of
one pre-training forward by the closed formula, as the papers print no cost for these rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from naslab.runs.ranking import rank
from naslab.runs.study import parse_study
from naslab.runs.trial import Job, Trial
from naslab.search_spaces import Float, Integer, Options, SearchSpace
from naslab.search_spaces.task import Task

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
SECONDS_PER_GMAC = 3600.0
"""Hours of a run are set to the GMAC of a forward: the ranking sees only proportions."""

IMAGE = {"tokens": 196, "pixels_in": 768, "pixels_out": 768}
VIDEO = {"tokens": 1568, "pixels_in": 1536, "pixels_out": 768}
RATIOS = (10, 20, 30, 40, 50, 60, 70, 75, 80, 90)
FINE_TUNED = (83.2, 83.4, 83.4, 84.7, 84.9, 85.0, 84.9, 84.9, 84.5, 83.0)
LINEAR = (54.6, 58.9, 61.7, 67.0, 69.9, 71.8, 73.2, 73.5, 71.8, 66.1)
TABLES = {
    "ratio, fine-tuned": ("ratio", RATIOS, FINE_TUNED, IMAGE, {60, 75, 80, 90}),
    "ratio, linear": ("ratio", RATIOS, LINEAR, IMAGE, {75, 80, 90}),
    "blocks, fine-tuned": ("depth", (1, 2, 4, 8, 12), (84.8, 84.9, 84.9, 84.9, 84.4), IMAGE, {1, 2}),
    "blocks, linear": ("depth", (1, 2, 4, 8, 12), (65.5, 70.0, 71.9, 73.5, 73.3), IMAGE, {1, 2, 4, 8}),
    "width, fine-tuned": ("width", (128, 256, 512, 768, 1024), (84.9, 84.8, 84.9, 84.4, 84.3), IMAGE, {128}),
    "width, linear": ("width", (128, 256, 512, 768, 1024), (69.1, 71.3, 73.5, 73.1, 73.1), IMAGE, {128, 256, 512}),
    "video width": ("width", (128, 256, 512, 1024), (80.8, 83.1, 84.4, 83.7), VIDEO, {128, 256, 512}),
    "video blocks": ("depth", (1, 2, 4, 8), (83.2, 83.6, 84.4, 84.3), VIDEO, {1, 2, 4}),
}


class Decoder(SearchSpace):
    """Masking ratio in percent, and the decoder's blocks and width."""

    name = "decoder"
    Options = Options
    Task = Task

    @property
    def parameters(self):
        return (Float("ratio", 1, 99), Integer("depth", 1, 12), Integer("width", 64, 2048))

    @property
    def reference(self):
        return self.configuration({"ratio": 75, "depth": 8, "width": 512})

    def build(self, configuration):
        raise NotImplementedError


def block(tokens, width):
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def gmac(configuration, tokens, pixels_in, pixels_out, visible=None, depth=24, dim=1024):
    """Forward of a masked autoencoder with a ViT-L encoder and one class token, in 1e9 multiply-adds."""
    keep = visible or int(tokens * (1 - configuration["ratio"] / 100) + 1e-9)
    width, blocks = configuration["width"], configuration["depth"]
    encoder = tokens * pixels_in * dim + depth * block(keep + 1, dim)
    decoder = (keep + 1) * dim * width + blocks * block(tokens + 1, width) + (tokens + 1) * width * pixels_out
    return (encoder + decoder) / 1e9


def ranking_of(table, objective, **ranking):
    varied, values, accuracies, sizes, _ = TABLES[table]
    base = {"ratio": 90, "depth": 4} if sizes is VIDEO else {}
    study = parse_study(
        {
            "schema": "naslab.study/1",
            "name": "published",
            "space": {"name": "test_published_tables:Decoder"},
            "arms": [
                {"name": "sweep", "engine": "grid", "vary": {varied: list(values)},
                 "base": {k: v for k, v in base.items() if k != varied}},
            ],
            "random_architectures": 0,
            "objective": objective,
            "ranking": {"floor": "none", **ranking},
        },
        "published",
    )  # fmt: skip
    space = study.search_space
    trials = [Trial(0, Job("control/scratch", "control", "scratch", 0), "complete", scores={"top1": 82.5})]
    for configuration, accuracy in zip(study.grids["sweep"], accuracies, strict=True):
        cost = gmac(configuration, **sizes, visible=156 if sizes is VIDEO else None)
        role, arm = ("reference", None) if configuration == space.reference else ("final", "sweep")
        job = Job(f"{role}/{configuration.digest}", role, role, 0, configuration, arm)
        seconds = {"train": SECONDS_PER_GMAC * cost}
        result = {"metric": "top1"}
        trials.append(Trial(len(trials), job, "complete", (), seconds, "cuda", {"top1": accuracy}, result))
        profile = {
            "flops": {"forward": int(2e9 * cost)},
            "latency_ms": {"median": 3.0 * cost},
            "peak_memory_bytes": int(1e9 * cost),
            "provenance": {"device": "printed"},
        }
        job = Job(f"profile/{configuration.digest}", "profile", "profile", 0, configuration)
        trials.append(Trial(len(trials), job, "complete", (), {}, "cuda", {}, {"metric": "top1", "profile": profile}))
    made = rank(study, trials)
    jsonschema.validate(json.loads(json.dumps(made.to_dict())), json.loads((SCHEMAS / "rank.json").read_text()))
    return made, varied


@pytest.mark.parametrize("against", [None, "hours", "latency", "flops", "memory"])
@pytest.mark.parametrize("table", TABLES)
def test_the_front_is_the_one_that_follows_from_the_printed_table(table, against):
    objective = {"kind": "pareto", "against": against} if against else {"kind": "per_hour"}
    ranking, varied = ranking_of(table, objective)
    assert len(ranking.rows) == len(TABLES[table][1])
    assert {row.configuration[varied] for row in ranking.rows if row.pareto} == TABLES[table][-1]
    if against:
        assert {row.configuration[varied] for row in ranking.rows if row.rank == 1} == TABLES[table][-1]


def test_the_formula_gives_the_printed_costs():
    space = Decoder(Options())
    costs = {r: gmac(space.configuration({"ratio": r, "depth": 8, "width": 512}), **IMAGE) for r in RATIOS}
    assert [round(cost, 1) for cost in costs.values()] == [60.6, 54.2, 48.2, 41.9, 35.9, 29.7, 23.5, 20.8, 17.7, 11.6]
    video = space.configuration({"ratio": 90, "depth": 4, "width": 512})
    assert gmac(video, **VIDEO, visible=156) == pytest.approx(81.0, rel=0.01), "table 1 of MAE-ST"
    assert gmac(video, **VIDEO, visible=1568) == pytest.approx(627.5, rel=0.01)


def test_gain_over_scratch_per_cost_picks_75_percent():
    ranking, _ = ranking_of("ratio, fine-tuned", {"kind": "per_hour"}, gain_over="scratch")
    gains = {row.configuration["ratio"]: row.gain.mean for row in ranking.rows}
    assert max(gains, key=gains.get) == 75
    assert {r: round(gains[r], 4) for r in (60, 70, 75, 80, 90)} == pytest.approx(
        {60: 0.084, 70: 0.102, 75: 0.1156, 80: 0.1131, 90: 0.043}, abs=6e-4
    )
    assert ranking.to_dict()["gain_over"] == "scratch"
    assert ranking.rows[0].configuration["ratio"] == 90, "metric per cost alone picks what is cheapest"


def test_later_fronts_have_later_numbers():
    ranking, _ = ranking_of("ratio, fine-tuned", {"kind": "pareto", "against": "flops"})
    numbers = {row.configuration["ratio"]: row.rank for row in ranking.rows}
    assert numbers[70] == 2
    assert numbers[50] == 3
    assert [row.rank for row in ranking.rows] == sorted(numbers.values())
    assert ranking.to_dict()["objective"] == {
        "kind": "pareto",
        "against": "flops",
        "direction": "maximize",
        "cost": "FLOPs of a forward",
    }
