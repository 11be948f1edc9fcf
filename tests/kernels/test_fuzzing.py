"""Every operation on its C++ loops, its reference and the way that it takes by itself, under every transform."""

import torch
from fuzzing import Trial, check, fuzzed, trials
from hypothesis import example, given


@fuzzed(few=60)
@given(trials())
# Found: torch.cat refuses float16 under an autocast to bfloat16.
@example(Trial("nt_xent", 0, torch.float16, context="autocast", wanted=0))
@example(Trial("nt_xent", 9, torch.float16, context="autocast"))
@example(Trial("restore_tokens", 0, torch.float16, context="autocast", wanted=0))
@example(Trial("restore_tokens without positions", 9, torch.float16, context="autocast"))
# Found: in half precision plain PyTorch takes the slope of what it has rounded.
@example(Trial("mixed_activation", 48, torch.bfloat16, wanted=4, seed=153))
def test_any_trial(trial):
    check(trial)
