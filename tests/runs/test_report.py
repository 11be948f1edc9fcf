from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from synthetic_study import BY_DARTS, BY_TPE, METRIC, OPERATIONS, PUBLISHED, head, make_study, make_trials, trial

from naslab.errors import InputError
from naslab.nas.statistics import Interval
from naslab.runs.beside import Neighbour
from naslab.runs.output import significant_digits
from naslab.runs.ranking import rank
from naslab.runs.report import Report, build_report, proposals
from naslab.runs.report.findings import parameter_free_share
from naslab.runs.report.markup import interval
from naslab.runs.trial import RungRecord

SCHEMA = Path(__file__).parents[2] / "docs" / "schemas" / "report.json"
SECTIONS = ["leaderboard", "pareto", "controls", "proposals", "health", "drawings", "alphas", "curves", "spend",
            "predicted", "profiles",
            "roofline", "provenance", "ledger"]  # fmt: skip
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks nesting; collects ids, links, outside sources and the contents of scripts by class or id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.scripts: dict[str, list[str]] = {}
        self._script = ""
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given.get("href")] if tag == "a" else []
        self.outside += [v for k, v in attrs if k == "src" or (k == "href" and tag == "link")]
        self._script = given.get("class") or given.get("id") or "code" if tag == "script" else ""

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._script = ""

    def handle_data(self, data):
        if self._script:
            self.scripts.setdefault(self._script, []).append(data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(make_study(), make_trials())


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.page)


def test_page_is_well_formed_and_whole(report, page):
    assert page.open == []
    assert [s.id for s in report.sections] == SECTIONS
    shown = {s.id for s in report.sections if not s.empty}
    assert shown == set(SECTIONS) - {"proposals", "predicted"}, (
        "two proposals are too few for plots; no device is named"
    )
    assert shown == shown & set(page.ids)
    assert "proposals" not in page.ids
    assert len(page.ids) == len(set(page.ids))


def test_page_needs_no_network(page, report):
    assert page.outside == []
    assert "default-src 'none'" in report.page
    assert all(link is None or link.startswith("#") for link in page.links), "one is made by the page's script"


def test_every_figure_can_be_followed_to_its_trial(page):
    targets = {link for link in page.links if link and link.startswith("#trial-")}
    assert {f"#trial-{n}" for n in (11, 15, 19)} <= targets
    assert {t.removeprefix("#") for t in targets} <= set(page.ids)
    assert {f"trial-{t.number}" for t in make_trials()} <= set(page.ids)


def test_embedded_ranking_is_the_ranking(page):
    assert json.loads("".join(page.scripts["ranking"])) == rank(make_study(), make_trials()).to_dict()


def test_figures_hold_the_studys_numbers(page):
    figures = [json.loads(text) for text in page.scripts["figure"]]
    pareto, decisiveness, projector, predictor, curves, spend, roof = figures
    assert [trace["name"] for trace in pareto["data"][1:]] == ["meets", "below", "reference"]
    assert [trace["y"] for trace in pareto["data"][1:]] == [[pytest.approx(v)] for v in (82.0, 78.0, 80.0)]
    assert pareto["data"][1]["error_y"]["array"] == [pytest.approx(4.302653 * 0.2 / 3**0.5)]
    assert decisiveness["data"][0]["y"][-1] == pytest.approx(0.76)
    assert (len(projector["data"]), len(predictor["data"])) == (6 * 7, 4 * 7)
    assert projector["data"][3]["name"] == "relu"
    assert projector["data"][3]["y"][-1] == pytest.approx(0.03 * 12 - 0.002 * 12 * 3)
    assert len(curves["data"]) == 1 + 3, "the proposals, and each row"
    charged = sum(t.device_seconds for t in make_trials()) / 3600
    assert sum(sum(trace["x"]) for trace in spend["data"]) == pytest.approx(charged)
    line, point = roof["data"]
    assert (line["x"][1], line["y"][1:]) == (pytest.approx(5.0), [pytest.approx(100), pytest.approx(100)])
    assert line["y"][0] / line["x"][0] == pytest.approx(20)  # copies bound left of the ridge
    assert (point["x"], point["y"]) == ([8.0], [pytest.approx(0.123456789 / 4.2e-3)])
    assert roof["layout"]["xaxis"]["type"] == roof["layout"]["yaxis"]["type"] == "log"


