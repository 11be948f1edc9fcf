"""Whatever a task does to its process ends its own trial at most: the others get their own answers."""

import hostile
import pytest

import naslab
from naslab.runs.cli import run_command_line
from naslab.runs.driver import run_study
from naslab.runs.ledger import Ledger
from naslab.runs.log import log_path
from naslab.runs.output import err
from naslab.runs.progress import Progress

KINDS = ["nothing", *hostile.ENDS, *hostile.GOES_ON, "its folder deleted"]
DEATHS = (
    *("os._exit", "all files closed", "its folder deleted", "abort", "segmentation fault", "alarm"),
    *("no file may grow", "no file may be opened"),
)


@pytest.mark.slow
def test_a_task_that_does_the_worst_harms_no_other(toy_file, capsys):
    toy_file()
    study = naslab.search(
        hostile.train, {"kind": KINDS}, metric="accuracy", trials=len(KINDS), sampler="grid", name="worst", seeds=[0],
        random_architectures=0, limits={"attempts": 1, "failures_in_a_row": 100},
    )  # fmt: skip
    ledger = Ledger.start("runs.db", study)
    run_study(ledger, 1, Progress(err, quiet=True))
    proposals = {t.job.configuration["kind"]: t for t in ledger.trials() if t.job.role == "proposal"}
    assert proposals.keys() == set(KINDS)
    for kind in ("nothing", *hostile.GOES_ON):
        trial = proposals[kind]
        assert (trial.state, trial.error) == ("complete", None), kind
        expected = [10.0 * KINDS.index(kind) + epoch for epoch in (1, 2)]
        assert [rung.scores["accuracy"] for rung in trial.rungs] == expected, kind
    for kind in (*hostile.ENDS, "its folder deleted"):
        trial = proposals[kind]
        assert trial.state == "failed", kind
        assert trial.error.isprintable(), kind
        assert ("given up" in trial.error) == (kind in DEATHS), kind
    logs = (log_path(ledger.files, t.number).read_text(errors="replace") for t in ledger.trials())
    found = {line for log in logs for line in log.splitlines() if line.startswith("finds ")}
    assert len(found) == 1, "no trial finds what another has left"
    assert "SystemExit: bye" in proposals["sys.exit"].error
    assert run_command_line(["status", "worst", "--storage", "runs.db"]) == 0
    assert run_command_line(["logs", "worst", str(proposals["unspeakable"].number), "--storage", "runs.db"]) == 0
    assert "Traceback" in capsys.readouterr().out
