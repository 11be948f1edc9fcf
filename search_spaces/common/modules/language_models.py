"""Masked language models of any kind that transformers loads, from the hub or a folder.

Names: B texts, L tokens, D width, V words of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces.common.modules.modes import evaluating
from naslab.search_spaces.common.modules.pretrained import read_pretrained
from naslab.search_spaces.data.packages import cannot_load, model_folder

ENCODER = "space.options.encoder"
"""The option that names a model, unless another is said."""
HEADS = {"bert": "cls", "roberta": "lm_head", "xlm-roberta": "lm_head", "camembert": "lm_head", "mpnet": "lm_head"}
"""The module from a state to the words; other models are asked for the words at every place."""
ALIKE = 1e-3
"""Share of the largest logit by which answers to a text with and without padding may differ."""
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose positions begin after the padding's number."""


def words_head(language_model: Any) -> nn.Module | None:
    """The module from states to words; None where it is not known, and the whole model must be asked."""
    name = HEADS.get(language_model.config.model_type)
    return None if name is None else getattr(language_model, name)


def states_at(language_model: Any, ids_BL: Tensor, segments_BL: Tensor, at_B: Tensor) -> Tensor:
    """The last state (B, D) at one place of each text; padding is not attended to."""
    states_BLD: Tensor = language_model.base_model(**_inputs(language_model.config, ids_BL, segments_BL))[0]
    return states_BLD[torch.arange(len(at_B), device=at_B.device), at_B]


def words_at(language_model: Any, ids_BL: Tensor, segments_BL: Tensor, at_B: Tensor) -> Tensor:
    """Logits of all words (B, V) at one place of each text."""
    head = words_head(language_model)
    if head is not None:
        return head(states_at(language_model, ids_BL, segments_BL, at_B))  # type: ignore[no-any-return]
    logits_BLV: Tensor = language_model(**_inputs(language_model.config, ids_BL, segments_BL)).logits
    return logits_BLV[torch.arange(len(at_B), device=at_B.device), at_B]


def _inputs(config: Any, ids_BL: Tensor, segments_BL: Tensor) -> dict[str, Tensor]:
    kept = ids_BL != config.pad_token_id
    if config.model_type in HEADS:
        # In four dimensions: transformers asks a mask of two whether it hides anything, which waits for the device.
        inputs = {"input_ids": ids_BL, "attention_mask": kept[:, None, None].expand(-1, 1, ids_BL.shape[1], -1)}
    else:
        inputs = {"input_ids": ids_BL, "attention_mask": kept.long()}
    if (types := getattr(config, "type_vocab_size", 1)) > 1:
        inputs["token_type_ids"] = segments_BL.clamp(max=types - 1)
    return inputs


def pretrained_config(name: str, where: str = ENCODER) -> Any:
    """The configuration of a model on the hub or in a folder; `where` is the option that gives the name.

    Raises:
        InputError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(model_folder(name))
    except (OSError, ValueError) as error:
        raise cannot_load(where, name, error) from None


def usable_positions(config: Any) -> int:
    """The longest text that a model has positions for."""
    shift = (config.pad_token_id or 0) + 1 if config.model_type in SHIFTED else 0
    return int(getattr(config, "max_position_embeddings", 512)) - shift


def check_positions(config: Any, tokens: int, where: str, of: str = "") -> None:
    """Refuse texts that are longer than a model's positions.

    Args:
        where: the option that gives the length.
        of: the model's name, where the user gave one.

    Raises:
        InputError: they are.
    """
    if tokens > (most := usable_positions(config)):
        raise InputError(f"{where}: {tokens} tokens are more than the {most} positions{of and f' of {of}'}")


def check_padding(language_model: Any, length: int) -> None:
    """Hold a model's answer to a padded text against that to the text alone.

    Raises:
        InputError: it cannot be asked, or padding changes what it says.
    """
    config, generator = language_model.config, torch.Generator().manual_seed(0)
    where = f"{ENCODER}: a {config.model_type}"
    if getattr(config, "pad_token_id", None) is None:
        raise InputError(f"{where}: its configuration names no padding token")
    ids = torch.randint(config.vocab_size, (1, length), generator=generator)
    ids[ids == config.pad_token_id] = (config.pad_token_id + 1) % config.vocab_size
    alone, at = ids[:, : length // 2], torch.tensor([1])
    padded = torch.cat([alone, torch.full_like(ids[:, length // 2 :], config.pad_token_id)], 1)
    try:
        with evaluating(language_model):
            first, second = (words_at(language_model, text, torch.zeros_like(text), at) for text in (padded, alone))
    except Exception as error:  # noqa: BLE001 - whatever the model raises, it cannot be asked
        raise InputError(f"{where}: cannot be used: {' '.join(str(error).split())[:120]}") from None
    if (first - second).abs().max() > ALIKE * second.abs().max():
        raise InputError(f"{where}: padding changes what it says; use a model with an attention mask")


def load_language_model(name: str, new_head: bool) -> Any:
    """A masked language model from the hub or a folder, on the CPU in float32.

    Args:
        new_head: where the checkpoint has no head for words, take a new one, which must be adapted first.

    Raises:
        InputError: there is no such model, it is no masked LM, or its checkpoint lacks weights: with a random head
            prompts would silently be at chance.
    """
    model, missing = read_pretrained(AutoModelForMaskedLM, name, ENCODER)
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise InputError(f"{ENCODER}: the checkpoint of {name} lacks {len(body)} weights, such as {body[0]}")
    if missing and not new_head:
        raise InputError(
            f"{ENCODER}: the checkpoint of {name} has no head for words ({missing[0]} and {len(missing) - 1} more "
            "are missing); a random one would be at chance: set new_head = true and adapt it by task.adaptation"
        )
    return model
