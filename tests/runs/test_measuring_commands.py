"""The commands that measure a target."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from naslab.efficiency import InputError, calibrate
from naslab.efficiency.memory_forecast import memory_limit
from naslab.runs import machine
from naslab.runs.commands import about, compare, profile

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"


def printed(capsys, name):
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text()))
    return document


def test_profile_command(capsys):
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, as_json=True)
    document = printed(capsys, "profile")
    assert document["flops"]["forward"] == 2 * 4 * 6 * 3
    assert document["target"] == "toy_models:complete"


def test_profile_command_prints_a_table(capsys):
    profile.profile("toy_models:complete", dtype=profile.Precision.bf16, device="cpu", max_seconds=0.1)
    assert "bfloat16" in capsys.readouterr().out


def test_compare_command(capsys):
    compare.compare("toy_models:complete", "toy_models:complete", device="cpu", max_seconds=0.2, as_json=True)
    document = printed(capsys, "compare")
    assert document["ratio"]["low"] <= document["ratio"]["median"] <= document["ratio"]["high"]


def test_input_that_does_not_fit_is_the_users_to_mend():
    with pytest.raises(InputError, match=r"toy_models:bare: the model does not run on an input of shape \(1, 5\)"):
        profile.profile("toy_models:bare", device="cpu", input_shape="5")


@pytest.mark.parametrize("name", ["doctor", "spaces"])
def test_machine_commands(name, capsys):
    getattr(about, name)(as_json=True)
    printed(capsys, name)
    getattr(about, name)()
    assert capsys.readouterr().out


@pytest.mark.parametrize("there", [True, False])
def test_doctor_says_what_a_study_on_a_cluster_has_here(there, monkeypatch):
    monkeypatch.setattr(machine, "is_installed", lambda package: there)
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/bin/{name}" if there else None)
    checks = {check["part"]: check["usable"] for check in machine.doctor_document()["checks"]}
    for part in ("ray (executor: ray)", "slurm (executor: slurm)", "PostgreSQL driver", "loggers"):
        assert checks[part] is there
    assert checks["torchrun (trials of several processes)"], "gloo comes with PyTorch"


def test_counting_on_meta_and_predicting_needs_no_memory(capsys):
    profile.profile(
        "timm:vit_base_patch16_224", batch_size=64, dtype=profile.Precision.bf16, predict_for=["h100"], as_json=True
    )
    document = printed(capsys, "profile")
    assert document["flops"]["forward"] == pytest.approx(64 * 2 * 17.56e9, rel=0.01)
    assert (document["latency_ms"], document["coverage"]) == (None, 1.0)
    assert document["predicted"]["h100-sxm"]["training_step"]["ms"]["low"] > 0


def test_profile_as_tree_and_as_csv(capsys):
    profile.profile("timm:resnet10t", device="meta", tree=1)
    assert "layer4" in capsys.readouterr().out
    profile.profile("toy_models:complete", device="meta", as_csv=True)
    lines = capsys.readouterr().out.splitlines()
    names, values = (line.split(",") for line in lines[:2])
    row = dict(zip(names, values, strict=True))
    assert names[:4] == ["target", "batch_size", "dtype", "device"]
    assert (row["kind"], row["calls"]) == ("matrix product", "1")
    assert row["flops"] == row["effective"] == row["backward"] == str(2 * 4 * 6 * 3)
    assert (row["pointwise"], row["bytes"]) == (str(4 * 3), str(4 * (24 + 18 + 3 + 12)))
    assert {"commit", "torch", "compile_mode", "samples"} <= set(names)


def test_check_stands_beside_the_count(capsys):
    pytest.importorskip("fvcore", reason="fvcore is not installed")
    profile.profile("toy_models:complete", device="meta", check=True, as_json=True)
    assert printed(capsys, "profile")["cross_checks"][0]["difference"] == 0


def test_training_step_is_split_in_time_and_memory(capsys):
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, train=True, as_json=True)
    training = printed(capsys, "profile")["training"]
    assert set(training["latency_ms"]) == {"forward", "backward", "optimiser", "step"}
    assert training["memory_bytes"]["gradients"] == 4 * (6 * 3 + 3)
    profile.profile("toy_models:complete", device="meta", train=True)
    assert "peak memory" in capsys.readouterr().out


def test_compare_counts_beside_the_times_and_compares_training_steps(capsys):
    pair = ("toy_models:complete", "toy_models:double")
    compare.compare(*pair, device="cpu", max_seconds=0.2, train=True, as_json=True)
    document = printed(capsys, "compare")
    assert document["measured"] == "training step"
    assert document["b"]["flops"]["forward"] == 2 * document["a"]["flops"]["forward"] == 2 * (2 * 4 * 6 * 3)
    assert (document["a"]["parameters"], document["b"]["parameters"]) == (21, 42)
    # Parameters, gradients and both moments of AdamW are held at once.
    assert document["b"]["peak_memory_bytes"] > 4 * 4 * 42
    compare.compare(*pair, device="cpu", max_seconds=0.2)
    assert "FLOPs, effective" in capsys.readouterr().out
    compare.compare(*pair, device="cpu", max_seconds=0.2, as_csv=True)
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert int(second["forward_flops"]) == 2 * int(first["forward_flops"])
    assert float(first["median_ms"]) > 0
    assert first["torch"] == torch.__version__


def test_comparing_training_of_what_cannot_train_is_one_line():
    with pytest.raises(InputError, match="--train: toy_models:frozen has nothing to train"):
        compare.compare("toy_models:frozen", "toy_models:complete", device="cpu", max_seconds=0.2, train=True)


def test_sweep_energy_forecast_and_samples_in_one_profile(tmp_path, capsys):
    file = tmp_path / "samples.csv"
    profile.profile(
        "toy_models:complete",
        device="cpu",
        max_seconds=0.1,
        batch_sweep="1,4,2",
        energy=True,
        memory_limit_text="1MB",
        train=True,
        samples=file,
        as_json=True,
    )
    document = printed(capsys, "profile")
    assert [row["batch_size"] for row in document["batch_sweep"]["rows"]] == [1, 2, 4]
    assert document["batch_sweep"]["knee"] in (1, 2, 4)
    for name in ("inference", "training_step"):
        energy, forecast = document["energy"][name], document["memory_forecast"][name]
        assert (energy["joules_per_call"] is None) == (energy["reason"] is not None)
        assert forecast["peak_bytes"] <= 10**6 >= forecast["largest_peak_bytes"]
        assert forecast["fits"]
    lines = list(csv.DictReader(file.read_text().splitlines()))
    assert document["provenance"]["samples"] == str(file)
    inference = [x for x in lines if x["measured"] == "inference" and x["batch_size"] == "4"]
    swept = next(row for row in document["batch_sweep"]["rows"] if row["batch_size"] == 4)
    expected = [*document["samples_ms"], *swept["samples_ms"]]
    assert [float(line["milliseconds"]) for line in inference] == pytest.approx(expected)
    assert {"training step, backward", "training step, step"} <= {line["measured"] for line in lines}


def test_samples_as_json_carry_the_provenance(tmp_path, capsys):
    file = tmp_path / "samples.json"
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, samples=file, as_json=True)
    document, written = printed(capsys, "profile"), json.loads(file.read_text())
    assert written["series"][0]["samples_ms"] == document["samples_ms"]
    assert written["provenance"] == document["provenance"]


def test_the_new_rows_are_in_the_table(capsys):
    profile.profile(
        "toy_models:complete", device="cpu", max_seconds=0.1, batch_sweep="1,2", energy=True, memory_limit_text="t4"
    )
    text = capsys.readouterr().out
    for words in ("end to end", "knee", "energy", "largest batch", "effective", "matrix product"):
        assert words in text


def test_a_calibrated_device_gets_its_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    asked = {"device": "cpu", "max_seconds": 0.1, "plot": tmp_path / "roof.html"}
    with pytest.raises(InputError, match="cpu is not calibrated; run `naslab devices calibrate` first"):
        profile.profile("toy_models:complete", **asked)
    calibrate(torch.device("cpu"), seconds=0.2).save()
    profile.profile("toy_models:complete", **asked)
    page = (tmp_path / "roof.html").read_text()
    assert "the roofline explains" in page
    assert "matrix product" in page


@pytest.mark.slow
def test_resident_memory_of_a_fresh_process(capsys):
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, resident=True, as_json=True)
    memory = printed(capsys, "profile")["memory"]
    assert memory["resident_bytes"] > 50e6
    assert 0 <= memory["resident_growth_bytes"] < memory["resident_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sweep": "1,two"}, "--batch-sweep 1,two: write batch sizes"),
        ({"batch_sweep": "0"}, "--batch-sweep 0"),
        ({"memory_limit_text": "much"}, "'much' is no size such as 24GB"),
        ({"clock": ["sundial"]}, "--clock sundial: use end to end, kernel, graph"),
        ({"clock": ["graph"]}, "'graph' needs a CUDA device"),
        ({"samples": Path("samples.txt")}, r"ends in \.csv or \.json"),
        ({"samples": Path("nowhere/samples.csv")}, "there is no folder nowhere"),
        ({"as_csv": True, "as_json": True}, "choose one"),
        ({"by": "day"}, "--by day: use profile, kind, module, operation"),
        ({"device": "meta", "energy": True, "resident": True}, "--energy, --resident: the model must run"),
        ({"device": "auto", "predict_for": ["h100"], "batch_sweep": "1"}, "--batch-sweep: the model must run"),
    ],
)
def test_wrong_options_are_one_clear_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        profile.profile("toy_models:complete", **{"device": "cpu", "max_seconds": 0.1} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mb", 8 * 10**8), ("h100", 80 * 2**30)]
)
def test_memory_limits(text, size):
    assert memory_limit(text) == size


def test_what_is_printed_as_the_process_ends_is_no_part_of_the_document(tmp_path):
    (tmp_path / "late.py").write_text(
        "import atexit, ctypes, torch\n"
        "def target():\n"
        "    atexit.register(print, 'at exit')\n"
        "    ctypes.CDLL(None).puts(b'from a buffer below Python')\n"
        "    return torch.nn.Linear(4, 4), torch.randn(2, 4)\n"
    )
    command = [sys.executable, "-m", "naslab", "profile", "late:target", "--json", "--only", "flops"]
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": paths})
    assert json.loads(done.stdout)["flops"]["forward"] == 2 * 2 * 4 * 4
    assert {"at exit", "from a buffer below Python"} <= set(done.stderr.splitlines())


def test_a_model_that_can_only_be_trained_has_its_training_step(tmp_path, monkeypatch, capsys):
    (tmp_path / "only_trained.py").write_text(
        "import sys, torch\n"
        "class Trained(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        assert self.training, 'training only'\n"
        "        return super().forward(x)\n"
        "def target():\n"
        "    return Trained(4, 4), torch.randn(2, 4)\n"
        "def exits():\n"
        "    sys.exit(7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    profile.profile("only_trained:target", device="cpu", max_seconds=0.1, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["flops"]["training_step"] == 2 * 2 * 2 * 4 * 4
    assert document["flops"]["forward"] is document["latency_ms"] is None
    assert "training only" in document["missing"]["flops"]
    with pytest.raises(InputError, match="only_trained:exits: SystemExit: 7"):
        profile.profile("only_trained:exits", device="cpu")
