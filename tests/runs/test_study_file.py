import math
from pathlib import Path

import pytest
import torch
import yaml

from naslab.errors import InputError
from naslab.runs.ledger import Ledger
from naslab.runs.storage import _first_line
from naslab.runs.storage_url import shown
from naslab.runs.study import load_study, parse_study
from naslab.runs.yaml_text import read_yaml
from naslab.search_spaces import Float
from naslab.search_spaces.function import Choice

DOCUMENT = {
    "schema": "naslab.study/1",
    "name": "mine",
    "space": {"name": "nasiam", "preset": "tiny"},
    "task": {"epochs": 2},
    "arms": [{"name": "tpe", "engine": "optuna", "sampler": "tpe", "trials": 3}],
}


def write(tmp_path, document):
    path = tmp_path / "mine.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def changed(**changes):
    return {k: v for k, v in {**DOCUMENT, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds: 3", "seeds: must be a list, such as [0, 1, 2], not 3"),
        ("seeds: [0, 0]", "seeds [0, 0] repeat"),
        ("sede: 1", "sede: unknown key; did you mean seed?"),
        ("limits: {trail_hours: 1}", "limits.trail_hours: unknown key; did you mean trial_hours?"),
        ("limits: {gpu_hours: -1}", "limits.gpu_hours"),
        ("limits: 3", "limits: must be a mapping"),
        ("arms: [{name: a, engine: optna}]", "did you mean optuna?"),
        ("device: cud", "did you mean cuda?"),
        ("seed: 1\nseed: 2", "'seed' stands twice"),
        ("? [a, b] : c", "keys are plain words"),
        ("? {a: b} : c", "keys are plain words"),
        ("ranking: {floor: .nan}", "ranking.floor"),
        ("ranking: {floor: -.inf}", "ranking.floor"),
        ("seeds: {from: 2, to: 100000}", "at most 100"),
        ("seeds: {from: true, to: 3}", "a race is written"),
        ("seeds: {from: 2.0, to: 3}", "a race is written"),
        ("race_to: 3", "race_to: 3 does not go with seeds [0, 1, 2]"),
        ("seeds: [7, 8, 9]\nrace_to: 12", "does not go with seeds [7, 8, 9]"),
        ("seeds: [true]", "seeds.0: must be an integer, not True"),
        ("seeds: [-1]", "seeds.0"),
        ("seeds: ['1']", "seeds.0: must be an integer, not '1'"),
        ("seeds: [.5]", "seeds.0: must be an integer, not 0.5"),
        ("seeds: [1, 1.0]", "seeds [1, 1] repeat"),
        ("seed: 1e30", "seed"),
        ("seed: 9223372036854775808", "seed"),
        ("random_architectures: yes", "random_architectures: must be an integer, not True"),
        ("finalists: .inf", "finalists: must be an integer, not inf"),
        ("limits: {gpu_hours: .inf}", "limits.gpu_hours: must be a finite number, not inf"),
        ("limits: {trial_hours: .nan}", "limits.trial_hours: must be a finite number, not nan"),
        ("limits: {gpu_hours: true}", "limits.gpu_hours: must be a number, not True"),
        ("limits: {gpu_hours: '3'}", "limits.gpu_hours: must be a number, not '3'"),
        ("constraints: {max_params: '3'}", "constraints.max_params: must be an integer, not '3'"),
        ("ranking: {floor: true}", "ranking.floor: must be reference, none or a finite number, not True"),
        ("ranking: {floor: '90'}", "ranking.floor: must be reference, none or a finite number, not '90'"),
        ("ranking: {margin: .inf}", "ranking.margin"),
        ("arms: [{name: a, engine: grid, vary: {}}]", "vary: must have 1 or more values"),
        ("arms: [{name: a, engine: grid, vary: {lr: []}}]", "vary.lr: must have 1 or more values"),
        ("arms: [{name: a, engine: optuna, sampler: tpe, trials: true}]", "trials: must be an integer, not True"),
        ("arms: [{name: a, engine: differentiable, epochs: 2, alpha: {betas: [.5, 1]}}]", "betas.1"),
        (
            "arms: [{name: a, engine: differentiable, epochs: 2, warmup_epochs: 2}]",
            "warmup_epochs: 2 of 2 epochs leave",
        ),
        ("arms: [{name: a, engine: differentiable, epochs: 2, relaxation: gumbel, gumbel_hard: 1}]", "true or false"),
        ("arms: [{name: a, engine: differentiable, epochs: 2, relaxation: gumbel, temperature: [0, 1]}]", "temp"),
        ("task: &a {x: *a}", "an alias may hold itself"),
        ("task: {x: !!binary aGk=}", "a bytes is no value of a study file"),
        ("task: {x: !!bool x}", "cannot be read"),
        ('description: "\\ud800"', "cannot be read"),
        ("task: " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("\tx: 1", "line 4, column 1"),
        ("include: " + "{a: " * 3000 + "1" + "}" * 3000, "nested too deep"),
    ],
)
def test_what_is_wrong_is_one_short_line(tmp_path, text, words):
    lines = ["schema: naslab.study/1", "name: mine", "space: {name: nasiam, preset: tiny}", text]
    with pytest.raises(InputError) as caught:
        load_study(write(tmp_path, "\n".join(lines) + "\n"))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "1.0e-3", "0.001", "+1e-3", ".1e-2"])
