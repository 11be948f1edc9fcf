"""Templates that a T5 writes around the training examples and their label words (section 4.2 of the paper).

One template is decoded for all examples at once: at every step the scores of the next token are pooled over them. The
T5 fills two gaps, one on either side of the word: after the sentence (form A), before it (form B), between two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from naslab.errors import InputError
from naslab.search_spaces.common.modules.pretrained import load_pretrained
from naslab.search_spaces.data.text.hub_tokenizers import load_tokenizer, plain_ids
from naslab.search_spaces.data.text.padded import padded
from naslab.search_spaces.data.text.templates import Template, parse_template

Example: TypeAlias = tuple[Sequence[str], str]
"""A sentence, or both of a pair, and the label word of its class."""
Pooling: TypeAlias = Literal["logits", "log_probabilities"]
"""The mean of raw logits over the examples, as the authors' code has it, or of log-probabilities, as the paper."""
GAPS = tuple(f"<extra_id_{number}>" for number in range(3))
"""T5's marks of the two gaps, and of what follows the last."""
FORBIDDEN = ("▁", "....", "..........")
"""A space alone, and rows of dots."""
LONGEST = 256
"""Tokens that the T5 sees of an example."""
WHERE = "space.options.infiller"
STEPS = 18
"""Tokens of a template at most, those that mark its parts included."""


class Filling(NamedTuple):
    """A template so far: its tokens, their log-probability, and how many of its two gaps are filled."""

    tokens: tuple[int, ...]
    score: float
    filled: int


def load_infiller(name: str) -> tuple[Any, Any]:
    """A T5 on the hub or in a folder, and its tokenizer.

    Raises:
        InputError: there is none, its checkpoint lacks weights, or it marks no gaps.
    """
    return load_pretrained(AutoModelForSeq2SeqLM, name, WHERE).eval(), infiller_tokenizer(name)


def infiller_tokenizer(name: str) -> Any:
    """The tokenizer of a T5.

    Raises:
        InputError: there is none, or it marks no gaps.
    """
    tokenizer = load_tokenizer(name, WHERE)
    if any(tokenizer.convert_tokens_to_ids(gap) in (None, tokenizer.unk_token_id) for gap in GAPS):
        raise InputError(f"{WHERE}: {name!r} has no <extra_id_0> to <extra_id_2>, which mark what it is to write")
    return tokenizer


def generate_templates(
    model: Any, tokenizer: Any, examples: Sequence[Example], number: int, pooling: Pooling = "logits"
) -> list[Template]:
    """At most `number` templates, the best first: half of each form, or all between the sentences of pairs.

    The beam is as wide as that. What does not parse, as without its mask, and what stands there already is left out.
    """
    forms = (BETWEEN,) if len(examples[0][0]) == 2 else (AFTER, BEFORE)
    found: dict[str, Template] = {}
    for form in forms:
        inputs = [form.ids(sentences, word, tokenizer) for sentences, word in examples]
        texts = (form.template(tokens, tokenizer) for tokens in decode(model, tokenizer, inputs, number, pooling))
        good = {text: template for text in texts if (template := _parsed(text)) is not None}
        found |= dict(list(good.items())[: -(-number // len(forms))])
    return list(found.values())[:number]


class _Form(NamedTuple):
    """Where the sentences stand: before and after the gaps, and in the template."""

    before: Callable[[Sequence[str]], str]
    after: Callable[[Sequence[str]], str]
    shown: tuple[str, str]
    keeps_end: bool

    def ids(self, sentences: Sequence[str], word: str, tokenizer: Any) -> list[int]:
        first, second = (tokenizer.convert_tokens_to_ids(gap) for gap in GAPS[:2])
        before, after = (_encode(tokenizer, text(sentences)) for text in (self.before, self.after))
        ids = [*before, first, *_encode(tokenizer, f" {word}"), second, *after, tokenizer.eos_token_id]
        return ids[-LONGEST:] if self.keeps_end else ids[:LONGEST]

    def template(self, tokens: Sequence[int], tokenizer: Any) -> str:
        text = "".join(tokenizer.convert_ids_to_tokens(list(tokens)))
        before, after = self.shown
        for mark, meant in zip((*GAPS, tokenizer.eos_token), (before, "*mask*", after, after), strict=True):
            text = text.replace(mark, meant)
        return text.replace("▁", "_")


def _raised(text: str) -> str:
    return text[:1].upper() + text[1:]


AFTER = _Form(lambda s: _raised(s[0]), lambda s: "", ("*cls**sent_0*", "*sep+*"), True)
BEFORE = _Form(lambda s: ".", lambda s: f" {_raised(s[0])}", ("*cls*", "*+sent_0**sep+*"), False)
BETWEEN = _Form(
    lambda s: s[0][:-1], lambda s: f" {s[1][:1].lower()}{s[1][1:]}", ("*cls**sent-_0*", "*+sentl_1**sep+*"), False
)


@torch.no_grad()
def decode(
    model: Any, tokenizer: Any, inputs: Sequence[Sequence[int]], beam: int, pooling: Pooling
) -> list[tuple[int, ...]]:
    """The token numbers of the best fillings, the best first; both gaps of one may not be filled at the end."""
    ids = padded(inputs, 0).to(model.device)
    mask = padded([[1] * len(numbers) for numbers in inputs], 0).to(model.device)
    seen = model.get_encoder()(input_ids=ids, attention_mask=mask)
    pool = [Filling((), 0.0, 0)]
    for _ in range(STEPS):
        grown: list[Filling] = []
        for part in pool:
            if part.filled == 2:
                grown.append(part)
                continue
            prefix = ids.new_tensor([[model.config.decoder_start_token_id, *part.tokens]]).expand(len(inputs), -1)
            logits = model(encoder_outputs=seen, attention_mask=mask, decoder_input_ids=prefix).logits[:, -1]
            grown += _grow(part, _pooled(logits, pooling), beam, tokenizer)
        if not grown:
            break
        pool = sorted(grown, key=lambda part: part.score, reverse=True)[:beam]
    return [part.tokens for part in pool]


def _grow(part: Filling, scores_V: Tensor, beam: int, tokenizer: Any) -> Iterator[Filling]:
    """The next tokens that are likeliest."""
    best = scores_V.sort(descending=True, stable=True)
    # By name: T5's marks are numbered downwards, those of ByT5 upwards.
    next_gap, stop, *others = tokenizer.convert_tokens_to_ids([GAPS[1 + part.filled], ".", *FORBIDDEN])
    forbidden = {number for number in others if number != tokenizer.unk_token_id}
    for number, score in zip(best.indices[: beam + 3].tolist(), best.values.tolist(), strict=False):
        doubled = number == stop and part.tokens[-1:] == (stop,)
        if number not in forbidden and not doubled:
            ends = number in (next_gap, tokenizer.eos_token_id)
            yield Filling((*part.tokens, number), part.score + score, part.filled + ends)


def _pooled(logits_NV: Tensor, pooling: str) -> Tensor:
    if pooling == "logits":
        return logits_NV.float().mean(0).log_softmax(-1)
    return logits_NV.float().log_softmax(-1).mean(0)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return plain_ids(tokenizer, [text])[0] if text else []


def _parsed(text: str) -> Template | None:
    try:
        return parse_template(text, generated=True)
    except InputError:
        return None
