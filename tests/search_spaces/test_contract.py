"""Every shipped space, and the worked example, keeps every rule of the contract."""

from functools import cache
from pathlib import Path

import pytest
import small_tasks
from small_tasks import CLIPS, IMAGES

from naslab.search_spaces import space_names
from naslab.testing import RULES, subject
from naslab.testing.effects import space_options_have_an_effect, task_options_have_an_effect

EXAMPLES = Path(__file__).parents[2] / "examples"
MORE_CLIPS = {
    "train": 32, "validation": 12, "test": 12, "events": ["move", "turn", "presence"], "frames": 4, "image_size": 16,
}  # fmt: skip
WORDS = {
    **small_tasks.WORDS,
    "sentence_length": 24,
    "probe_sentences": 20,
    "probe_windows": 8,
    "tuning": {"epochs": 1, "batch_size": 8},
}
DOCS = {"corpus": "files", "files": [str(EXAMPLES.parent / "docs")], "max_characters": 60_000}
TEXT = {**small_tasks.TEXT, "data": DOCS}
HERE = Path(__file__).parent
PAIRS = {
    "data": {"name": "files", "root": str(HERE / "pairs.tsv")},
    "epochs": 2,
    "steps_per_epoch": 25,
    "learning_rate": 1e-2,
    "batch_size": 16,
    "rung_pairs": 8,
    "prefix_tokens": 3,
}
SHORT = {"source_tokens": 8, "target_tokens": 10, "vocabulary": 270, "layers": 1, "width": 16, "hidden": 24}
FEW_SHOT = {
    "data": {"name": "files", "root": str(HERE / "few_shot.csv"), "test": 20},
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 4,
    "demonstration_sets": 2,
}
SMALL = {"width": 16, "depth": 4, "heads": 2}
SPACES = {
    "digits_mlp:Space": {"epochs": 2},
    "nasiam:tiny": IMAGES,
    "mae:tiny": (IMAGES, {**SMALL, "published_decoder": [1, 16], "decoder_heads": 2}, 4),
    "mae:tiny-video": CLIPS,
    "token_reduction:tiny": (IMAGES, SMALL, 4),
    "altup:tiny": (TEXT, {"context": 32, "layers": 3}, 4),
    "whole_word:tiny": (WORDS, {"vocabulary": 1500, "length": 48, "width": 32}),
    "smaug:tiny": ({**CLIPS, "dataset": MORE_CLIPS}, {"image_size": 16, "clip_frames": 4}, 4),
    "pmlm:tiny": (TEXT, {"vocabulary": 512, "context": 48, "layers": 2, "width": 32, "head_width": 8}),
    "lmbff:tiny": (FEW_SHOT, {"vocabulary": 200, "width": 16, "layers": 1, "heads": 2, "length": 48}),
    "nasiam:tiny byol": (IMAGES, {"framework": "byol"}),
    "nasiam:tiny mocov2": (IMAGES, {"framework": "mocov2"}),
    "dysi:tiny": (PAIRS, SHORT),
    "dysi:tiny decoder": (PAIRS, {**SHORT, "form": "decoder"}),
    "altup:tiny encoder-decoder": (TEXT, {"form": "encoder_decoder", "context": 32, "layers": 3}),
}


EFFECTS = (space_options_have_an_effect, task_options_have_an_effect)
"""Rules with a file of their own, test_option_effects.py: they take the longest."""


@cache
def made(name):
    target, found = name.split()[0], SPACES[name]
    task, options, samples = (*found, 2)[:3] if isinstance(found, tuple) else (found, None, 4)
    return subject(target, task, options, samples)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in EFFECTS], ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", SPACES)
def test_the_contract(name, rule, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    rule(made(name))


def test_every_shipped_space_is_held_to_the_contract():
    assert set(space_names()) <= {name.partition(":")[0] for name in SPACES}
