"""Targets by name, and the commands that measure them."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch
from torch import nn

from naslab.efficiency import InputError, calibrate
from naslab.efficiency.memory_forecast import memory_limit
from naslab.runs.commands import about, compare, profile
from naslab.runs.targets import resolve_target

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
TOY = """
import torch
from torch import nn
def bare(): return nn.Linear(6, 3)
def complete(): return nn.Linear(6, 3), torch.ones(4, 6)
class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)
    def forward(self, x): return self.a(x) + self.b(x)
def double(): return Twice(), torch.ones(4, 6)
def frozen(): return nn.Linear(6, 3).requires_grad_(False), torch.ones(4, 6)
def wrong(): return "a string"
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_models.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def printed(capsys, name):
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text()))
    return document


def test_timm_takes_the_models_own_input_size():
    target = resolve_target("timm:resnet10t", batch_size=2)
    assert target.example_input.shape == (2, 3, 176, 176)
    assert target.label == "timm:resnet10t"


def test_example_input_is_the_same_every_time_and_may_be_given():
    first, second = (resolve_target("timm:resnet10t", input_shape="3,33,47") for _ in range(2))
    assert first.example_input.shape == (1, 3, 33, 47)
    assert torch.equal(first.example_input, second.example_input)


def test_space_builds_the_presets_reference():
    target = resolve_target("space:nasiam:tiny", batch_size=3)
    assert target.example_input.shape == (3, 1, 28, 28)
    assert target.model(target.example_input).shape[0] == 3


