"""The complaints of docs/other-tuners.md: each names the test that holds its answer; the rest is here."""

import re
from collections import Counter
from pathlib import Path

import pytest
from inline import run_here
from sqlalchemy import text

import naslab
from naslab.errors import NaslabError
from naslab.runs.driver import run_study
from naslab.runs.lease import engine_of
from naslab.runs.ledger import Ledger
from naslab.runs.output import err
from naslab.runs.progress import Progress
from naslab.runs.sqlite_storage import LOCK_SECONDS
from naslab.runs.storage import connect

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "other-tuners.md").read_text()
SAMPLERS = ["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "nsga3", "evolution", "optuna.samplers:TPESampler"]


def test_every_complaint_has_its_thread_and_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 20
    for row in rows:
        file, name = re.search(r"`(\w+\.py)::(\w+)` \|$", row).groups()
        assert f"\ndef {name}(" in (HERE / file).read_text(), row
        assert re.search(r"\(https://github\.com/[^)]+/(issues|pull)/\d+\)", row), row


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def score(width=8, depth=2, kind="a"):
    return float(width - 3 * depth) + (kind == "a")


SPACE = {"width": naslab.Integer(1, 9), "depth": naslab.Float(0.5, 4), "kind": ["a", "b", "c"]}


def study(space=SPACE, **more):
    budget = {} if "arms" in more else {"trials": 8}
    settings = {"metric": "accuracy", "seeds": [0], "random_architectures": 0, "name": "mine", **budget, **more}
    return naslab.search(score, space, **settings)


def proposed(ledger):
    done = [t for t in ledger.trials() if t.job.role == "proposal" and t.state == "complete"]
    return [t.job.configuration.as_dict() for t in sorted(done, key=lambda t: int(t.job.key.rpartition("/")[2]))]


class Killed(Progress):
    """Interrupts the driver right after so many trials were recorded."""

    def __init__(self, after):
        super().__init__(err, quiet=True)
        self.left = after

    def finished(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_search_goes_on_as_if_nothing_had_been(sampler, inline):
    arm = {"name": "arm", "engine": "optuna", "sampler": sampler, "trials": 8, "enqueue": [{"width": 9}, {"kind": "c"}]}
    whole = proposed(run_here(Ledger.start("whole.db", study(arms=[arm]))))
    for after in (2, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            run_study(Ledger.start("cut.db", study(arms=[arm])), 1, Killed(after))
    assert proposed(run_here(Ledger.start("cut.db", study(arms=[arm])))) == whole
    assert len(whole) == 8
    assert [whole[0]["width"], whole[1]["kind"]] == [9, "c"]


def test_a_grid_is_tried_once_whatever_was_enqueued(inline):
    space = {"width": [1, 2, 3], "kind": ["a", "b"]}
    queue = [{"width": 2, "kind": "b"}, {"width": 2, "kind": "b"}, {"width": 3, "kind": "a"}]
    arm = {"name": "arm", "engine": "optuna", "sampler": "grid", "trials": 6, "enqueue": queue}
    asked = study(space, reference={"width": 1, "kind": "a"}, arms=[arm])
    with pytest.raises(KeyboardInterrupt):
        run_study(Ledger.start("runs.db", asked), 1, Killed(4))
    found = proposed(run_here(Ledger.start("runs.db", asked)))
    assert sorted((one["width"], one["kind"]) for one in found) == [(w, k) for w in (1, 2, 3) for k in "ab"]


def test_all_slots_share_the_trials_of_a_study_and_repeat_none(inline):
    """Eight are proposed before the first has ended; of the nine configurations that there are none comes twice."""
    asked = study({"width": naslab.Integer(1, 9)}, trials=9, sampler="random", finalists=1)
    ledger = Ledger.start("runs.db", asked)
    run_study(ledger, 8, Progress(err, quiet=True))
    assert sorted(one["width"] for one in proposed(ledger)) == list(range(1, 10))


def test_a_study_goes_on_where_its_folder_was_moved(inline):
    whole = proposed(run_here(Ledger.start("whole/runs.db", study())))
    with pytest.raises(KeyboardInterrupt):
        run_study(Ledger.start("before/runs.db", study()), 1, Killed(4))
    Path("before").rename("after")
    ledger = run_here(Ledger.start("after/runs.db", study()))
    assert proposed(ledger) == whole
    assert set(Counter(t.job.key for t in ledger.trials() if t.state == "complete").values()) == {1}
    assert ledger.files == Path("after/mine")
    assert not Path("before").exists()


def test_a_storage_that_is_busy_is_waited_for():
    engine = engine_of(connect("sqlite:///runs.db", create=True))
    with engine.connect() as connection:
        assert connection.scalar(text("pragma busy_timeout")) == 1000 * LOCK_SECONDS >= 60_000


def fails_at_first(width=8):
    if not Path("mended").exists():
        raise ValueError("a mistake")
    return float(width)


def test_a_study_that_stopped_for_its_failures_goes_on(inline):
    asked = naslab.search(
        fails_at_first, {"width": naslab.Integer(1, 9)}, metric="accuracy", trials=5, seeds=[0],
        random_architectures=0, limits={"failures_in_a_row": 3},
    )  # fmt: skip
    with pytest.raises(NaslabError, match="stopped after 3 equal failures"):
        run_here(Ledger.start("runs.db", asked))
    Path("mended").touch()
    ledger = Ledger.start("runs.db", asked)
    run_study(ledger, 1, Progress(err, quiet=True), retry_failed=True)
    last = {t.job.key: t.state for t in ledger.trials()}
    assert set(last.values()) == {"complete"}
    assert len(proposed(ledger)) == 5
