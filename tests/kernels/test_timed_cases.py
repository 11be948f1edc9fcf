"""The steps that the table times are those that the tests check."""

import pytest
import torch
from cases import CASES as CHECKED

from naslab.efficiency.kernel_cases import cases
from naslab.efficiency.kernel_table import TOLERANCE, is_correct, is_fused
from naslab.kernels import _native

SMALL = 100_000
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_small_timed_case_is_correct(dtype):
    small = [case for case in cases(CPU, dtype) if sum(leaf.numel() for leaf in case.leaves) < SMALL]
    assert {case.kernel for case in small} == {case.kernel for case in cases(CPU, dtype)}
    assert [f"{case.kernel} {case.shape}" for case in small if not is_correct(case, dtype)] == []


def test_the_operations_timed_and_checked_are_the_same():
    assert {case.kernel for case in cases(CPU, torch.float32)} == {name.split()[0] for name in CHECKED}


def test_it_is_told_where_ours_is_eager_by_choice():
    """Below the crossover on a CPU."""
    if _native.library("altup.cpp") is None:
        pytest.skip("no C++ compiler")
    every = cases(CPU, torch.float32, "gather_visible")
    assert [is_fused(case) for case in every] == [False, True, True]
