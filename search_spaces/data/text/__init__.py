"""Text: corpora in three parts, tokenizers, and windows of tokens."""

from naslab.search_spaces.data.text.byte_pairs import BEGIN, BYTES, END, FIRST_SENTINEL, PAD, encode, train_byte_pairs
from naslab.search_spaces.data.text.corpus import TextOptions, distinct_paragraphs, read_corpus
from naslab.search_spaces.data.text.load import TextData, TextPart, load_text
from naslab.search_spaces.data.text.windows import EVALUATION_BATCH, IGNORED, Batch, CausalBatches, window_starts
from naslab.search_spaces.data.text.wordpiece import SpecialIds, TextTokenizer, named_tokenizer, train_wordpiece

__all__ = [
    "BEGIN",
    "BYTES",
    "END",
    "EVALUATION_BATCH",
    "FIRST_SENTINEL",
    "IGNORED",
    "PAD",
    "Batch",
    "CausalBatches",
    "SpecialIds",
    "TextData",
    "TextOptions",
    "TextPart",
    "TextTokenizer",
    "distinct_paragraphs",
    "encode",
    "load_text",
    "named_tokenizer",
    "read_corpus",
    "train_byte_pairs",
    "train_wordpiece",
    "window_starts",
]
