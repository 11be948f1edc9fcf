"""The same of the Triton kernels, where a trial is fused."""

from fuzzing import check, fuzzed, trials
from hypothesis import given


@fuzzed(few=25)
@given(trials(largest=40, contexts=("gradients", "no_grad", "autocast")))
def test_any_trial(trial):
    check(trial)
