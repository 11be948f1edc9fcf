import copy

import pytest

from naslab.nas.health import assess

SEARCH = {
    "trajectory": [
        {"entropy": {"projector": [1.0, 1.0]}, "skip_share": 0.43},
        {"entropy": {"projector": [0.98, 0.94]}, "skip_share": 0.52},
    ],
    "supernet_scores": {"knn_top1": 74.0},
    "relaxed_loss": 4.5,
    "discrete_loss": 5.5,
}


def test_a_search_no_better_than_random_is_said_to_be_so():
    assert "no better than random" in assess("darts", [80.0, 80.4, 79.8], [79.9, 80.6, 80.1]).verdict
    assert "better than random architectures by +9" in assess("darts", [90.0, 90.4, 89.8], [80.9, 80.6, 81.1]).verdict
    assert "worse than random" in assess("darts", [70.0, 70.4, 69.8], [80.9, 80.6, 81.1]).verdict


def test_too_little_data_is_said():
    assert "cannot tell" in assess("darts", [], [80.0]).verdict
    assert "cannot tell" in assess("darts", [80.0, 81.0], []).verdict
    assert "1 seeds against 3" in assess("darts", [80.0], [80.0, 81.0, 82.0]).verdict


def test_facts_of_a_differentiable_search():
    report = assess("darts", [80.0, 81.0], [79.0, 80.0], search=SEARCH, metric="knn_top1", retrained=78.0)
    assert report.entropy == (1.0, 0.96)
    assert report.discretisation_gap == -4.0
    assert report.loss_gap == 1.0
    assert report.skip_share == 0.52
    assert any("undecided" in warning for warning in report.warnings)


def test_collapses_are_flagged():
    report = assess(
        "darts", [80.0], [79.0], genotype_skips=0.75, embedding={"feature_std": 0.05, "effective_rank": 1.2}
    )
    assert any("parameter-free" in warning for warning in report.warnings)
    assert any("collapsed (std 0.05" in warning for warning in report.warnings)
    healthy = assess("darts", [80.0], [79.0], genotype_skips=0.2, embedding={"feature_std": 0.97, "effective_rank": 40})
    assert not healthy.warnings


@pytest.mark.parametrize(
    ("finalist", "sign", "words"),
    [((2.0, 2.0), 1, "better than"), ((1.0, 1.0), 1, "no better than"), ((0.5, 0.5), 1, "worse than"),
     ((2.0, 2.0), -1, "worse than"), ((0.0, 0.0), -1, "better than")],
)  # fmt: skip
def test_the_verdict_is_the_sign_of_the_whole_interval(finalist, sign, words):
    report = assess("darts", finalist, (1.0, 1.0), sign=sign)
    assert report.verdict.startswith(f"darts: {words} random architectures")
    expected = sign * (finalist[0] - 1.0)
    assert (report.difference.low, report.difference.mean, report.difference.high) == (expected,) * 3


@pytest.mark.parametrize(
    ("share", "entropy", "std", "warnings"),
    [(0.49, 0.9, 0.2, []), (0.5, 0.9, 0.2, ["parameter-free"]), (0.49, 0.901, 0.2, ["undecided"]),
     (0.49, 0.9, 0.199, ["collapsed (std"]), (None, 0.1, None, [])],
)  # fmt: skip
def test_limits_are_those_that_the_page_names(share, entropy, std, warnings):
    search = copy.deepcopy(SEARCH)
    search["trajectory"][-1]["entropy"] = {"projector": [entropy]}
    found = assess(
        "darts", [80.0], [79.0], search=search, genotype_skips=share,
        embedding=None if std is None else {"feature_std": std},
    ).warnings  # fmt: skip
    assert len(found) == len(warnings)
    assert all(word in one for word, one in zip(warnings, found, strict=True))
    assert not any("0.901" in one for one in found) or "(entropy 0.901 of 1)" in found[0]


def test_layers_without_parameters_are_a_collapse_of_a_search_by_gradient_alone():
    def said(search):
        return assess("arm", [80.0], [79.0], search=search, genotype_skips=0.75).warnings[0]

    assert "the known failure of DARTS" in said(SEARCH)
    assert "hardly transforms its input" in said(None)


def test_facts_are_those_of_the_last_epoch():
    search = copy.deepcopy(SEARCH)
    search["trajectory"].append({"entropy": {"projector": [0.1, 0.3]}, "skip_share": 0.25})
    report = assess("darts", [80.0], [79.0], search=search)
    assert (report.skip_share, report.entropy[-1], report.warnings) == (0.25, 0.2, ())


def test_what_is_not_known_is_none():
    report = assess("darts", [80.0, 81.0], [79.0], search=SEARCH, metric="knn_top1")
    assert (report.discretisation_gap, report.feature_std) == (None, None)
    other = assess("darts", [80.0, 81.0], [79.0], search=SEARCH, metric="another", retrained=78.0)
    assert other.discretisation_gap is None
    assert (report.finalist.mean, report.random.mean) == (80.5, 79.0)
    assert "cannot tell: 2 seeds against 1 random architectures" in report.verdict
    nothing = assess("darts", [], [])
    assert (nothing.finalist, nothing.random, nothing.difference, nothing.loss_gap) == (None,) * 4
