"""Verdicts on published effects: Holm's correction, both questions, and how often a false verdict is given."""

import numpy as np
import pytest
from scipy import stats

from naslab.nas.claims import MOST_SEEDS, Claim, holm, judge, seeds_wanted


def test_holm_is_the_papers_procedure():
    # Ordered p times 4, 3, 2, 1, each at least the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_one_claim_the_verdict_is_that_of_its_interval():
    rng = np.random.default_rng(0)
    for _ in range(200):
        effects = tuple(rng.normal(0.5, 1.0, 6))
        half = stats.t.ppf(0.975, 5) * stats.sem(effects)
        low, high = np.mean(effects) - half, np.mean(effects) + half
        # With two questions Holm asks the smaller p at half of alpha, so a verdict implies what the interval says.
        (found,) = judge([Claim(effects, 2.0)])
        assert found.verdict != "reproduced" or low > 0
        assert found.verdict != "not reproduced at this size" or high < 1


def test_twenty_claims_without_effect_seldom_give_one_false_verdict():
    rng, false = np.random.default_rng(1), 0
    for _ in range(300):
        claims = [Claim(tuple(rng.normal(0.0, 1.0, 5)), 1e6) for _ in range(20)]
        false += any(found.verdict == "reproduced" for found in judge(claims))
    # At most 2.5 % of 300; more than 17 of a binomial with that share has a probability below .001.
    assert false <= 17


def test_effects_as_published_and_effects_of_nothing_are_told_when_seeds_are_many():
    rng = np.random.default_rng(2)
    published, nothing = (Claim(tuple(rng.normal(mean, 0.1, 20)), 1.0) for mean in (1.0, 0.0))
    assert [found.verdict for found in judge([published, nothing])] == ["reproduced", "not reproduced at this size"]


def test_the_seeds_wanted_settle_it():
    claim = Claim((0.4, -0.3, 0.9, 0.2), 2.0)
    seeds = seeds_wanted(claim, 0.0125)
    spread, mean = np.std(claim.effects, ddof=1), np.mean(claim.effects)

    def settled(n):
        return stats.t.ppf(1 - 0.0125, n - 1) * spread / np.sqrt(n) <= max(mean, 1.0 - mean)

    assert seeds > 4
    assert settled(seeds)
    assert not settled(seeds - 1)
    assert judge([claim])[0].seeds_wanted == seeds
    assert seeds_wanted(Claim((0.001, -0.001, 0.5, -0.5), 1e-3), 0.0125) is None


@pytest.mark.parametrize(("effects", "published"), [((0.1,), 1.0), ((), 1.0), ((0.1, 0.2), 0.0), ((0.1, 0.2), -1.0)])
def test_what_cannot_be_judged_is_refused(effects, published):
    with pytest.raises(ValueError):
        Claim(effects, published)


@pytest.mark.parametrize("published", [2.0, None])
def test_both_questions_are_one_sided_t_tests(published):
    effects = (0.4, -0.3, 0.9, 0.2)
    above, below = Claim(effects, published).p_values
    assert above == pytest.approx(stats.ttest_1samp(effects, 0, alternative="greater").pvalue)
    half = 0.0 if published is None else 1.0
    assert below == pytest.approx(stats.ttest_1samp(effects, half, alternative="less").pvalue)


def test_effects_that_do_not_vary_are_certain_except_at_the_bound():
    assert Claim((0.5, 0.5), 1.0).p_values == (0.0, 1.0)
    assert Claim((0.4, 0.4), 1.0).p_values == (0.0, 0.0)
    assert Claim((0.0, 0.0), 1.0).p_values == (1.0, 0.0)
    (found,) = judge([Claim((0.5, 0.5), 1.0)])
    assert (found.verdict, found.seeds_wanted) == ("reproduced", None)


@pytest.mark.parametrize(("sign", "verdict"), [(1, "reproduced"), (-1, "not reproduced at this size")])
def test_where_no_figure_was_published_the_direction_alone_is_asked(sign, verdict):
    (found,) = judge([Claim(tuple(sign * effect for effect in (1.0, 1.1, 0.9, 1.05)))])
    assert found.verdict == verdict


def test_a_verdict_is_given_at_the_level_itself():
    """Of two questions Holm doubles the smaller p."""
    claim = Claim((0.4, 0.3, 0.9, 0.2), 20.0)
    exactly = 2 * min(claim.p_values)
    assert judge([claim], exactly)[0].verdict != "undecided"
    assert judge([claim], exactly * (1 - 1e-9))[0].verdict == "undecided"


@pytest.mark.parametrize("seeds", [2, 3, 40, MOST_SEEDS])
def test_the_seeds_wanted_are_the_fewest_up_to_a_thousand(seeds):
    """Two effects half a mean apart, scaled so that exactly so many seeds would settle them."""
    spread = np.sqrt(2.0)  # of -1 and 1 around the mean
    mean = stats.t.ppf(0.99, seeds - 1) * spread / np.sqrt(seeds)
    assert seeds_wanted(Claim((mean - 1, mean + 1)), 0.01 * (1 + 1e-9)) == seeds
    wanted = seeds_wanted(Claim((mean - 1, mean + 1)), 0.01 * (1 - 1e-6))
    assert wanted == (seeds + 1 if seeds < 1000 else None)


def test_two_seeds_are_enough_to_be_judged_and_small_effects_may_be_published():
    assert Claim((0.1, 0.2), 0.5).half == 0.25