def test_without_measured_ceilings_the_roofline_says_how_to_get_them():
    trials = make_trials()
    bare = {key: value for key, value in trials[-1].result["profile"].items() if key != "roofline"}
    made = build_report(make_study(), [*trials[:-1], replace(trials[-1], result={"profile": bare})])
    assert next(s for s in made.sections if s.id == "roofline").empty
    assert "naslab devices calibrate" in made.page


def test_health_is_told_in_words_with_warnings(page):
    assert "darts: better than random architectures by +5.00" in page.text
    assert "88% of the layers that could hold a linear are parameter-free" in page.text


def test_parameter_free_share_counts_layers_that_keep_their_width():
    study = make_study()
    assert parameter_free_share(study, BY_DARTS) == pytest.approx(1 / 8)  # identity, in one of 6 + 2 layers
    assert parameter_free_share(study, BY_TPE) == pytest.approx(7 / 8)
    assert parameter_free_share(study, PUBLISHED) is None


def test_user_text_is_escaped_everywhere():
    evil = "</script><script>alert(1)</script><b>"
    study = make_study(description=evil)
    odd = trial(40, "proposal", 0.0, arm="tpe", state="failed", configuration=head("elu"), error=evil)
    odd = replace(odd, job=replace(odd.job, label=evil, key=f"{evil}/0"))
    control = trial(41, "control", 50.0, label=evil)
    text = build_report(study, [*make_trials(), odd, control]).page
    assert "<script>alert" not in text
    assert "<b>" not in text.split("<script>", 1)[0]
    assert "&lt;b&gt;" in text


@pytest.mark.parametrize(
    "trials",
    [[], [trial(0, "control", 70.0, label="raw_pixels")], [trial(0, "reference", 70.0, configuration=PUBLISHED)]],
    ids=["nothing", "a control", "one reference"],
)
def test_what_has_no_data_is_left_out_of_the_page(trials):
    made = build_report(make_study(), trials)
    parsed = Page(made.page)
    assert parsed.open == []
    assert [s.id for s in made.sections] == SECTIONS
    assert next(s for s in made.sections if s.id == "alphas").empty
    assert "alphas" not in parsed.ids, "nothing to show takes no place"


def test_a_study_without_an_arm_has_no_search_to_judge():
    made = build_report(make_study(arms=[]), [])
    assert next(s for s in made.sections if s.id == "health").empty