def test_a_number_is_a_number_however_it_is_written(text):
    assert read_yaml(f"lr: [{text}]") == {"lr": [0.001]}
    assert read_yaml(f"lr: '{text}'") == {"lr": text}
    assert read_yaml("version: 1e3x") == {"version": "1e3x"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("1_000", 1000), ("0x1f", 31), ("-.inf", -math.inf), ("1:30", "1:30"), ("1__0", "1__0")],
)
def test_base_60_and_base_8_are_no_surprise(text, value):
    assert read_yaml(f"x: {text}") == {"x": value}


def test_whole_numbers_may_be_written_with_an_exponent():
    study = parse_study(changed(constraints={"max_params": 1e6}, seeds=[0.0, 1]), "mine.yaml")
    assert repr((study.constraints.max_params, study.seeds)) == "(1000000, (0, 1))"


def test_a_choice_keeps_the_kind_of_number_that_it_was_given():
    assert repr(Choice(values=[1, 2.0, True, "x"]).values) == "(1, 2.0, True, 'x')"


def test_aliases_of_aliases_end_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(yaml.YAMLError, match="values"):
        read_yaml("\n".join(lines))


def test_a_number_in_quotes_is_explained():
    with pytest.raises(InputError, match=r"'1e-3' is not allowed; .*this is text; without quotes, 0.001"):
        Float("lr", 1e-4, 1e-1).check("1e-3")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@host/db",
        "postgresql+psycopg2://me:hunter2@host:5432/db?sslmode=require",
        "mysql://me:hunter2@host/db",
        "postgresql://host/db?user=me&password=hunter2",
        "postgresql://me:hunter2/x@host/db",
        "postgresql://me:hunter2#x@host/db",
        "postgresql://me:x?hunter2@host/db",
        "postgresql://me:x%40hunter2@host/db",
        "postgresql://host/db?options=-cpassword%3Dhunter2",
        "postgresql://host/db?api_key=hunter2&sslpassword=hunter2",
    ],
)
def test_a_password_is_never_shown(url):
    assert "hunter2" not in shown(url)
    assert "host" in shown(url)
    with pytest.raises(InputError) as caught:
        Ledger.open(url, "mine")
    assert "hunter2" not in str(caught.value)


def test_a_driver_may_repeat_a_password_in_its_own_words():
    url = "postgresql://me:p%40ss%2Fword@host/db"
    for said in (f"bad URL {url}", "no user me with p@ss/word", "password p%40ss%2Fword refused"):
        line = _first_line(ValueError(said), url)
        assert "p@ss" not in line
        assert "p%40ss" not in line


