"""Which configurations of SMAUG there are, which of them are one, and what they cost."""

from dataclasses import replace

import pytest
import torch
from small_smaug import VARIANTS, space

from naslab.efficiency.flops import count_forward
from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.objectives.masked_patches import Masking
from naslab.search_spaces.smaug.costs import part_macs
from naslab.search_spaces.smaug.design import LAYERS, Design

CASES = [("tiny", v) for v in VARIANTS] + [("small", v) for v in VARIANTS[:4]] + [("paper", v) for v in VARIANTS[::3]]


@pytest.mark.parametrize(("preset", "changed"), CASES, ids=str)
def test_the_formula_agrees_with_the_counter(preset, changed):
    chosen = find_space("smaug", preset, {"clip_frames": 4, "depth": 4} if preset != "paper" else {})
    configuration = chosen.configuration({**chosen.reference.as_dict(), **changed})
    with torch.device("meta"):
        counted = count_forward(chosen.build(configuration), chosen.example_input(2))
    assert chosen.forward_flops(configuration, 2) == pytest.approx(counted.total, rel=0.01)


TABLE = """
1 .5 1 1 1.57 1.50 1.21
1 .65 1 1 1.88 1.80 1.39
1 .5 .7 1 1.97 1.88 1.44
1 .75 .7 1 2.49 2.34 1.70
4 .65 1 4 2.47 2.29 1.56
4 .65 .7 2 3.52 3.15 1.91
4 .75 .7 4 4.15 3.65 2.09
4 .75 .5 2 5.04 4.33 2.29
"""
"""FLOPs of a dense Singularity-like step over those of a sparse one without decoder, with 1 and with 8 blocks, by
frames, masking ratio, keep rate and frames kept: derived from the published sizes of ViT-B and BERT-base."""


def macs(chosen, **changed):
    values = {**chosen.reference.as_dict(), **changed}
    return sum(part_macs(chosen.options, chosen.bert, chosen.configuration(values).into(Design)).values())


@pytest.mark.parametrize("row", TABLE.strip().splitlines())
def test_savings_are_those_derived_from_the_published_sizes(row):
    frames, ratio, keep, kept, *ratios = (float(cell) for cell in row.split())
    chosen = find_space("smaug", "paper")
    dense = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames": frames, "frames_kept": frames}
    sparse = {"visual_masking_ratio": ratio, "keep_rate": keep, "frames": frames, "frames_kept": kept}
    decoders = ({"mvm_weight": 0.0}, {"decoder_depth": 1}, {"decoder_depth": 8})
    for decoder, expected in zip(decoders, ratios, strict=True):
        assert macs(chosen, **dense) / macs(chosen, **sparse, **decoder) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("frames", "total"), [(1, 28.5), (4, 89.9)])
