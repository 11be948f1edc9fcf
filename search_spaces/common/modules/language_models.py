"""Masked language models of any kind that transformers loads, from the hub or a folder."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from naslab.errors import InputError
from naslab.search_spaces.common.modules.pretrained import read_pretrained
from naslab.search_spaces.data.packages import cannot_load, model_folder

HEADS = {"bert": "cls", "roberta": "lm_head", "xlm-roberta": "lm_head", "camembert": "lm_head", "mpnet": "lm_head"}
"""The module from a state to the words; other models are asked for the words at every place."""
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose positions begin after the padding's number."""


def words_head(language_model: Any) -> nn.Module | None:
    """The module from states to words; None where it is not known, and the whole model must be asked."""
    name = HEADS.get(language_model.config.model_type)
    return None if name is None else getattr(language_model, name)


def pretrained_config(name: str) -> Any:
    """The configuration of a model on the hub or in a folder.

    Raises:
        InputError: there is none.
    """
    try:
        return AutoConfig.from_pretrained(model_folder(name))
    except (OSError, ValueError) as error:
        raise cannot_load("space.encoder", name, error) from None


def usable_positions(config: Any) -> int:
    """The longest text that a model has positions for."""
    shift = config.pad_token_id + 1 if config.model_type in SHIFTED else 0
    return int(getattr(config, "max_position_embeddings", 512)) - shift


def load_language_model(name: str, new_head: bool) -> Any:
    """A masked language model from the hub or a folder, on the CPU in float32.

    Args:
        new_head: where the checkpoint has no head for words, take a new one, which must be adapted first.

    Raises:
        InputError: there is no such model, it is no masked LM, or its checkpoint lacks weights: with a random head
            prompts would silently be at chance.
    """
    model, missing = read_pretrained(AutoModelForMaskedLM, name, "space.encoder")
    body = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise InputError(f"space.encoder: the checkpoint of {name} lacks {len(body)} weights, such as {body[0]}")
    if missing and not new_head:
        raise InputError(
            f"space.encoder: the checkpoint of {name} has no head for words ({missing[0]} and {len(missing) - 1} more "
            "are missing); a random one would be at chance: set new_head = true and adapt it by task.adaptation"
        )
    return model