def many(rows: int):
    """The small study, with as many rows of three seeds, and forty proposals."""
    chains = [tuple(OPERATIONS[i // 7**k % 7] for k in range(6)) for i in range(rows)]
    trials = make_trials()
    for i, chain in enumerate(chains):
        for seed in range(3):
            score = 70 + 15 * i / rows + 0.3 * seed
            trials.append(
                trial(100 + 3 * i + seed, "final", score, arm="tpe", seconds=200 + i, seed=seed,
                      configuration=head(*chain), rungs=(score - 9, score - 4, score - 1))
            )  # fmt: skip
    for i in range(40):
        configuration = head(OPERATIONS[i % 7], OPERATIONS[i // 7])
        trials.append(trial(2000 + i, "proposal", 0.0, arm="tpe", configuration=configuration, rungs=(60.0 + i % 11,)))
    return trials


def test_three_hundred_rows_are_less_than_a_megabyte_more_than_three():
    few, more = (build_report(make_study(), many(rows)) for rows in (3, 300))
    assert len(more.page.encode()) - len(few.page.encode()) < 1e6
    assert 'type="search"' in more.page.split("<script", 1)[0]
    figures = [json.loads(text) for text in Page(more.page).scripts["figure"]]
    assert all(sum(trace.get("showlegend", True) for trace in figure["data"]) <= 12 for figure in figures), "a legend"


def test_nor_are_they_with_all_that_a_study_records():
    """Core and wall hours, a profile of every row under its roof, five rungs, scores with all their digits."""
    rng = np.random.default_rng(0)

    def recorded(rows):
        trials = []
        for t in many(rows):
            rungs = tuple(
                RungRecord(e + 1, 31.4159 * (e + 1), {METRIC: rng.uniform(70, 85)}, 30.1 * (e + 1)) for e in range(5)
            )
            final = t.job.role in ("final", "reference")
            scores = {METRIC: t.scores[METRIC] + rng.normal()} if t.scores else {}
            key = f"final/{t.job.configuration.digest}/seed{t.job.seed}" if final else t.job.key
            cores = {phase: seconds * rng.uniform(0.9, 1) for phase, seconds in t.seconds.items()}
            trials.append(replace(t, job=replace(t.job, key=key), rungs=rungs if final else t.rungs, scores=scores,
                                  core_seconds=cores, threads=1))  # fmt: skip
        profile = next(t.result["profile"] for t in make_trials() if t.result.get("profile"))
        for i, one in enumerate(dict.fromkeys(t.job.configuration for t in trials if t.job.role == "final")):
            trials.append(trial(3000 + i, "profile", 0.0, configuration=one, result={"profile": profile}, threads=1))
        return [t if t.core_seconds else replace(t, core_seconds=t.seconds) for t in trials]

    few, more = (build_report(make_study(), recorded(rows)) for rows in (3, 300))
    assert len(more.page.encode()) - len(few.page.encode()) < 1e6
    figures = [json.loads(text) for text in Page(more.page).scripts["figure"]]
    assert all(sum(trace.get("showlegend", True) for trace in figure["data"]) <= 12 for figure in figures), "a legend"


def test_numbers_stand_to_the_right_in_every_column_that_has_them():
    made = build_report(make_study(), make_trials())
    style = made.page.split("</style>", 1)[0]
    for classes in re.findall(r'<table class="([^"]*)"', made.page):
        for place in re.findall(r"\bn(\d+)\b", classes):
            assert f".n{place} td:nth-child({place})" in style
    assert 'class="ledger n1 n5 n7 n8"' in made.page
    (row,) = re.findall(r'<tr id="trial-11">.*?</tr>', made.page)
    assert row.startswith('<tr id="trial-11"><td>11</td><td>final</td>')


@pytest.mark.parametrize(("rows", "against", "said"), [
    (3, "latency", "No configuration has a known latency in ms yet."),
    (300, "hours", "configurations). Bars"),
])  # fmt: skip
def test_a_front_of_nothing_is_left_out_and_one_of_many_is_counted(rows, against, said):
    trials = [t for t in many(rows) if t.job.role != "profile"]
    made = build_report(make_study(objective={"kind": "pareto", "against": against}), trials)
    section = next(s for s in made.sections if s.id == "pareto")
    assert section.empty is (against == "latency")
    assert said in section.body


def test_the_plots_of_proposals_are_optunas():
    made = build_report(make_study(), many(3))
    for name in ("history", "importance", "slices", "coordinates"):
        assert f'aria-label="{name} of tpe"' in made.page
    section = next(s for s in made.sections if s.id == "proposals")
    assert not section.empty
    for layout in (json.loads(text)["layout"] for text in Page(section.body).scripts["figure"]):
        assert "width" not in layout, "as wide as the page"
        assert all(axis["automargin"] for name, axis in layout.items() if re.match("[xy]axis", name)), "labels fit"


def proposed(scores, different=True, **more):
    """The section of proposals with these scores, of different heads or of one."""
    study = make_study(**more)
    pairs = (head(a, b) for a in OPERATIONS for b in OPERATIONS)
    heads = [one for one in pairs if study.search_space.configuration(one) == one][: None if different else 1]
    tried = [
        trial(100 + i, "proposal", 0.0, arm="tpe", configuration=heads[i % len(heads)], rungs=(score,))
        for i, score in enumerate(scores)
    ]
    report = build_report(study, [t for t in make_trials() if t.job.role != "proposal"] + tried)
    return next(section for section in report.sections if section.id == "proposals")


@pytest.mark.parametrize(
    ("scores", "different", "plots", "said"),
    [
        ([70.0], True, [], "Of tpe 1 proposal has a score. Plots begin with 4."),
        ([70.0, 71.0, 72.0], True, [], "Of tpe 3 proposals have a score. Plots begin with 4."),
        ([70.0] * 12, True, ["history"], "No importances: all proposals have the same score."),
        ([70.0, 71.0, 72.0, 73.0], False, ["history"], "differs from all of them in no parameter"),
        ([70.0 + i for i in range(12)], True, ["history", "importance", "slices", "coordinates"], "Here are 12."),
        ([70.0 + i for i in range(50)], True, ["history", "importance", "slices", "coordinates"], ""),
    ],
)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_where_importances_cannot_be_told_the_reason_is_said(scores, different, plots, said, direction):
    """Optuna's own would be equal shares there, as if all parameters mattered alike."""
    section = proposed(scores, different, objective={"direction": direction}, ranking={"by": "gain"})
    assert re.findall(r'aria-label="(\w+) of tpe"', section.body) == plots
    assert section.empty is (not plots)
    assert said in section.body
    doubt = re.search('class="note">(No importances|Importances hold)', section.body)
    assert bool(doubt) is (bool(plots) and len(scores) < 50)


def test_what_optuna_cannot_draw_is_a_line_and_the_report_is_made(monkeypatch):
    def broken(*_, **__):
        raise TypeError("of another version")

    monkeypatch.setattr(proposals.visualization, "plot_slice", broken)
    body = proposed([70.0 + i for i in range(12)]).body
    assert "No plot of slices: TypeError: of another version" in body
    assert 'aria-label="coordinates of tpe"' in body
    monkeypatch.setattr(proposals.optuna.importance, "get_param_importances", broken)
    assert "No importances: TypeError: of another version" in proposed([70.0 + i for i in range(12)]).body


def test_document_meets_its_schema(report, tmp_path):
    path = tmp_path / "deep" / "report.html"
    report.write(path)
    assert path.read_text(encoding="utf-8") == report.page
    jsonschema.validate(report.to_dict(path), json.loads(SCHEMA.read_text()))


def test_a_file_that_cannot_be_written_is_one_line(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"report\.html: cannot be written"):
        report.write(tmp_path / "file" / "report.html")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.09752, "0.0975"), (823.46, "823"), (0, "0"), (-5.8, "-5.80"), (12345.6, "12,346"), (1.2e-7, "1.2e-07")],
)
def test_significant_digits(number, text):
    assert significant_digits(number) == text


@pytest.mark.parametrize("scale", [1.0, 1e-5])
def test_a_small_metric_is_told_apart_wherever_it_stands(scale):
    """Two means that differ are two figures: in the table, among controls, in ledger, health and on hover."""
    trials = [replace(t, scores={METRIC: scale * t.scores[METRIC]}) if t.scores else t for t in make_trials()]
    ranking = {"margin": scale}
    made = build_report(make_study(ranking=ranking), trials)
    shown = rank(make_study(ranking=ranking), trials).shown
    bodies = {section.id: section.body for section in made.sections}
    for id, value in {"leaderboard": 82.0, "controls": 70.0, "ledger": 81.8, "health": 5.0}.items():
        assert shown(scale * value) in bodies[id], id
    assert f":.{2 if scale == 1 else 6}f}}" in bodies["pareto"]


def test_the_reference_of_a_study_beside_is_drawn_and_listed_as_any_other_row():
    theirs = [replace(t, job=replace(t.job, role="reference")) for t in make_trials() if t.job.role == "reference"]
    made = build_report(make_study(), make_trials(), [Neighbour(make_study(name="theirs"), tuple(theirs))])
    figure = json.loads(Page(next(s for s in made.sections if s.id == "pareto").body).scripts["figure"][0])
    traces = {trace["name"]: trace["x"] for trace in figure["data"][1:]}
    assert {name: len(points) for name, points in traces.items()} == {"meets": 2, "below": 1, "reference": 1}


def test_interval_cells():
    assert interval(None) == "—"
    assert interval(Interval(1.234, None, None)) == "1.23"
    assert interval(Interval(1.0, 0.5, 1.5)) == "1.00<small>0.50 to 1.50</small>"
