"""Rows of token numbers as tensors, and which rows a step takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from naslab.search_spaces.data.text import shuffled_rows
from naslab.search_spaces.data.text.padded import padded

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=5)


@given(ROWS, st.integers(0, 3), st.sampled_from(["left", "right"]))
def test_rows_are_padded_as_torch_pads_them(rows, more, side):
    longest = max(map(len, rows))
    theirs = pad_sequence([torch.tensor(r, dtype=torch.long) for r in rows], True, -1, side)
    assert torch.equal(padded(rows, -1, side=side), theirs)
    gap = torch.full((len(rows), more), -1)
    wider = [gap, theirs] if side == "left" else [theirs, gap]
    assert torch.equal(padded(rows, -1, longest + more, side), torch.cat(wider, 1))


def test_a_row_longer_than_the_length():
    with pytest.raises(ValueError, match="a row of 3 tokens is longer than 2"):
        padded([[1, 2, 3]], 0, 2)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 5))
def test_steps_take_all_rows_before_any_comes_again(rows, batch_size, seed):
    steps = [shuffled_rows(rows, batch_size, seed, step) for step in range(2 * rows)]
    assert {len(step) for step in steps} == {batch_size}
    taken = [row for step in steps for row in step]
    for begin in range(0, len(taken) // rows * rows, rows):
        assert sorted(taken[begin : begin + rows]) == list(range(rows))