@pytest.mark.parametrize("path", sorted(Path("studies").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_studies_are_valid(path):
    study = load_study(path)
    assert study.name == path.stem
    study.search_space.Task.Options.model_validate(study.task)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (changed(sede=1), "sede: unknown key"),
        (changed(schema=None), "no 'schema' key"),
        (changed(schema="naslab.study/0"), "naslab.study/0.*reads 'naslab.study/1'"),
        (changed(name="a/b"), "name"),
        (changed(seeds=[]), "seeds"),
        (changed(seeds=[1, 1]), "seeds.*repeat"),
        (changed(seed=-1), "seed"),
        (changed(arms=[{"name": "a", "engine": "grid"}]), "arms.0"),
        (changed(arms=[{"name": "a", "engine": "optuna", "sampler": "tpe"}]), "needs a budget"),
        (changed(arms=[{"name": "a", "engine": "optuna", "sampler": "cma", "trials": 3}]), "sampler"),
        (changed(arms=[DOCUMENT["arms"][0]] * 2), "two arms are named 'tpe'"),
        (changed(arms=[{"name": "d", "engine": "differentiable", "epochs": 0}]), "epochs"),
        ("a: [", "not valid YAML"),
        ("just text", "mapping"),
        ("", "mapping"),
    ],
)
def test_a_bad_file_gets_one_line_with_the_place(tmp_path, document, message):
    with pytest.raises(InputError, match=message) as caught:
        load_study(write(tmp_path, document))
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"name": "nasnet"}, "nasnet"),
        ({"name": "nasiam", "preset": "huge"}, "preset 'huge'"),
        ({"name": "nasiam", "options": {"depth": 3}}, "depth: unknown key"),
        ({"name": "no.such.module:Space"}, "cannot import"),
        ({"name": "json:JSONDecoder"}, "names no SearchSpace"),
    ],
)
def test_a_bad_space_gets_one_line(space, message):
    with pytest.raises(InputError, match=message):
        _ = parse_study(changed(space=space), "mine.yaml").search_space


def test_a_stored_study_may_hold_options_that_are_refused_today():
    old = changed(task={"epochs": 2, "dataset": {"root": "~/images"}}, space={"name": "nasiam", "options": {
        "backbone": "tiny", "in_channels": 1, "image_size": 28, "queue_size": 64}})  # fmt: skip
    with pytest.raises(InputError, match="applies only with"):
        parse_study(old, "mine.yaml").make_task(torch.device("cpu"))
    task = parse_study(old, "storage", recorded=True).make_task(torch.device("cpu"))
    assert task.options.epochs == 2


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(InputError, match="no such study file"):
        load_study(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path / "binary.yaml")
    with pytest.raises(InputError, match="a folder, not a study file"):
        load_study(tmp_path)
    (tmp_path / "large.yaml").write_text("# a comment\n" * 1_000_000)
    with pytest.raises(InputError, match="no study file: larger than"):
        load_study(tmp_path / "large.yaml")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        load_study(Path("x" * 5000))


def test_overrides_reach_into_mappings_and_lists(tmp_path):
    path = write(tmp_path, DOCUMENT)
    study = load_study(path, ["task.epochs=5", "arms.0.trials=7", "seeds=[4, 5]", "space.options.framework=simclr"])
    assert (study.task["epochs"], study.arms[0].trials, study.seeds) == (5, 7, (4, 5))
    assert study.search_space.options.framework == "simclr"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "a.b=value"),
        ("=3", "a.b=value"),
        ("arms.4.trials=1", "not an index"),
        ("arms.first=1", "not an index"),
        ("name.first=1", "single value"),
        ("task.epochs.first=1", "single value"),
        ("seeds=[1", "not a YAML value"),
        ("sede=1", "sede: unknown key"),
    ],
)
def test_bad_overrides_say_which(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        load_study(write(tmp_path, DOCUMENT), [override])


def test_the_digest_ignores_words_and_sees_everything_else():
    study = parse_study(DOCUMENT, "mine.yaml")
    assert parse_study(changed(description="other words"), "mine.yaml").digest == study.digest
    assert parse_study(changed(seed=1), "mine.yaml").digest != study.digest
    assert parse_study(study.document(), "again").digest == study.digest
