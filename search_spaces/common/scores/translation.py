"""BLEU and chrF of generated text (Papineni et al. 2002; Popovic 2015), by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence

from naslab.errors import InputError


def translation_scores(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`bleu` and `chrf` of sacrebleu, from 0 to 100, over all pairs.

    Raises:
        InputError: sacrebleu is not installed.
    """
    try:
        import sacrebleu
    except ImportError:
        raise InputError("task: sacrebleu is not installed; pip install 'naslab[translation]'") from None
    return {
        "bleu": sacrebleu.corpus_bleu(list(written), [list(references)], force=True).score,
        "chrf": sacrebleu.corpus_chrf(list(written), [list(references)]).score,
    }