def test_the_dense_step_costs_what_the_published_sizes_say(frames, total):
    chosen = find_space("smaug", "paper")
    dense = {"visual_masking_ratio": 0.0, "keep_rate": 1.0, "frames": frames, "frames_kept": frames}
    assert macs(chosen, **dense) / 1e9 == pytest.approx(total, rel=0.005)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keep_rate": 0.0}, "keep_rate: 0.0 is not allowed; use a number from 0.3 to 1"),
        ({"frames_kept": 4, "frames": 2}, "frames_kept: 4 is more than the 2 frames"),
        ({"frames": 9}, "frames: 9 is not allowed; use an integer from 1 to 4"),
        ({"rule": "tome", "keep_rate": 0.4}, "keep_rate: 0.4 is not possible with ToMe"),
        ({"vtc_weight": 0.0, "vtm_weight": 0.0, "qa_weight": 0.0}, "nothing joins video and text"),
        ({f"{name}_weight": 0.0 for name in ("vtc", "vtm", "mlm", "mvm", "qa")}, "nothing joins video and text"),
        ({"visual_masking_ratio": 1.0}, "visual_masking_ratio: 1.0 is not allowed"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(changed, message):
    chosen = space()
    with pytest.raises(InputError, match=message) as caught:
        chosen.configuration({**chosen.reference.as_dict(), **changed})
    assert "\n" not in str(caught.value)


def test_a_ratio_that_leaves_no_patch_is_refused():
    chosen = space(patch_size=8)
    with pytest.raises(InputError, match=r"0\.9 leaves none of the 4 patches"):
        chosen.configuration({**chosen.reference.as_dict(), "visual_masking_ratio": 0.9})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 5}, "patch_size 5 does not divide image_size 16"),
        ({"heads": 5}, "heads 5 does not divide a width of 24"),
        ({"special": {"pad": 1}}, "special tokens .* must differ"),
        ({"text_model": "bert"}, "space.options.vocabulary: applies only with text_model = None"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        space(**options)
    assert "\n" not in str(caught.value)


def test_a_text_model_that_cannot_be_loaded_is_one_line():
    with pytest.raises(InputError, match=r"space\.options\.text_model: cannot load '/no/such/folder'") as caught:
        find_space("smaug", "tiny", {"text_model": "/no/such/folder"})
    assert "\n" not in str(caught.value)


def test_what_does_not_matter_has_one_value():
    chosen = space()
    reference = chosen.reference.as_dict()
    pairs = [
        ({"keep_rate": 1.0, "rule": "tome"}, {"keep_rate": 1.0, "fuse": False}),
        ({"frames_kept": 4, "selection": "before"}, {"frames_kept": 4, "estimator": "perturbed"}),
        ({"visual_masking_ratio": 0.0, "decoder_depth": 8}, {"visual_masking_ratio": 0.0, "mvm_weight": 0.5}),
        ({"text_masking_ratio": 0.0, "mlm_weight": 2.0}, {"mlm_weight": 0.0, "text_masking": "joint"}),
        ({"keep_rate": 0.99, "sparsify_layers": "half"}, {"keep_rate": 1.0}),
    ]
    for first, second in pairs:
        a, b = (chosen.configuration({**reference, **changed}) for changed in (first, second))
        assert a.digest == b.digest


def test_without_an_answer_head_its_weight_is_no_choice():
    chosen = space(answers=0)
    reference = chosen.reference.as_dict()
    assert len({chosen.configuration({**reference, "qa_weight": weight}) for weight in (0.0, 1.0, 2.0)}) == 1
    with pytest.raises(InputError, match="nothing joins video and text"):
        chosen.configuration({**reference, "vtc_weight": 0.0, "vtm_weight": 0.0})


def test_names_of_the_same_layers_are_one_configuration():
    chosen = space(depth=2)
    found = {chosen.configuration({**chosen.reference.as_dict(), "sparsify_layers": name}) for name in LAYERS}
    assert len(found) == 1
    assert len({space().configuration({**space().reference.as_dict(), "sparsify_layers": n}) for n in LAYERS}) == 3


SHARES = {"visual_masking_ratio": (0.0, 0.8), "text_masking_ratio": (0.0, 0.9), "keep_rate": (0.5, 1.0)}


def function_of(configuration, patches=16, tokens=8):
    """All that the shares of a configuration decide: what is masked of frames and texts, what each layer drops."""
    design = configuration.into(Design)
    words = [(max(1, round(design.text_masking_ratio * n)), design.models_words) for n in range(1, tokens - 1)]
    reduction = design.reduction(4)
    visible = design.visible(patches)
    return visible, tuple(words), *(reduction.signature(free, 4) for free in (visible, patches))


@pytest.mark.parametrize("rule", ["evit", "tome"])
@pytest.mark.parametrize("name", SHARES)
def test_shares_of_the_same_counts_are_one_configuration(name, rule):
    """Two configurations are equal exactly where they mask and drop the same."""
    chosen = space()
    low, high = SHARES[name]
    found = {}
    for share in (chosen.reference[name], *(low + (high - low) * step / 100 for step in range(101))):
        values = {**chosen.reference.as_dict(), "rule": rule, name: share}
        configuration = chosen.configuration(values)
        assert chosen.configuration(configuration) == configuration
        found.setdefault(function_of(configuration), set()).add(configuration)
    assert {len(same) for same in found.values()} == {1}
    assert 5 <= len(found) < 60


@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_published_shares_are_round_already(preset):
    reference = find_space("smaug", preset).reference
    assert [reference[name] for name in SHARES] == [0.65, 0.5, 0.7]


def test_rounded_shares_build_the_function_that_was_asked_for():
    chosen = space()
    for ratio in (0.01, 0.34, 0.651, 0.755):
        given = replace(chosen.reference.into(Design), visual_masking_ratio=ratio)
        found = chosen.configuration({**chosen.reference.as_dict(), "visual_masking_ratio": ratio}).into(Design)
        assert found.visible(16) == given.visible(16) == int(16 * (1 - ratio))


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("side", [4, 10, 14])
def test_masking_leaves_as_many_patches_as_in_mae(side, ratio):
    design = replace(space().reference.into(Design), visual_masking_ratio=ratio)
    assert design.visible(side**2) == Masking("random", ratio, (1, side, side)).visible


@pytest.mark.parametrize("option", ["selector_samples", "selector_sigma"])
def test_clips_of_one_frame_have_no_selector_to_set(option):
    find_space("smaug", "tiny", {option: 2})
    with pytest.raises(InputError, match=f"{option}: applies only with clip_frames other than 1"):
        find_space("smaug", "tiny", {"clip_frames": 1, option: 2})
    assert find_space("smaug", "tiny", {"clip_frames": 1}).options.selector_samples == 500
