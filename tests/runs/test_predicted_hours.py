"""Predicted hours in a ranking: what all trainings would have taken, what was not profiled, what does not fit."""

import io
import json
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console
from synthetic_study import BY_DARTS, METRIC, PUBLISHED, make_study, make_trials, trial

from naslab.runs.ranking import rank
from naslab.runs.report import build_report
from naslab.runs.table import columns_of, predicted_lines, print_ranking

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
DEVICE = "h100-sxm"


def hours(of_a_run: float, needs: int = 1) -> dict:
    memory = {"needs_bytes": needs * 8 * 10**10, "device_bytes": 8 * 10**10, "fits": needs == 1, "devices": needs}
    return {"device": DEVICE, "hours": of_a_run, "low": of_a_run / 2, "high": 2 * of_a_run, "basis": "a test",
            "refused": None, "memory": memory}  # fmt: skip


def profiled(number: int, configuration, of_a_run: float, needs: int = 1):
    result = {"predicted_hours": {DEVICE: hours(of_a_run, needs)}}
    return trial(number, "profile", 0.0, configuration=configuration, result=result, seconds=1.0)


def study_of(*extra):
    return rank(make_study(predict_for=[DEVICE]), [*make_trials(), *extra])


def test_a_study_is_the_sum_of_its_trainings_each_by_its_share_of_the_epochs():
    ranking = study_of(profiled(60, PUBLISHED, 3.0), profiled(61, BY_DARTS, 5.0))
    found = ranking.predicted_hours[DEVICE]
    trained = [t for t in make_trials() if t.job.role in ("reference", "random", "search", "proposal", "final")]
    shares = {t.number: 1.0 if t.job.role == "search" else t.last_epoch / 4 for t in trained}
    assert 0.5 in shares.values(), "one was stopped half way"
    expected = sum(shares[t.number] * (5.0 if t.job.configuration == BY_DARTS else 3.0) for t in trained)
    assert found["study"]["hours"] == pytest.approx(expected)
    assert found["study"]["low"] == pytest.approx(expected / 2)
    assert found["trainings"] == len(trained)
    assert found["as_reference"] == sum(t.job.configuration not in (PUBLISHED, BY_DARTS) for t in trained)


def test_without_the_references_profile_there_is_a_reason_and_no_number():
    found = study_of().predicted_hours[DEVICE]["study"]
    assert found["hours"] is None
    assert "not been profiled" in found["refused"]


def test_a_study_that_names_no_device_says_nothing_of_hours_elsewhere():
    ranking = rank(make_study(), [*make_trials(), profiled(60, PUBLISHED, 3.0)])
    assert ranking.predicted_hours == {}
    assert "predicted" not in str(predicted_lines(ranking))


def test_the_document_keeps_to_its_schema_and_measured_hours_are_as_without_predictions():
    with_them = study_of(profiled(60, PUBLISHED, 3.0)).to_dict()
    jsonschema.validate(with_them, json.loads((SCHEMAS / "rank.json").read_text()))
    without = rank(make_study(), [*make_trials(), profiled(60, PUBLISHED, 3.0)]).to_dict()
    measured = ("device_hours", "score", "hours_to_floor", "rank")
    for row, other in zip(with_them["rows"], without["rows"], strict=True):
        assert {key: row[key] for key in measured} == {key: other[key] for key in measured}


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_terminal_of_any_width_says_what_is_predicted_and_what_does_not_fit(width):
    ranking = study_of(profiled(60, PUBLISHED, 3.0, needs=10))
    console = Console(width=width, record=True, file=io.StringIO())
    print_ranking(ranking, console)
    text = console.export_text()
    assert "at least 10 devices" in " ".join(text.split())
    for line in predicted_lines(ranking):
        assert line in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= width
    reference = next(row for row in ranking.rows if row.reference)
    cell = columns_of(ranking)[-1].cell(reference)
    assert cell == "≈3.0\n1.5–6.0"
    if width == 200:  # room for every column
        assert "≈3.0" in text


def test_the_report_has_them_in_a_section_of_their_own():
    study = make_study(predict_for=[DEVICE])
    made = build_report(study, [*make_trials(), profiled(60, PUBLISHED, 3.0, needs=10)])
    section = next(s for s in made.sections if s.id == "predicted")
    assert not section.empty
    assert "Nothing here was measured" in section.body
    assert "at least 10 devices" in section.body
    leaderboard = next(s for s in made.sections if s.id == "leaderboard")
    assert "predicted" not in leaderboard.body
    assert METRIC in leaderboard.body
