"""LM-BFF on encoders and infillers of transformers, from folders and back, against transformers itself."""

import json
import shutil

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from lmbff_small import (
    BRIEF,
    CPU,
    NAMED,
    SMALL,
    bert_tokenizer,
    built,
    infiller,
    made,
    saved,
    saved_bert,
    saved_roberta,
    write_rows,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    pipeline,
)

from naslab.errors import InputError
from naslab.runs.architecture import DOCUMENT, SCHEMA, WEIGHTS, file_digest, networks_of, outputs, rebuild
from naslab.runs.worker import save_weights
from naslab.search_spaces import find_space, make_task
from naslab.search_spaces.lmbff.generate import load_infiller

FOLDERS = {"bert": saved_bert, "roberta": saved_roberta}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.csv")


def test_a_tokenizer_without_a_mask_token(tmp_path, rows):
    tokenizer = bert_tokenizer()
    tokenizer.mask_token = None
    torch.manual_seed(0)
    folder = saved(tmp_path, BertForMaskedLM(BertConfig(**{**SMALL, "vocab_size": len(tokenizer)})), tokenizer)
    with pytest.raises(InputError, match="has no mask token"):
        make_task(
            find_space("lmbff", "tiny", {"encoder": folder, **NAMED}),
            {"data": {"name": "files", "root": rows}},
            CPU,
        )


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_words_at_the_mask_are_those_of_the_fill_mask_pipeline(kind, rows, tmp_path):
    """Softmax over the label words alone is the pipeline's share of each target among them."""
    folder = FOLDERS[kind](tmp_path)
    space = find_space("lmbff", "tiny", {"encoder": folder, **NAMED, "length": 64})
    task = make_task(space, {"data": {"name": "files", "root": rows}, **BRIEF}, CPU)
    model = space.build(space.published["prompt"])
    prompter = task.prompter(model)
    part = prompter.data.validation
    ours = task.logits(model.eval(), prompter, part).softmax(1)
    peer = pipeline("fill-mask", model=folder, device="cpu")
    words = ["terrible", "great"] if kind == "bert" else [" terrible", " great"]
    for index in range(3):
        text = f"{part.texts[index]} It was{'' if kind == 'roberta' else ' '}{peer.tokenizer.mask_token}."
        found = {answer["token"]: answer["score"] for answer in peer(text, targets=words)}
        scores = torch.tensor([found[word] for word in prompter.words])
        torch.testing.assert_close(ours[index], scores / scores.sum(), rtol=1e-4, atol=1e-5)


def test_a_head_that_a_checkpoint_lacks_is_not_silently_random(tmp_path, rows):
    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    config = BertConfig(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 64})
    folder = saved(tmp_path, BertModel(config, add_pooling_layer=False), tokenizer)
    space = find_space("lmbff", "tiny", {"encoder": folder, **NAMED})
    with pytest.raises(InputError, match="has no head for words") as caught:
        space.build(space.reference)
    assert "\n" not in str(caught.value)
    find_space("lmbff", "tiny", {"encoder": folder, "new_head": True, **NAMED}).build(space.reference)


