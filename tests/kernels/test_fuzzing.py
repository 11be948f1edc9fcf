"""Every operation on its C++ loops, its reference and the way that it takes by itself, under every transform."""

from fuzzing import check, fuzzed, trials
from hypothesis import given


@fuzzed(few=60)
@given(trials())
def test_any_trial(trial):
    check(trial)
