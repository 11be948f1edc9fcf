"""Optuna's own tools on a study's storage: what they show is the search, and nothing breaks."""

import io
import json
import shutil
import subprocess
import threading
import warnings
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest
from inline import TOY, run_here
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

from naslab.errors import InputError
from naslab.runs.ledger import Ledger
from naslab.runs.optuna_record import ASIDE
from naslab.runs.study import parse_study

URL = "sqlite:///runs.db"
STUDIES = {
    "plain": {},
    "front": {"objective": {"kind": "pareto", "against": "hours"}},
    "points": {
        "arms": [{"name": "cells", "engine": "grid", "vary": {"cell": [["good"] * 4, ["poor"] * 4, ["fair"] * 4]}}],
        "random_architectures": 0,
    },
}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """A search, a search for a front, and a sweep in one storage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tools"))
        made = {}
        for name, changes in STUDIES.items():
            arms = [{"name": "random", "engine": "optuna", "sampler": "random", "trials": 8}]
            study = parse_study({**TOY, "arms": arms, "name": name, **changes}, "test")
            made[name] = Ledger.start("runs.db", study)
            run_here(made[name])
        yield made


def in_optuna(name):
    return optuna.load_study(study_name=name, storage=URL)


@pytest.mark.parametrize("name", STUDIES)
def test_only_what_was_searched_is_complete_with_a_value(ledgers, name):
    ledger, study = ledgers[name], in_optuna(name)
    by_number = {t.number: t for t in ledger.trials()}
    searched = [by_number[t.user_attrs["number"]] for t in study.trials if t.state == TrialState.COMPLETE]
    role = "final" if name == "points" else "proposal"
    expected = [t for t in by_number.values() if t.job.role == role and (role == "proposal" or t.job.seed == 0)]
    assert [t.number for t in searched] == [t.number for t in expected]
    for frozen, trial in zip(study.trials, searched, strict=True):
        assert frozen.values[0] == trial.scores["validation_score"], "the value is the validation score"
    assert study.metric_names == (["score", "hours of a run"] if name == "front" else ["score"])


def test_the_best_trial_is_the_best_proposal(ledgers):
    best = max(t.scores["validation_score"] for t in ledgers["plain"].trials() if t.job.role == "proposal")
    study = in_optuna("plain")
    assert study.best_value == best
    assert study.best_trial.user_attrs["role"] == "proposal"
    assert len({t.values[0] for t in in_optuna("front").best_trials}) >= 1
    importances = optuna.importance.get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    assert set(importances) <= {f"cell[{i}]" for i in range(4)} | {"head"}


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("aside", [False, True], ids=["searched", "aside"])
@pytest.mark.parametrize("plot", [p for p in optuna.visualization.__all__ if p.startswith("plot_")])
def test_every_plot_can_be_drawn(ledgers, name, aside, plot):
    study = in_optuna(name + aside * ASIDE)
    if aside and plot == "plot_terminator_improvement":
        pytest.skip("of a search, by its definition: all trials share parameters")
    options = {}
    if len(study.directions) == 2 and plot not in ("plot_pareto_front", "plot_hypervolume_history", "plot_timeline"):
        if plot in ("plot_intermediate_values", "plot_terminator_improvement"):
            pytest.skip("of one objective, by its definition")
        options["target"] = lambda trial: trial.values[0]
    if len(study.directions) == 1 and plot in ("plot_pareto_front", "plot_hypervolume_history"):
        pytest.skip("of several objectives, by its definition")
    if plot == "plot_hypervolume_history":
        options["reference_point"] = [0.0, 1.0]
    if plot == "plot_param_importances":  # the default of Optuna 4 needs scikit-learn
        options["evaluator"] = PedAnovaImportanceEvaluator()
    if plot == "plot_edf":
        study = [study]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure = getattr(optuna.visualization, plot)(study, **options)
    assert figure.to_json()


@pytest.fixture(scope="module")
def dashboard(ledgers):
    """GET from the dashboard's own application, in this process."""
    wsgi = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: naslab[dashboard]")
    app = wsgi.wsgi(URL)

    def get(path, query=""):
        status = []
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "localhost",
            "SERVER_PORT": "80", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(),
        }  # fmt: skip
        body = b"".join(app(environ, lambda line, headers, exc_info=None: status.append(line)))
        return status[0], body

    return get


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("aside", [False, True], ids=["searched", "aside"])
def test_every_panel_of_the_dashboard_answers(ledgers, dashboard, name, aside):
    study = in_optuna(name + aside * ASIDE)
    base = f"/api/studies/{study._study_id}"
    plots = [
        "contour", "slice", "parallel_coordinate", "rank", "edf", "timeline",
        *(["pareto_front"] if len(study.directions) == 2 else []),
    ]  # fmt: skip
    for path, query in [
        ("/api/meta", ""), ("/api/studies", ""), (base, "after=0"), (f"{base}/param_importances", ""),
        (f"/csv/{study._study_id}", ""), *((f"{base}/plot/{plot}", "") for plot in plots),
    ]:  # fmt: skip
        status, body = dashboard(path, query)
        assert status.startswith("200"), (path, status, body[:300])
    listed = json.loads(dashboard("/api/studies")[1])["study_summaries"]
    assert {one["study_name"] for one in listed} == {n + a for n in STUDIES for a in ("", ASIDE)}
    detail = json.loads(dashboard(base, "after=0")[1])
    assert len(detail["trials"]) == len(study.trials)


