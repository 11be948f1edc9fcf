from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import safetensors.torch
import torch
import yaml
from synthetic_study import BY_DARTS, PUBLISHED, make_study, make_trials

from naslab.errors import InputError
from naslab.runs.architecture import WEIGHTS, rebuild
from naslab.runs.export import best_trial, document, export, slug
from naslab.runs.proof import ProofFailed, main, prove
from naslab.runs.ranking import rank
from naslab.runs.study import Study
from naslab.runs.trial import Trial
from naslab.search_spaces import seed_everything

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study()


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=":")
        yield


def trained(study: Study, seed: int) -> torch.nn.Module:
    """A model whose weights and batch statistics are those of no fresh one."""
    seed_everything(100 + seed)
    model = study.search_space.build(BY_DARTS).train()
    model(torch.randn(8, 1, 28, 28))
    return model


@pytest.fixture
def files(study, tmp_path) -> Path:
    """The study's folder with the weights of every darts finalist."""
    for trial in make_trials():
        if trial.job.configuration == BY_DARTS and trial.job.role == "final":
            folder = tmp_path / "demo" / "trials" / trial.job.key
            folder.mkdir(parents=True)
            safetensors.torch.save_file(trained(study, trial.job.seed).state_dict(), folder / WEIGHTS)
    return tmp_path / "demo"


def with_validation(trials: list[Trial], best_seed: int) -> list[Trial]:
    """Seed `best_seed` of darts gets the best validation and the worst test score."""

    def changed(trial: Trial) -> Trial:
        if trial.job.configuration != BY_DARTS or trial.job.role != "final" or trial.job.seed != best_seed:
            return trial
        last = replace(trial.rungs[-1], scores={"knn_top1": 95.0})
        return replace(trial, rungs=(*trial.rungs[:-1], last), scores={"knn_top1": 81.0})

    return [changed(trial) for trial in trials]


def test_exported_folder_gives_the_stored_model_back_in_a_new_process(study, files, tmp_path):
    trials = with_validation(make_trials(), best_seed=1)
    (made,) = export(study, trials, files, tmp_path / "out")
    assert {p.name for p in made.folder.iterdir()} == {
        "README.md",
        "architecture.json",
        "architecture.yaml",
        "drawing.svg",
        "model.safetensors",
    }
    assert made.trial.job.seed == 1, "weights are chosen by validation, not by test score"

    images = torch.randn(5, 1, 28, 28)
    expected = trained(study, 1).eval()(images).detach()
    given, answer = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    safetensors.torch.save_file({"x": images}, given)
    script = (
        "import sys, torch; from safetensors.torch import load_file, save_file\n"
        "from naslab.runs.architecture import rebuild\n"
        "torch.set_num_threads(int(sys.argv[4])); y = rebuild(sys.argv[1])(load_file(sys.argv[2])['x'])\n"
        "save_file({'y': y.detach()}, sys.argv[3])"
    )
    arguments = [str(made.folder), str(given), str(answer), str(torch.get_num_threads())]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=tmp_path)
    assert torch.equal(safetensors.torch.load_file(answer)["y"], expected)

    jsonschema.validate(
        json.loads(json.dumps(document("demo", [made]))), json.loads((ROOT / "docs/schemas/export.json").read_text())
    )
    facts = json.loads((made.folder / "architecture.json").read_text())
    assert facts == yaml.safe_load((made.folder / "architecture.yaml").read_text())
    assert facts["trial"] == made.trial.number
    assert facts["seeds"] == [0, 1, 2]
    assert facts["space"]["options"]["backbone"] == "tiny"
    assert study.search_space.configuration(facts["configuration"]).digest == facts["digest"]
    readme = (made.folder / "README.md").read_text()
    assert "from naslab import rebuild" in readme
    assert "drawing.svg" in readme


def test_an_existing_folder_is_kept_and_refused_unless_identical(study, files, tmp_path, monkeypatch):
    monkeypatch.setattr("naslab.runs.export.prove", lambda *_: None)
    (made,) = export(study, make_trials(), files, tmp_path / "out")
    (again,) = export(study, make_trials(), files, tmp_path / "out")
    assert again.folder == made.folder
    (made.folder / "README.md").write_text("mine")
    with pytest.raises(InputError, match="exists and holds something else"):
        export(study, make_trials(), files, tmp_path / "out")
    assert (made.folder / "README.md").read_text() == "mine"
    assert [p.name for p in (tmp_path / "out").iterdir()] == [made.folder.name]


