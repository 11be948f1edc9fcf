"""`naslab studies`: what a storage holds, another name for a study, and its end, killed at any step."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from inline import TOY
from jsonschema import Draft202012Validator

import naslab
from naslab.errors import InputError
from naslab.runs import studies
from naslab.runs.cli import run_command_line
from naslab.runs.lease import Lease, sessions_of
from naslab.runs.ledger import Ledger
from naslab.runs.ranking import rank
from naslab.runs.storage import connect
from naslab.runs.storage_url import storage_url
from naslab.runs.study import parse_study
from naslab.runs.trial import Job

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.fixture(autouse=True)
def here(toy_file):
    """An empty folder of its own."""


def record(storage, name="toy", **changes):
    """A study whose reference has run, by hand, with a file."""
    ledger = Ledger.start(storage, parse_study({**TOY, "name": name, "arms": [], "seeds": [0], **changes}, "test"))
    with ledger.hold(1):
        job = Job("reference/seed0", "reference", "reference", 0, ledger.space.reference)
        trial_id, _ = ledger.begin(job)
        scores = {"score": 20.0, "validation_score": 21.0}
        facts = {"seconds": {"train": 3.6}, "device": "cpu", "scores": scores, "result": {"metric": "score"}}
        ledger.finish(trial_id, "complete", facts)
        ledger.mark_done()
    weights = ledger.files / "trials" / job.key / "model.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.touch()
    return ledger


def document(capsys, schema, *command):
    assert run_command_line(["studies", *command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text())).validate(found)
    return found


def refused(capsys, *command):
    assert run_command_line(["studies", *command]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    return said.err


def overviews(storage):
    return {one.name: one for one in studies.list_studies(storage)}


def test_all_studies_are_listed(storage, capsys):
    record(storage)
    ledger = record(storage, "other")
    with ledger.hold(2):
        listed = document(capsys, "studies", "--storage", storage)["studies"]
        assert [(one["name"], one["state"]) for one in listed] == [("other", "running"), ("toy", "done")]
        assert listed[0]["driver"]["slots"] == 2
        assert listed[1]["driver"] is None
    other = overviews(storage)["other"]
    assert other.state == "stopped", "its last driver did not say that nothing is left"
    assert other.trials == {"complete": len(ledger.trials())}
    assert other.device_hours == pytest.approx(sum(t.device_seconds for t in ledger.trials()) / 3600)
    assert run_command_line(["studies", "--storage", storage]) == 0
    assert "stopped" in capsys.readouterr().out


def test_a_study_whose_space_is_not_here_is_listed(storage, monkeypatch):
    record(storage)
    monkeypatch.setattr("naslab.runs.study.find_space", lambda *_: pytest.fail("not needed"))
    assert overviews(storage)["toy"].state == "done"


def test_a_renamed_study_is_the_same_study(storage, capsys):
    before = record(storage)
    ranking, trials, sessions = rank(before.study, before.trials()), before.trials(), before.sessions()
    said = document(capsys, "rename", "rename", "toy", "tin", "--storage", storage)
    assert (said["was"], said["study"], said["named_by"]) == ("toy", "tin", [])
    after = Ledger.open(storage, "tin")
    assert after.trials() == trials
    assert after.sessions() == sessions
    ranked = json.dumps(rank(after.study, after.trials()).to_dict())
    assert ranked.replace('"tin"', '"toy"') == json.dumps(ranking.to_dict())
    assert after.files.name == "tin"
    assert (after.files / "trials").is_dir()
    assert overviews(storage).keys() == {"tin"}
    record(storage)
    assert Ledger.open(storage, "tin").trials() == trials, "the old name is free for another one"
    assert after.files != Ledger.open(storage, "toy").files


def test_a_deleted_study_leaves_nothing(storage, capsys):
    ledger, other = record(storage), record(storage, "other")
    trials = other.trials()
    files = ledger.files
    assert files.is_dir()
    assert "add --yes to delete it" in refused(capsys, "delete", "toy", "--storage", storage)
    document(capsys, "delete", "delete", "toy", "--yes", "--storage", storage)
    assert not files.exists()
    assert Ledger.open(storage, "other").trials() == trials
    assert sessions_of(connect(storage_url(storage), create=False), "toy") == []
    assert "no study named 'toy'" in refused(capsys, "delete", "toy", "--yes", "--storage", storage)
    assert len(record(storage).trials()) == 1, "it begins anew"


def test_who_names_a_study_is_said(storage, capsys):
    record(storage)
    arm = {"name": "warm", "engine": "optuna", "sampler": "random", "trials": 1, "warm_start": ["toy"]}
    record(storage, "other", beside=["toy"], reuse=["toy"], arms=[arm])
    named = ["other: reuse", "other: beside", "other: arm warm, warm_start"]
    assert document(capsys, "rename", "rename", "toy", "tin", "--storage", storage)["named_by"] == named
    record(storage)
    assert document(capsys, "delete", "delete", "toy", "--yes", "--storage", storage)["named_by"] == named


def test_a_study_that_runs_is_left_alone(storage, capsys):
    ledger = record(storage)
    with ledger.hold(1):
        for command in (["delete", "toy", "--yes"], ["rename", "toy", "tin"]):
            assert "works on this study" in refused(capsys, *command, "--storage", storage)
    assert (ledger.files / "trials").is_dir()
    assert Ledger.open(storage, "toy").trials() == ledger.trials()


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("other", "taken"),
        ("toy", "taken"),
        ("a: b", "no name"),
        ("folder", "taken"),
    ],
)
def test_a_name_that_cannot_be_is_refused(storage, capsys, new, words):
    ledger = record(storage)
    record(storage, "other")
    ledger.files.with_name("folder").mkdir()
    assert words in refused(capsys, "rename", "toy", new, "--storage", storage)
    assert "no study named 'nobody'" in refused(capsys, "rename", "nobody", "new", "--storage", storage)
    assert overviews(storage).keys() == {"other", "toy"}


ALLOWED = "is no name; letters from A to Z, digits, '-', '_' and '.' are allowed, and a letter or a digit comes first"
NO_NAMES = {
    **dict.fromkeys(["", "étude", "研究", "исследование", "\N{TEST TUBE}", "e\u0301", "a b", "a\nb", "a\n"], ALLOWED),
    **dict.fromkeys(["it's", 'a"b', "a/b", "a\\b", "..", ".a", "-a", "_a", "~", "a\0b", "a\udce9"], ALLOWED),
    **{letter * 300: "has 300 letters; a name has 64 at most" for letter in ("a", "é", "研")},
    "a" * 65: "has 65 letters; a name has 64 at most",
}


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_whatever_takes_a_name_says_what_a_name_is(tmp_path, capsys, name):
    takers = [lambda: parse_study({**TOY, "name": name}, "file")]
    if name:  # else it is the function's own
        takers.append(
            lambda: naslab.search(scored, {"x": [1, 2]}, metric="score", trials=1, reference={"x": 1}, name=name)
        )
    said = [refused(capsys, "rename", "--storage", record(str(tmp_path / "lab.db")).url, "toy", "--", name)]
    for take in takers:
        with pytest.raises(InputError) as caught:
            take()
        said.append(str(caught.value))
    for line in said:
        assert line.strip().endswith(NO_NAMES[name])
        assert len(line.strip().splitlines()) == 1
    assert not Path("naslab-runs").exists(), "nothing is written under such a name"


def scored(x):
    return float(x)


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "3", "a..b", "a" * 64])
def test_what_is_a_name_is_taken(tmp_path, name):
    assert parse_study({**TOY, "name": name}, "file").name == name
    record(str(tmp_path / "lab.db"))
    studies.rename_study(str(tmp_path / "lab.db"), "toy", name)
    assert overviews(str(tmp_path / "lab.db")).keys() == {name}


@pytest.mark.parametrize("name", ["a" * 300, "a\nb", "研究", "a\0b"])
def test_a_name_that_no_study_has_is_one_line(tmp_path, capsys, name):
    storage = record(str(tmp_path / "lab.db")).url
    for command in (
        ["status", name],
        ["rank", name],
        ["studies", "delete", name],
        ["studies", "delete", name, "--yes"],
    ):
        assert run_command_line([*command, "--storage", storage]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def read(storage, name):
    """Its trials, or what keeps it from being read."""
    state = overviews(storage)[name].state
    return state if state == "being deleted" else Ledger.open(storage, name).trials()


class Killed(BaseException):
    """A kill -9, as far as what it leaves goes."""


def steps():
    """What a renaming and a deletion call on their way, each a place to be killed before, after, or in the middle."""
    lease = [(Lease, name) for name in ("__enter__", "__exit__", "_release")]
    renaming = [(studies, name) for name in ("rename_studies", "finish_move")]
    deleting = [(studies, name) for name in ("_remove", "erase_studies")]
    for command, places in (("rename", [*lease, *renaming]), ("delete", [*lease, *deleting])):
        yield from ((command, place, moment) for place in places for moment in ("before", "after"))
    yield "delete", (shutil, "rmtree"), "in the middle"


COMMANDS = {"rename": ["rename", "toy", "tin"], "delete": ["delete", "toy", "--yes"]}


@pytest.mark.parametrize(("command", "place", "moment"), [*steps()])
def test_whoever_is_killed_at_any_step_leaves_what_the_same_command_finishes(
    tmp_path, capsys, monkeypatch, command, place, moment
):
    storage = str(tmp_path / "lab.db")
    before = record(storage)
    files, trials = before.files, before.trials()
    real = getattr(*place)

    def killed(*arguments, **options):
        if moment == "in the middle":
            next(files.rglob("model.safetensors")).unlink()
        elif moment == "after":
            real(*arguments, **options)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*place, killed)
        patch.setattr(Lease, "_beat", lambda self: None)
        with suppress(Killed):
            run_command_line(["studies", *COMMANDS[command], "--storage", storage])
    monkeypatch.setattr("naslab.runs.lease._is_gone", lambda holder: True)
    capsys.readouterr()
    for name in overviews(storage):  # whatever it is now, it may be read or says what it is
        assert read(storage, name) in (trials, "being deleted")
    code = run_command_line(["studies", *COMMANDS[command], "--storage", storage])
    said = capsys.readouterr().err
    if command == "delete":
        assert code == 0 or "no study named" in said
        assert not files.exists()
        assert not overviews(storage)
    else:
        assert code == 0 or "no study named" in said
        after = Ledger.open(storage, "tin")
        assert after.trials() == trials
        assert next(after.files.rglob("model.safetensors"))
        assert overviews(storage).keys() == {"tin"}


def test_a_study_that_is_being_deleted_does_not_record(storage, capsys, monkeypatch):
    record(storage)

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(studies, "_remove", killed)
        with pytest.raises(Killed):
            studies.delete_study(storage, "toy")
    assert overviews(storage)["toy"].state == "being deleted"
    for use in (lambda: record(storage), lambda: Ledger.open(storage, "toy")):
        with pytest.raises(InputError, match="is being deleted; naslab studies delete toy --yes completes it"):
            use()


def test_a_driver_finishes_a_renaming(storage, monkeypatch):
    before = record(storage).trials()

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(studies, "finish_move", killed)
        with pytest.raises(Killed):
            studies.rename_study(storage, "toy", "tin")
    after = Ledger.start(storage, Ledger.open(storage, "tin").study)
    with after.hold(1):
        assert after.trials() == before
    assert next(after.files.rglob("model.safetensors"))
