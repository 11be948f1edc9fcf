"""Loggers: what they wrote is read back by their own libraries, and what one does is never the study's trouble."""

import struct
import sys
import threading
from collections import Counter

import pytest
from inline import TOY, InlineExecutor
from test_server_away import Listener

from naslab.errors import InputError
from naslab.runs.driver import run_study
from naslab.runs.ledger import Ledger
from naslab.runs.loggers import relay
from naslab.runs.loggers.choice import TensorBoard
from naslab.runs.loggers.protocol import title
from naslab.runs.study import parse_study


def study(**changes):
    return parse_study({**TOY, "seeds": [0], "task": {"epochs": 3}, **changes}, "test")


@pytest.fixture
def run(toy_file, monkeypatch):
    monkeypatch.setattr("naslab.runs.driver.make_executor", InlineExecutor)
    monkeypatch.setattr(relay, "CLOSING_SECONDS", 240.0)  # for a machine whose disk is slow

    def run(*loggers, **changes):
        listener = Listener()
        arms = [{"name": "random", "engine": "optuna", "sampler": "random", "trials": 2}]
        ledger = Ledger.start("runs.db", study(loggers=list(loggers), **{"arms": arms, **changes}))
        run_study(ledger, 1, listener)
        return ledger, listener.lines

    return run


def told(trial, name="score"):
    return {rung.epoch: rung.scores[name] for rung in trial.rungs if name in rung.scores}


def check(ledger, curve, parameters):
    """Each trial of the ledger stands in the logger, with its scores by epoch and its parameters."""
    trials = ledger.trials()
    assert len(trials) > 5
    assert any(told(t) for t in trials)
    for trial in trials:
        found = curve(trial)
        assert found.keys() == told(trial).keys()
        assert all(found[epoch] == pytest.approx(score, rel=1e-6) for epoch, score in told(trial).items())
        assert str(parameters(trial)["seed"]) in (str(trial.job.seed), str(float(trial.job.seed)))
        assert parameters(trial)["role"] == trial.job.role


def test_a_folder_in_the_users_home_is_there(tmp_path, monkeypatch):
    made = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("naslab.runs.loggers.tensorboard.TensorBoardLogger", made.append)
    TensorBoard(kind="tensorboard", folder="~/boards").make("mine", tmp_path / "mine")
    assert made == [tmp_path / "boards"]


def test_tensorboard(run):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="naslab[tensorboard] is not installed"
    )
    ledger, said = run("tensorboard")
    assert said == []

    def read(trial):
        return accumulator.EventAccumulator(str(ledger.files / "tensorboard" / title(trial))).Reload()

    def curve(trial):
        events = read(trial)
        return {e.step: e.value for e in events.Scalars("score")} if "score" in events.Tags()["scalars"] else {}

    def parameters(trial):
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        data = read(trial).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        given = HParamsPluginData.FromString(data).session_start_info.hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in given.items()}

    check(ledger, curve, parameters)
    complete = next(t for t in ledger.trials() if t.job.role == "reference")
    (final,) = read(complete).Scalars("final/score")
    assert final.value == pytest.approx(complete.scores["score"], rel=1e-6)
    assert parameters(complete)["state"] == "complete"


