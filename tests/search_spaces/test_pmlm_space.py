import pytest
import torch

from naslab.efficiency import count_forward, profile
from naslab.errors import InputError
from naslab.search_spaces import find_space
from naslab.search_spaces.common.modules.relative_bias import BiasSizes
from naslab.search_spaces.common.objectives.masked_blocks import Masking

SMALL = {"vocabulary": 80, "context": 32, "layers": 2, "width": 16, "head_width": 8}


def space(preset="tiny", **options):
    return find_space("pmlm", preset, {**(SMALL if preset == "tiny" else {}), **options})


def test_the_reference_is_the_papers():
    plan = space("paper").plan(space("paper").reference)
    assert plan.masking == Masking()  # whose defaults test_pmlm_masking holds to the algorithm
    assert plan.autoencoding
    assert plan.pseudo_weight == 1
    assert plan.bias == BiasSizes(32, 128)
    assert (plan.body.layers, plan.body.width, plan.body.heads, plan.body.vocabulary) == (12, 768, 12, 30522)
    assert plan.masking.slots(512) == 77 + 5


def test_the_paper_model_has_its_size():
    made = space("paper")
    with torch.device("meta"):
        model = made.build(made.reference)
    parameters = sum(p.numel() for p in model.parameters())
    # BERT-base without pooler, its head tied, and 32 x 12 of the bias: 110 M in the paper, pooler included.
    d, layers, words = 768, 12, 30522
    block = 12 * d * d + 13 * d
    assert parameters == (words + 512 + 2) * d + 2 * d + layers * block + d * d + 3 * d + words + 32 * 12


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({"par_weight": 0.0}, {"objective": "ae"}),
        ({"span_share": 0.0, "longest_span": 9}, {"span_share": 0.0}),
        ({"objective": "ae_ar", "span_share": 0.0}, {"objective": "ae_par", "span_share": 0.0}),
        ({"objective": "ar", "span_share": 0.0}, {"objective": "par", "span_share": 0.0}),
        ({"masking_rate": 0.1601}, {"masking_rate": 0.15}),  # five of thirty either way
    ],
)
def test_one_function_has_one_spelling(values, same):
    made = space()
    assert made.changed(**values) == made.changed(**same)


def test_published_settings_are_the_rows_of_the_ablation():
    made = space()
    plans = {name: made.plan(configuration) for name, configuration in made.published.items()}
    assert set(plans) == {"ae", "par", "ar", "ae_ar", "no_relative_bias", "bert"}
    assert plans["ae"].pseudo_weight == 0
    assert plans["ae"].autoencoding
    assert not plans["par"].autoencoding
    assert plans["par"].pseudo_weight == 1
    assert plans["ar"].masking.single
    assert plans["ae_ar"].masking.single
    assert not plans["par"].masking.single
    assert plans["bert"].masking.span_share == 0
    assert plans["bert"].bias is None


@pytest.mark.parametrize("budget", ["exact", "at_least"])
@pytest.mark.parametrize("name", ["reference", "ae", "par"])
def test_the_formula_is_the_counters(budget, name):
    made = space(budget=budget)
    configuration = {"reference": made.reference, **made.published}[name]
    with torch.device("meta"):
        counted = count_forward(made.build(configuration), made.example_input(3))
    assert made.forward_flops(configuration, 3) == counted.total


def test_a_profile_covers_all_of_it():
    made = space()
    found = profile(made.build(made.reference).eval(), made.example_input(2), only=("flops", "memory")).to_dict()
    assert found["flops"]["forward"] == made.forward_flops(made.reference, 2)
    assert found["coverage"] == 1


def test_costs_are_those_of_the_published_sizes():
    """AE + PAR over AE alone at 512 tokens and BERT-base's width: 1.34, without the heads for words."""
    made = space("paper", vocabulary=64, budget="exact")
    joint, ae = (made.forward_flops(c, 1) for c in (made.reference, made.published["ae"]))
    assert joint / ae == pytest.approx(1.34, abs=0.05)


def test_a_special_token_may_be_the_last_of_all():
    made = space(special={"mask": 79})
    ids = made.example_input(50)["ids"]
    assert ids[:, 1:-1].max() == 78
    made.build(made.reference)(**made.example_input(2))["loss"].backward()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 20, "head_width": 8}, "space.options.width: 20"),
        ({"random_share": 0.7, "kept_share": 0.4}, "more than 1"),
        ({"relative_distance": 8}, "space.options.relative_distance: 8"),
        ({"special": {"pad": 0, "cls": 1, "sep": 2, "mask": 2, "unk": 4}}, "space.options.special"),
        ({"special": {"mask": 90}}, "space.options.special"),
        ({"special": {"pad": True}}, "space.options.special"),
        ({"special": {"bos": 1}}, "space.options.special"),
        ({"text_model": "/no/such/folder"}, "space.options.text_model: cannot load"),
        ({"text_model": "/no/such/folder", "width": 16}, "width"),
        ({"context": 4}, "context"),
        ({"budget": "roughly"}, "budget"),
    ],
)
def test_bad_options_are_one_line(options, words):
    fresh = {k: v for k, v in SMALL.items() if k not in ("vocabulary", "layers", "width", "head_width")}
    with pytest.raises(InputError) as error:
        find_space("pmlm", "tiny", {**(fresh if "text_model" in options else SMALL), **options})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": "mlm"}, "objective"),
        ({"masking_rate": 0.0}, "masking_rate"),
        ({"span_share": 0.45}, "span_share"),
        ({"longest_span": 1}, "longest_span"),
        ({"objective": "ae"}, "par_weight: applies only"),
        ({"par_weight": -1.0}, "par_weight"),
    ],
)
def test_bad_configurations_are_one_line(values, words):
    made = space()
    with pytest.raises(InputError) as error:
        made.configuration({**made.reference, **values})
    assert words in str(error.value)
    assert "\n" not in str(error.value)