def test_numbers_count_both_studies_and_a_part_is_no_study(ledgers):
    for name, ledger in ledgers.items():
        assert [t.number for t in ledger.trials()] == list(range(len(ledger.trials())))
        with pytest.raises(InputError, match=f"part of study '{name}'"):
            Ledger.open("runs.db", name + ASIDE)
    with pytest.raises(InputError, match=r"it has front, plain, points$"):
        Ledger.open("runs.db", "other")


@pytest.fixture(scope="module")
def server(ledgers):
    """The dashboard's address while it serves the storage, and what it was asked for with the status of each answer."""
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: naslab[dashboard]")

    class Quiet(WSGIRequestHandler):
        def log_message(self, *args):
            pass

    app, answers = dashboard.wsgi(URL), []

    def noted(environ, start_response):
        def start(status, *more):
            answers.append((environ["PATH_INFO"], int(status.split()[0])))
            return start_response(status, *more)

        return app(environ, start)

    with make_server("127.0.0.1", 0, noted, handler_class=Quiet) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/dashboard", answers
        served.shutdown()
        thread.join()


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


@pytest.fixture(scope="module")
def show(server, tmp_path_factory):
    """What a browser makes of a page of the dashboard, its scripts run; no answer on the way is an error."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: one of {', '.join(BROWSERS)}")
    own = f"--user-data-dir={tmp_path_factory.mktemp('browser')}"  # there may be no home
    options = ["--headless", "--no-sandbox", "--disable-gpu", own, "--virtual-time-budget=20000", "--dump-dom"]
    url, answers = server

    def shown(page):
        answers.clear()
        dumped = subprocess.run([browser, *options, url + page], capture_output=True, text=True, timeout=300).stdout
        assert not [answer for answer in answers if answer[1] >= 400 and "favicon" not in answer[0]]
        return dumped, [path for path, _ in answers]

    return shown


@pytest.mark.browser
def test_a_browser_shows_every_study(show):
    page, _ = show("")
    assert all(name in page for name in STUDIES)


@pytest.mark.browser
@pytest.mark.parametrize("name", [*STUDIES, f"front{ASIDE}"])
@pytest.mark.parametrize("view", ["", "/analytics"])
def test_a_browser_shows_every_panel_of_a_study(show, name, view):
    """One set of records aside will do: that the dashboard answers for each, and for which panel, is asked above."""
    number = in_optuna(name)._study_id
    page, asked = show(f"/studies/{number}{view}")
    assert name in page
    assert f"/api/studies/{number}" in asked
    assert view or f"/api/studies/{number}/param_importances" in asked, asked