def test_mlflow(run):
    tracking = pytest.importorskip("mlflow.tracking", reason="naslab[mlflow] is not installed")
    ledger, said = run({"kind": "mlflow"})
    assert said == []
    client = tracking.MlflowClient(f"sqlite:///{ledger.files.absolute() / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    runs = {int(run.data.tags["naslab.trial"]): run for run in found}
    assert len(found) == len(runs) == len(ledger.trials())
    assert {run.info.status for run in found} == {"FINISHED"}

    def curve(trial):
        return {m.step: m.value for m in client.get_metric_history(runs[trial.number].info.run_id, "score")}

    check(ledger, curve, lambda trial: runs[trial.number].data.params)


def leveldb_records(data, header=7, block=32_768):
    """What a log file of LevelDB's kind holds: parts, each behind a checksum, its length and whether more follows."""
    place, record = header, b""
    while place < len(data):
        if (left := block - place % block) < 7:  # no room for the head of a part
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb(run):
    pytest.importorskip("wandb", reason="naslab[wandb] is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    ledger, said = run("wandb")
    assert said == []
    runs = {}
    for path in ledger.files.glob("wandb/offline-run-*/*.wandb"):
        records = [Record.FromString(data) for data in leveldb_records(path.read_bytes())]
        (name,) = {r.run.display_name for r in records if r.HasField("run")}
        runs[name] = records

    def curve(trial):
        rows = [r.history for r in runs[title(trial)] if r.HasField("history")]
        facts = [{i.key or ".".join(i.nested_key): i.value_json for i in row.item} for row in rows]
        return {int(f["_step"]): float(f["score"]) for f in facts if "score" in f}

    def parameters(trial):
        import json

        first = next(r.run for r in runs[title(trial)] if r.HasField("run"))
        given = {i.key: json.loads(i.value_json) for i in first.config.update}
        return {name: value.get("value", value) if isinstance(value, dict) else value for name, value in given.items()}

    check(ledger, curve, parameters)


def test_trackio(run, tmp_path, monkeypatch):
    kept = pytest.importorskip("trackio.sqlite_storage", reason="naslab[trackio] is not installed")
    for module in (kept, sys.modules["trackio.utils"]):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    ledger, said = run("trackio")
    assert said == []
    runs = kept.SQLiteStorage
    assert sorted(runs.get_runs("toy")) == sorted(map(title, ledger.trials()))

    def curve(trial):
        return {row["step"]: row["score"] for row in runs.get_logs("toy", title(trial)) if "score" in row}

    check(ledger, curve, lambda trial: runs.get_run_config("toy", title(trial)))
    complete = next(t for t in ledger.trials() if t.job.role == "reference")
    (last,) = [row for row in runs.get_logs("toy", title(complete)) if "state" in row]
    assert last["state"] == "complete"
    assert last["final/score"] == pytest.approx(complete.scores["score"], rel=1e-6)


class Broken:
    """Fails, or hangs, when it is told one kind of thing."""

    def __init__(self, when, how):
        self.when, self.how = when, how

    def __getattr__(self, name):
        def told(*_):
            if name == self.when:
                self.how()

        return told


def leave():
    sys.exit(1)


def fail():
    raise RuntimeError("no route\nto postgresql://me:hunter2@host/runs")


@pytest.mark.parametrize("how", [fail, leave])
@pytest.mark.parametrize("when", ["began", "rung", "ended", "close"])
def test_a_logger_that_fails_is_one_line_and_the_study_goes_on(run, monkeypatch, when, how):
    monkeypatch.setattr(TensorBoard, "make", lambda self, study, files: Broken(when, how))
    ledger, said = run("tensorboard", arms=[])
    assert {t.state for t in ledger.trials()} == {"complete"}
    (line,) = said
    assert line.startswith("logger 0: tensorboard failed, the study continues without it: ")
    assert "\n" not in line
    assert "hunter2" not in line


def test_a_logger_that_hangs_does_not_hold_the_study_up(run, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(relay, "CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(TensorBoard, "make", lambda self, study, files: Broken("began", let_go.wait))
    ledger, (line,) = run("tensorboard", arms=[])
    let_go.set()
    assert {t.state for t in ledger.trials()} == {"complete"}
    assert "not done after 0.2 s" in line


def test_interrupted_trials_are_told_when_they_are_settled(run, monkeypatch):
    """By the driver that finds them: the end of a trial that another driver began."""
    heard = Counter()

    class Logger:
        def __getattr__(self, name):
            return lambda *told: heard.update([(name, *(t.number for t in told[:1]))])

    monkeypatch.setattr(TensorBoard, "make", lambda self, study, files: Logger())
    finish, calls = Ledger.finish, []

    def die(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return finish(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", die)
        patch.setattr("naslab.runs.driver._Driver._leave", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            run("tensorboard", arms=[])
    ledger, _ = run("tensorboard", arms=[])
    assert heard[("close",)] == 2
    for trial in ledger.trials():
        assert heard[("began", trial.number)] == heard[("ended", trial.number)] == 1


def test_the_password_of_a_tracking_server_is_not_recorded():
    made = study(loggers=[{"kind": "mlflow", "uri": "postgresql://me:hunter2@host/runs"}])
    assert "hunter2" in made.loggers[0].uri
    assert "hunter2" not in str(made.document())


def test_loggers_have_no_effect_on_results_and_may_change(run):
    assert study().digest == study(loggers=["tensorboard"]).digest
    before, _ = run()
    after, _ = run({"kind": "tensorboard", "folder": "elsewhere"})
    assert after.trials() == before.trials()


@pytest.mark.parametrize(
    ("loggers", "words"),
    [
        (["tensorbord"], "tensorboard"),
        ([{"kind": "mlflow", "url": "x"}], "uri"),
        ({"tensorboard": {}}, "list"),
        (["tensorboard", "tensorboard"], "twice"),
        ([3], "loggers.0"),
    ],
)
def test_a_logger_that_is_not_one_is_named(loggers, words):
    with pytest.raises(InputError, match=words):
        study(loggers=loggers)


def test_a_package_that_is_missing_is_said_before_anything_runs(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "naslab.runs.loggers.wandb", raising=False)
    with pytest.raises(InputError, match=r"loggers.0: .*wandb.*pip install 'naslab\[wandb\]'"):
        run("wandb")
    assert Ledger.start("runs.db", study()).trials() == []