def test_a_rebuilt_model_that_differs_by_one_bit_leaves_no_folder(study, files, tmp_path, monkeypatch):
    """A bit of an output: whether one of a weight reaches the outputs is up to rounding."""

    def other(*_args: object) -> torch.nn.Module:
        model = trained(study, 1).eval()
        model.register_forward_hook(one_bit_off)
        return model

    def one_bit_off(_model: torch.nn.Module, _inputs: object, result: object) -> None:
        first = torch.utils._pytree.tree_leaves(result)[0]
        first.view(-1)[-1] = torch.nextafter(first.view(-1)[-1], torch.tensor(torch.inf))

    monkeypatch.setattr("naslab.runs.export.load_model", other)
    with pytest.raises(ProofFailed, match="differs from the trained"):
        export(study, with_validation(make_trials(), best_seed=1), files, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_example_input_in_any_layout_is_proved(study, files, tmp_path, monkeypatch):
    images = torch.rand(4, 1, 28, 28)
    for layout in (images.transpose(2, 3), images.to(memory_format=torch.channels_last), images[:, :, ::2].mT):
        given = {}

        def outputs(model, inputs, given=given):
            given["inputs"] = inputs
            return {}

        monkeypatch.setattr("naslab.runs.proof.outputs", outputs)
        with pytest.raises(ProofFailed, match="no tensor"):
            prove(torch.nn.Identity(), tmp_path, layout)
        assert given["inputs"].is_contiguous()
        assert torch.equal(given["inputs"], layout)


def test_outputs_and_inputs_that_share_memory_are_proved(study, files, tmp_path, monkeypatch):
    """A loss of one part is that part: the model returns one tensor under two names."""
    original = study.search_space.build(BY_DARTS)
    monkeypatch.setattr("naslab.runs.proof._in_new_process", lambda folder, given, answer: main(folder, given, answer))
    monkeypatch.setattr("naslab.runs.proof.rebuild", lambda folder: original)
    original.forward = lambda a, b: {"loss": a, "part": a, "view": b[:1]}
    tensor = torch.rand(4)
    prove(original, tmp_path, {"a": tensor, "b": tensor})


def test_a_folder_that_cannot_be_rebuilt_fails_the_proof(tmp_path):
    (tmp_path / "architecture.json").write_text("{}")
    with pytest.raises(ProofFailed, match="cannot be rebuilt in a new process"):
        prove(torch.nn.Linear(2, 2), tmp_path, torch.ones(1, 2))


def test_best_trial_without_validation_scores_is_the_first_seed():
    trials = [replace(t, rungs=()) for t in make_trials()]
    row = rank(make_study(), trials).rows[0]
    assert best_trial(row, trials, "knn_top1").job.seed == 0


def test_nothing_ranked_is_said(study, tmp_path):
    strict = make_study(ranking={"floor": 99.0})
    with pytest.raises(InputError, match="nothing to export"):
        export(strict, make_trials(), tmp_path, tmp_path / "out")


def test_missing_weights_are_named(study, tmp_path):
    with pytest.raises(InputError, match=r"model\.safetensors: no such file; the weights of trial"):
        export(study, make_trials(), tmp_path, tmp_path / "out")


@pytest.fixture
def folder(study, tmp_path) -> Path:
    """A whole exported folder, unproved."""
    from naslab.runs.export import _describe

    made = tmp_path / "made"
    made.mkdir()
    safetensors.torch.save_file(trained(study, 0).state_dict(), made / WEIGHTS)
    ranking, trials = rank(study, make_trials()), make_trials()
    _describe(made, study, ranking, ranking.rows[0], trials[10])
    return made


def test_rebuild_is_in_evaluation_mode_with_the_weights(study, folder):
    model = rebuild(folder)
    assert not model.training
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(model(images), trained(study, 0).eval()(images))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def change(path: Path, **facts: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: truncate(f / WEIGHTS), "model.safetensors: damaged: it is not the file"),
        (lambda f: (f / WEIGHTS).unlink(), "model.safetensors: cannot be read: No such file"),
        (lambda f: (f / "architecture.json").unlink(), "architecture.json: no such file; give a folder"),
        (lambda f: truncate(f / "architecture.json"), "architecture.json: damaged or unreadable"),
        (lambda f: (f / "architecture.json").write_bytes(b"\xff\xfe\x00"), "architecture.json: damaged or unreadable"),
        (lambda f: (f / "architecture.json").write_text("[]"), "has schema None; this version reads"),
        (lambda f: change(f / "architecture.json", schema="naslab.architecture/9"), "naslab.architecture/9"),
        (lambda f: change(f / "architecture.json", space=3), "'space' is missing or of the wrong type"),
        (lambda f: change(f / "architecture.json", space={"name": "nasiam"}), "'space' needs 'name' and 'options'"),
        (lambda f: change(f / "architecture.json", space={"name": "nope", "options": {}}), "'nope' is unknown"),
        (
            lambda f: change(f / "architecture.json", configuration=PUBLISHED.as_dict()),
            "model.safetensors: weights of another architecture",
        ),
        (lambda f: change(f / "architecture.json", configuration={"head": "x"}), "head: 'x' is not allowed"),
    ],
)
def test_damage_is_named_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError) as raised:
        rebuild(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_slug_keeps_folders_plain():
    assert slug("darts + tpe ab12cd") == "darts-tpe-ab12cd"
    assert slug("../reference (published x)/") == "reference-published-x"


class Places(torch.nn.Module):
    """Answers with where its inputs begin in memory."""

    def forward(self, **inputs):
        return torch.tensor([tensor.data_ptr() % 64 for tensor in inputs.values()])


def test_a_new_process_has_its_inputs_where_the_trained_model_has_them(tmp_path, monkeypatch):
    """Products of numbers that begin at other places are rounded otherwise on some processors."""
    monkeypatch.setattr("naslab.runs.proof.rebuild", lambda folder: Places())
    given, answer = (str(tmp_path / name) for name in ("given", "answer"))
    safetensors.torch.save_file({name: torch.ones(3) for name in ("a", "b", "c")}, given)
    main("", given, answer)
    assert safetensors.torch.load_file(answer)["0"].tolist() == [0, 0, 0]
