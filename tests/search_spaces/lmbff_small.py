"""Small inputs, all made by hand: those on which the authors' own code was run, a table of sentences, encoders."""

import csv
import string

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from naslab.search_spaces import find_space, make_task, seed_everything

WORDS = ("terrible", "great")
SENTENCES = [
    "A film that never was, and never should be",
    "it is warm, funny and wise from beginning to end.",
    "Nothing here works",
    "the best hour of the year, by far!",
    "too long; too loud; too late",
    "You will laugh, you will cry, you will come back for more of the same.",
    "I left before it was over.",
    "an honest, moving story",
    "dull",
    "Simply wonderful: the music, the faces, the light.",
    "so bad that the popcorn was the better part of the evening, and it was cold",
    "as good as they say",
]
LABELS = [i % 2 for i in range(len(SENTENCES))]
KNOWN = ("it", "was", "a", "one", "the", "and", "great", "terrible", "never", "film", "too", "will", "you", "best")

CPU = torch.device("cpu")
MANUAL = "*cls**sent_0*_It_was*mask*.*sep+*"
BRIEF = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "demonstration_sets": 2}
SMALL = {"vocab_size": 0, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NAMED = {"length": 40, "label_words": [["terrible", "great"]]}


class _WithOldNames:
    """Methods that the authors' code calls and transformers has no more."""

    def _convert_token_to_id(self, token):
        return self.convert_tokens_to_ids(token)

    def _convert_id_to_token(self, number):
        return self.convert_ids_to_tokens(number)


class SmallBertTokenizer(_WithOldNames, BertTokenizer):
    """A WordPiece of letters and a few words."""


class SmallRobertaTokenizer(_WithOldNames, RobertaTokenizer):
    """Bytes, and a few words after a space."""


class SmallT5Tokenizer(_WithOldNames, T5Tokenizer):
    """Pieces of one letter, a few words, and marks of gaps."""


def bert_tokenizer():
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    tokens += [word for word in KNOWN if word not in tokens]
    return SmallBertTokenizer(vocab={token: number for number, token in enumerate(tokens)})


def roberta_tokenizer():
    merges = []
    for word in KNOWN:
        left = "Ġ"
        for letter in word:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *bytes_to_unicode().values(), *("".join(m) for m in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    return SmallRobertaTokenizer(vocab=vocab, merges=merges)


def infiller():
    """A random T5 of 24 units and its tokenizer."""
    letters = string.ascii_letters + string.digits + ".,;:!?'-"
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        *letters,
        *(f"▁{word}" for word in KNOWN),
        "....",
        *(f"<extra_id_{i}>" for i in (2, 1, 0)),
    ]
    tokenizer = SmallT5Tokenizer(vocab=[(piece, -float(len(piece) == 1)) for piece in pieces], extra_ids=3)
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, initializer_factor=2.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval(), tokenizer


def write_rows(path):
    """200 sentences whose class one word tells, and which word depends on nothing else."""
    rng = np.random.RandomState(0)
    words = ["film", "story", "music", "night", "actor", "light", "plot", "scene"]
    told = {"negative": ["dull", "bad"], "positive": ["warm", "good"]}
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


def saved_bert(folder):
    """A random BERT with its tokenizer."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 64}))
    return saved(folder, model, tokenizer)


def saved_roberta(folder):
    """A random RoBERTa with its tokenizer."""
    tokenizer = roberta_tokenizer()
    torch.manual_seed(0)
    sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 66, "type_vocab_size": 1}
    return saved(folder, RobertaForMaskedLM(RobertaConfig(**sizes)), tokenizer)
