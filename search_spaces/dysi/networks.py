"""The networks that DySI trains: T5 and GPT-2 from scratch, any pre-trained one by name or folder; what they cost."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from naslab.errors import InputError
from naslab.search_spaces.common import costs
from naslab.search_spaces.common.modules import language_models
from naslab.search_spaces.common.modules.modes import evaluating
from naslab.search_spaces.common.modules.pretrained import load_pretrained
from naslab.search_spaces.data.text import BEGIN, END, PAD
from naslab.search_spaces.data.text.pair_tokenizers import Ids
from naslab.search_spaces.dysi.model import Decoder, EncoderDecoder, Recipe, SequenceModel
from naslab.search_spaces.dysi.options import DySIOptions

WHERE = "space.options.pretrained"
OWN_IDS = Ids(PAD, BEGIN, END)
ALIKE = 1e-3
"""Share of the largest logit by which a network's answers to the same pair may differ."""
POSITIONS = ("max_position_embeddings", "n_positions")


def make_model(options: DySIOptions, recipe: Recipe) -> SequenceModel:
    """A network of these sizes, or the pre-trained one, under a recipe.

    Raises:
        InputError: the pre-trained network cannot be loaded, or does not take texts of this length.
    """
    kind = EncoderDecoder if options.form == "encoder_decoder" else Decoder
    if options.pretrained is None:
        network: Any = _t5(options) if options.form == "encoder_decoder" else _gpt2(options)
        return kind(network, recipe, OWN_IDS)
    auto = AutoModelForSeq2SeqLM if options.form == "encoder_decoder" else AutoModelForCausalLM
    network = load_pretrained(auto, options.pretrained, WHERE)
    return kind(network, recipe, pretrained_ids(network.config, options))


def _t5(options: DySIOptions) -> T5ForConditionalGeneration:
    """T5 1.1's layers, gated GELU and no biases, with tied embeddings."""
    config = T5Config(
        vocab_size=options.vocabulary,
        d_model=options.width,
        d_kv=options.width // options.heads,
        d_ff=options.hidden,
        num_layers=options.layers,
        num_heads=options.heads,
        dropout_rate=options.dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=PAD,
        eos_token_id=END,
    )
    config.decoder_start_token_id = BEGIN
    return T5ForConditionalGeneration(config)


def _gpt2(options: DySIOptions) -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_positions=options.source_tokens + options.target_tokens + 1,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        n_inner=options.hidden,
        resid_pdrop=options.dropout,
        embd_pdrop=options.dropout,
        attn_pdrop=options.dropout,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
    )
    return GPT2LMHeadModel(config)


def pretrained_config(options: DySIOptions) -> Any:
    """The configuration of the pre-trained network, held against the options before any weight is read.

    Raises:
        InputError: there is none, it is of another form, does not take texts of this length, or names no token that
            begins or ends one.
    """
    assert options.pretrained is not None
    config = language_models.pretrained_config(options.pretrained, WHERE)
    form = "encoder_decoder" if config.is_encoder_decoder else "decoder"
    if form != options.form:
        raise InputError(f"space.options.form: {options.pretrained!r}, a {config.model_type}, needs form = {form}")
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise InputError(f"{WHERE}: {options.pretrained!r}, a {config.model_type}, names no vocabulary of its own")
    pretrained_ids(config, options)
    _check_positions(config, options)
    return config


def pretrained_ids(config: Any, options: DySIOptions) -> Ids:
    """Its special tokens; GPT-2, which has no padding, pads with its end."""
    end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    begin = getattr(config, "decoder_start_token_id", None)
    if options.form == "decoder" or begin is None:
        begin = config.bos_token_id
    if end is None or begin is None:
        raise InputError(f"{WHERE}: {options.pretrained!r} names no token that begins or none that ends a target")
    pad = getattr(config, "pad_token_id", None)
    return Ids(end if pad is None else pad, begin, end)


def _check_positions(config: Any, options: DySIOptions) -> None:
    """Refuse texts that are longer than the network's positions; relative ones, T5's, have no end."""
    if hasattr(config, "relative_attention_num_buckets"):
        return
    known = [number for name in POSITIONS if isinstance(number := getattr(config, name, None), int)]
    lengths = (options.source_tokens, options.target_tokens)
    longest = sum(lengths) if options.form == "decoder" else max(lengths)
    if known and longest > min(known):
        raise InputError(
            f"space.options.source_tokens, target_tokens: texts of {longest} tokens are longer than the {min(known)} "
            f"positions of {options.pretrained!r}; lower them"
        )


def check_writes(model: SequenceModel, options: DySIOptions) -> None:
    """Hold a pre-trained network, given padded pairs as training gives them, against its own logits for one pair.

    Raises:
        InputError: it cannot take our masks and positions, or answers otherwise: by a window, or where it counts.
    """
    network, generator = model.network, torch.Generator().manual_seed(0)
    draw = partial(torch.randint, network.config.vocab_size, generator=generator)
    source, tokens = draw((1, options.source_tokens)), draw((1, options.target_tokens))
    source[source == model.ids.pad] = (model.ids.pad + 1) % network.config.vocab_size
    bare = source[:, : -(-options.source_tokens // 2)]
    padding = source.new_full((1, options.source_tokens - bare.shape[1]), model.ids.pad)
    decodes = options.form == "decoder"
    padded = torch.cat([padding, bare] if decodes else [bare, padding], 1)
    try:
        with evaluating(network):
            for given, plain in ((source, source), (padded, bare)):
                ours = model.write(model.read(given), tokens)
                own = torch.cat([plain, tokens], 1) if decodes else plain
                theirs = network(input_ids=own, **({} if decodes else {"decoder_input_ids": tokens})).logits
                if (ours - theirs[:, -tokens.shape[1] :]).abs().max() > ALIKE * theirs.abs().max():
                    raise ValueError("given a mask and positions, it answers otherwise than alone")
    except Exception as error:  # noqa: BLE001 - whatever the network raises, it is not one for this space
        words = " ".join(str(error).split())[:120]
        raise InputError(
            f"{WHERE}: {options.pretrained!r}, a {network.config.model_type}, cannot be used: {words}"
        ) from None


def forward_flops(options: DySIOptions, batch_size: int) -> int | None:
    """FLOPs of reading the sources and one pass of the decoder; None for a pre-trained network."""
    if options.pretrained is not None:
        return None
    return 2 * batch_size * (_reading(options) + _writing(options))


def step_flops(options: DySIOptions, batch_size: int, passes: int) -> int | None:
    """FLOPs of a training step: a backward is two forwards, and passes before the last one have none."""
    if options.pretrained is not None:
        return None
    return 2 * batch_size * (3 * _reading(options) + (passes + 2) * _writing(options))


def _reading(options: DySIOptions) -> int:
    """Multiply-adds of the encoder for one source."""
    if options.form == "decoder":
        return 0
    source, width = options.source_tokens, options.width
    block = costs.attention(source, width) + costs.mlp(source, width, options.hidden, gated=True)
    return options.layers * block


def _writing(options: DySIOptions) -> int:
    """Multiply-adds of a decoder pass for one pair; a decoder alone reads the source in it."""
    target, width = options.target_tokens, options.width
    head = costs.linear(target, width, options.vocabulary)
    if options.form == "decoder":
        return options.layers * costs.block(options.source_tokens + target, width, options.hidden) + head
    across = costs.attention(target, width, options.source_tokens)
    block = costs.attention(target, width) + across + costs.mlp(target, width, options.hidden, gated=True)
    return options.layers * block + head
