"""Text: corpora in three parts, labelled sentences, parallel pairs, tokenizers, word boundaries, windows of tokens."""

from naslab.search_spaces.data.text.byte_pairs import BEGIN, BYTES, END, FIRST_SENTINEL, PAD, encode, train_byte_pairs
from naslab.search_spaces.data.text.corpus import TextOptions, distinct_paragraphs, read_corpus
from naslab.search_spaces.data.text.load import TextData, TextPart, load_text
from naslab.search_spaces.data.text.parallel import Pairs, ParallelOptions, ParallelText, load_parallel
from naslab.search_spaces.data.text.sentences import (
    LabelledText,
    PoolOptions,
    SentenceOptions,
    SentencePool,
    Sentences,
    few_shot,
    load_pool,
    load_sentences,
)
from naslab.search_spaces.data.text.tagged import TaggedOptions, TaggedText, TaggedTexts, load_tagged
from naslab.search_spaces.data.text.token_row import WORDS_BY, TokenRow, Words, WordsBy
from naslab.search_spaces.data.text.windows import (
    EVALUATION_BATCH,
    IGNORED,
    Batch,
    CausalBatches,
    shuffled_rows,
    window_starts,
)
from naslab.search_spaces.data.text.wordpiece import (
    SpecialIds,
    TextTokenizer,
    named_tokenizer,
    pretrained_tokenizer,
    train_wordpiece,
)
from naslab.search_spaces.data.text.words import Segmenter, SegmenterName, aligned_words, segmenter, word_numbers

__all__ = [
    "BEGIN",
    "BYTES",
    "END",
    "EVALUATION_BATCH",
    "FIRST_SENTINEL",
    "IGNORED",
    "PAD",
    "WORDS_BY",
    "Batch",
    "CausalBatches",
    "LabelledText",
    "Pairs",
    "ParallelOptions",
    "ParallelText",
    "PoolOptions",
    "Segmenter",
    "SegmenterName",
    "SentenceOptions",
    "SentencePool",
    "Sentences",
    "SpecialIds",
    "TaggedOptions",
    "TaggedText",
    "TaggedTexts",
    "TextData",
    "TextOptions",
    "TextPart",
    "TextTokenizer",
    "TokenRow",
    "Words",
    "WordsBy",
    "aligned_words",
    "distinct_paragraphs",
    "encode",
    "few_shot",
    "load_parallel",
    "load_pool",
    "load_sentences",
    "load_tagged",
    "load_text",
    "named_tokenizer",
    "pretrained_tokenizer",
    "read_corpus",
    "segmenter",
    "shuffled_rows",
    "train_byte_pairs",
    "train_wordpiece",
    "window_starts",
    "word_numbers",
]
