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