def test_what_is_no_masked_language_model(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(tmp_path)
    space = find_space("lmbff", "tiny", {"encoder": str(tmp_path), **NAMED})
    for folder in (space, find_space("lmbff", "tiny", {"length": 40, **NAMED, "encoder": str(tmp_path)})):
        with pytest.raises(InputError, match="cannot load") as caught:
            folder.build(folder.reference)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot load"):
        find_space("lmbff", "tiny", {"encoder": str(tmp_path / "none")})


@pytest.mark.parametrize(("kind", "positions"), [("bert", 64), ("roberta", 64)])
def test_rows_longer_than_the_positions(kind, positions, tmp_path):
    folder = FOLDERS[kind](tmp_path)
    find_space("lmbff", "tiny", {"encoder": folder, **NAMED, "length": positions})
    with pytest.raises(InputError, match=f"65 tokens are more than the {positions} positions"):
        find_space("lmbff", "tiny", {"encoder": folder, **NAMED, "length": 65})


def test_what_is_tuned_is_loaded_again_by_transformers_and_as_an_encoder(rows, tmp_path):
    space, task = made(rows)
    model = built(space)
    list(task.train(model, 13))
    model.save_pretrained(tmp_path)
    task.tokenizer.save(tmp_path)
    again = find_space("lmbff", "tiny", {"encoder": str(tmp_path), "length": 48})
    batch = task.example_input(3)
    with torch.no_grad():
        assert torch.equal(again.build(again.reference).eval()(**batch), model.eval()(**batch))
    reread = make_task(again, {"data": {"name": "files", "root": str(rows)}, **BRIEF}, CPU)
    assert torch.equal(reread.example_input(3)["ids"], batch["ids"])


@pytest.mark.parametrize("kind", ["DebertaV2", "ModernBert", "DistilBert", "Electra"])
def test_other_encoders_are_asked_as_transformers_asks_them(kind, tmp_path, rows):
    _, task, model = _loaded(kind, tmp_path, rows)
    part = task.pool.test.take(torch.arange(4))
    prompter = task.prompter(model)
    ours = task.logits(model.eval(), prompter, part)
    for index in range(4):
        row = prompter.row(part, index)
        theirs = model.language_model(torch.tensor([row.ids])).logits[0, row.mask, list(prompter.words)]
        torch.testing.assert_close(ours[index], theirs, rtol=1e-4, atol=1e-5)
    list(task.train(model, 13))


@pytest.mark.parametrize("name", ["lmbff", "whole_word", "pmlm", "dysi"])
def test_an_export_needs_no_folder_of_the_study(name, tmp_path, monkeypatch):
    """The folder of a pre-trained network was named beside the study; elsewhere, or later, it is not there."""
    monkeypatch.chdir(tmp_path)
    given = {
        "lmbff": lambda: {"encoder": saved_roberta("network"), **NAMED},
        "whole_word": lambda: {"pretrained": saved_bert("network"), "length": 16, "segmenters": ["pieces"]},
        "pmlm": lambda: {
            "text_model": saved_bert("network"), "context": 16, "special": {"unk": 1, "cls": 2, "sep": 3, "mask": 4}
        },
        "dysi": lambda: {"pretrained": saved("network", *infiller()), "source_tokens": 8, "target_tokens": 8},
    }[name]()  # fmt: skip
    space = find_space(name, None, given)
    model = space.build(space.reference).eval()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    folder = tmp_path / "export"
    folder.mkdir()
    save_weights(model, folder / WEIGHTS)
    options = space.options.model_dump(mode="json")
    document = {
        "schema": SCHEMA, "space": {"name": name, "options": options}, "configuration": space.reference.as_dict(),
        "networks": networks_of(space.options), "weights_sha256": file_digest(folder / WEIGHTS),
    }  # fmt: skip
    (folder / DOCUMENT).write_text(json.dumps(document))
    shutil.rmtree("network")
    inputs = space.example_input(2)
    torch.manual_seed(0)
    expected = outputs(model, inputs)
    again = rebuild(folder)
    torch.manual_seed(0)
    found = outputs(again, inputs)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    (folder / DOCUMENT).write_text(json.dumps({**document, "networks": 3}))
    with pytest.raises(InputError, match="'networks' is of the wrong type"):
        rebuild(folder)


def test_only_options_that_name_a_network_are_kept_with_one(tmp_path, monkeypatch):
    """Whatever folders stand where the export is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simclr").mkdir()
    (tmp_path / "simclr" / "config.json").write_text("{}")
    assert networks_of(find_space("nasiam", "tiny", {"framework": "simclr"}).options) == {}


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("FNet", {}, "a fnet: padding changes what it says"),
        ("Bert", {"pad_token_id": 9}, "pads with 0, the model has 154 and 9"),
        ("Bert", {"pad_token_id": None}, "pads with 0, the model has 154 and None"),
        ("Bert", {"vocab_size": 20}, "the tokenizer has 154 tokens and pads with 0, the model has 20"),
    ],
)
def test_an_encoder_that_cannot_be_asked(kind, changed, message, tmp_path, rows):
    with pytest.raises(InputError, match=message) as caught:
        _loaded(kind, tmp_path, rows, **changed)
    assert "\n" not in str(caught.value)


def _loaded(kind, folder, rows, **changed):
    tokenizer = bert_tokenizer()
    sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "pad_token_id": 0, **changed}
    try:
        config = getattr(transformers, f"{kind}Config")(**sizes)
    except StrictDataclassError as error:  # transformers 5.10 refuses its own rotations of a small ModernBert
        pytest.skip(f"transformers {transformers.__version__} makes no {kind} of this size: {error}")
    torch.manual_seed(0)
    name = saved(folder, transformers.AutoModelForMaskedLM.from_config(config), tokenizer)
    space = find_space("lmbff", "tiny", {"encoder": name, **NAMED})
    task = make_task(space, {"data": {"name": "files", "root": str(rows)}, **BRIEF}, CPU)
    return space, task, space.build(space.published["prompt"])


def test_what_is_no_infiller(rows, tmp_path):
    with pytest.raises(InputError, match="has no <extra_id_0> to <extra_id_2>"):
        made(rows, {"searched_templates": 2, "infiller": saved_bert(tmp_path / "bert")})
    model, tokenizer = infiller()
    folder = saved(tmp_path, transformers.T5EncoderModel(model.config), tokenizer)
    with pytest.raises(InputError, match=r"space.options.infiller: .* has no decoder"):
        load_infiller(folder)