def test_callable_with_and_without_its_own_input(toy):
    assert isinstance(resolve_target("toy_models:bare", input_shape="6").model, nn.Linear)
    assert resolve_target("toy_models:complete").example_input.shape == (4, 6)
    with pytest.raises(InputError, match=r"--batch-size 9: toy_models:complete makes a batch of 4"):
        resolve_target("toy_models:complete", batch_size=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet18", "not a target; use timm:NAME"),
        ("timm:", "not a target"),
        ("timm:resnet18x", "near matches: resnet18"),
        ("timm:resnet18.no_such_tag", "no_such_tag"),
        ("space:nothing", "nothing.*unknown; use"),
        ("space:nasiam:huge", "no preset 'huge'"),
        ("no_such_module:build", "no_such_module"),
        ("toy_models:nothing", "no callable 'nothing'"),
        ("toy_models:wrong", "returned str"),
        ("toy_models:bare", "add --input-shape"),
    ],
)
def test_wrong_targets_are_one_clear_line(toy, text, message):
    with pytest.raises(InputError, match=message) as caught:
        resolve_target(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", ["", "3,,4", "3,-1", "0", "a"])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match="write the shape of one sample"):
        resolve_target("timm:resnet10t", input_shape=shape)


def test_hugging_face_without_the_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install transformers"):
        resolve_target("hf:bert-base-uncased")


def test_hugging_face_without_a_network_is_one_quick_line(monkeypatch, capfd):
    pytest.importorskip("transformers", reason="transformers is not installed")

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr("naslab.runs.hugging_face.getproxies", dict)
    with pytest.raises(InputError, match="hf:nobody/nothing is neither a folder here nor in the local cache") as caught:
        resolve_target("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SPEECH = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 50,
          "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_source_positions": 20,
          "num_mel_bins": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
          "decoder_start_token_id": 1}  # fmt: skip
FAMILIES = {
    "BertConfig": (SMALL, {"input_ids": (2, 128)}),
    "T5Config": (
        {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        {"input_ids": (2, 128), "decoder_input_ids": (2, 128)},
    ),
    "ViTConfig": (
        {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 16},
        {"pixel_values": (2, 3, 32, 32)},
    ),
    "WhisperConfig": (SPEECH, {"input_features": (2, 8, 40), "decoder_input_ids": (2, 128)}),
    "VideoMAEConfig": (
        {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 16, "num_frames": 4},
        {"pixel_values": (2, 4, 3, 32, 32)},
    ),
    "ASTConfig": (
        {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"max_length": 64, "num_mel_bins": 32},
        {"input_values": (2, 64, 32)},
    ),
    "Wav2Vec2Config": (
        SMALL | {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
        {"input_values": (2, 16_000)},
    ),
}
VISION = {k: v for k, v in SMALL.items() if k != "vocab_size"} | {"image_size": 32, "patch_size": 8}


def gemma3(transformers):
    text = SMALL | {"head_dim": 8, "num_key_value_heads": 1}
    return transformers.Gemma3Config(
        text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=47, boi_token_index=45,
        eoi_token_index=46,
    )  # fmt: skip


def llava(transformers):
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SMALL), vision_config=transformers.CLIPVisionConfig(**VISION),
        image_token_index=49,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "named", "features"),
    [(gemma3, "Gemma3ForConditionalGeneration", 4), (llava, "LlavaForConditionalGeneration", 16)],
)
@pytest.mark.parametrize("on_meta", [False, True])
def test_a_text_holds_as_many_image_tokens_as_its_picture_has_features(make, named, features, on_meta, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = make(transformers)
    config.architectures = [named]
    config.save_pretrained(tmp_path)
    target = resolve_target(f"hf:{tmp_path}", batch_size=2, on_meta=on_meta)
    assert type(target.model).__name__ == named
    assert target.example_input["input_ids"].shape == (2, features + 128)
    if not on_meta:
        with torch.no_grad():
            target.model.eval()(**target.example_input)


def test_a_class_that_transformers_does_not_have_is_no_model_without_its_head(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(**SMALL)
    config.architectures = ["BertForMindReading"]
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no BertForMindReading, which the configuration names; --head none"):
        resolve_target(f"hf:{tmp_path}")
    assert type(resolve_target(f"hf:{tmp_path}", head=False).model).__name__ == "BertModel"


@pytest.mark.parametrize("family", FAMILIES)
def test_hugging_face_models_of_several_kinds_run_on_their_input(family, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    options, shapes = FAMILIES[family]
    getattr(transformers, family)(**options).save_pretrained(tmp_path)
    target = resolve_target(f"hf:{tmp_path}", batch_size=2)
    assert {name: tuple(t.shape) for name, t in target.example_input.items()} == shapes
    with torch.no_grad():
        target.model.eval()(**target.example_input)


def test_profile_command(toy, capsys):
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, as_json=True)
    document = printed(capsys, "profile")
    assert document["flops"]["forward"] == 2 * 4 * 6 * 3
    assert document["target"] == "toy_models:complete"


def test_profile_command_prints_a_table(toy, capsys):
    profile.profile("toy_models:complete", dtype=profile.Precision.bf16, device="cpu", max_seconds=0.1)
    assert "bfloat16" in capsys.readouterr().out


def test_compare_command(toy, capsys):
    compare.compare("toy_models:complete", "toy_models:complete", device="cpu", max_seconds=0.2, as_json=True)
    document = printed(capsys, "compare")
    assert document["ratio"]["low"] <= document["ratio"]["median"] <= document["ratio"]["high"]


def test_input_that_does_not_fit_is_the_users_to_mend(toy):
    with pytest.raises(InputError, match=r"toy_models:bare: the model does not run on an input of shape \(1, 5\)"):
        profile.profile("toy_models:bare", device="cpu", input_shape="5")


@pytest.mark.parametrize("name", ["doctor", "spaces"])
def test_machine_commands(name, capsys):
    getattr(about, name)(as_json=True)
    printed(capsys, name)
    getattr(about, name)()
    assert capsys.readouterr().out


def test_counting_on_meta_and_predicting_needs_no_memory(capsys):
    profile.profile(
        "timm:vit_base_patch16_224", batch_size=64, dtype=profile.Precision.bf16, predict_for=["h100"], as_json=True
    )
    document = printed(capsys, "profile")
    assert document["flops"]["forward"] == pytest.approx(64 * 2 * 17.56e9, rel=0.01)
    assert (document["latency_ms"], document["coverage"]) == (None, 1.0)
    assert document["predicted"]["h100-sxm"]["training_step"]["ms"]["low"] > 0


def test_profile_as_tree_and_as_csv(toy, capsys):
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


def test_check_stands_beside_the_count(toy, capsys):
    pytest.importorskip("fvcore", reason="fvcore is not installed")
    profile.profile("toy_models:complete", device="meta", check=True, as_json=True)
    assert printed(capsys, "profile")["cross_checks"][0]["difference"] == 0


def test_training_step_is_split_in_time_and_memory(toy, capsys):
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, train=True, as_json=True)
    training = printed(capsys, "profile")["training"]
    assert set(training["latency_ms"]) == {"forward", "backward", "optimiser", "step"}
    assert training["memory_bytes"]["gradients"] == 4 * (6 * 3 + 3)
    profile.profile("toy_models:complete", device="meta", train=True)
    assert "peak memory" in capsys.readouterr().out


def test_compare_counts_beside_the_times_and_compares_training_steps(toy, capsys):
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


def test_comparing_training_of_what_cannot_train_is_one_line(toy):
    with pytest.raises(InputError, match="--train: toy_models:frozen has nothing to train"):
        compare.compare("toy_models:frozen", "toy_models:complete", device="cpu", max_seconds=0.2, train=True)


def test_sweep_energy_forecast_and_samples_in_one_profile(toy, tmp_path, capsys):
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


def test_samples_as_json_carry_the_provenance(toy, tmp_path, capsys):
    file = tmp_path / "samples.json"
    profile.profile("toy_models:complete", device="cpu", max_seconds=0.1, samples=file, as_json=True)
    document, written = printed(capsys, "profile"), json.loads(file.read_text())
    assert written["series"][0]["samples_ms"] == document["samples_ms"]
    assert written["provenance"] == document["provenance"]


def test_the_new_rows_are_in_the_table(toy, capsys):
    profile.profile(
        "toy_models:complete", device="cpu", max_seconds=0.1, batch_sweep="1,2", energy=True, memory_limit_text="t4"
    )
    text = capsys.readouterr().out
    for words in ("end to end", "knee", "energy", "largest batch", "effective", "matrix product"):
        assert words in text


def test_a_calibrated_device_gets_its_picture(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = {"device": "cpu", "max_seconds": 0.1, "plot": tmp_path / "roof.html"}
    with pytest.raises(InputError, match="cpu is not calibrated; run `naslab devices calibrate` first"):
        profile.profile("toy_models:complete", **asked)
    calibrate(torch.device("cpu"), seconds=0.2).save()
    profile.profile("toy_models:complete", **asked)
    page = (tmp_path / "roof.html").read_text()
    assert "the roofline explains" in page
    assert "matrix product" in page


@pytest.mark.slow
def test_resident_memory_of_a_fresh_process(toy, capsys):
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
        ({"device": "meta", "energy": True, "resident": True}, "--energy, --resident: the model has to run"),
        ({"device": "auto", "predict_for": ["h100"], "batch_sweep": "1"}, "--batch-sweep: the model has to run"),
    ],
)
def test_wrong_options_are_one_clear_line(toy, options, message):
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
