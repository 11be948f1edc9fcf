"""Targets by name."""

import pytest
import torch
from torch import nn

from naslab.errors import InputError
from naslab.runs.targets import resolve_target


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


def test_callable_with_and_without_its_own_input():
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
def test_wrong_targets_are_one_clear_line(text, message):
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
