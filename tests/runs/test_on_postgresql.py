"""Reuse, warm starts, growth and studies beside one another, once more with the studies on a PostgreSQL server."""

import pytest
from test_beside import (  # noqa: F401
    test_rows_of_another_study_stand_in_the_ranking,
    test_studies_are_compared_from_python_by_name_or_path,
)
from test_growth import (  # noqa: F401
    test_an_arm_without_results_may_change_or_go,
    test_random_architectures_keep_their_seeds_when_seeds_grow,
)
from test_reuse import test_searches_take_over_what_is_the_same_search  # noqa: F401
from test_warm_start import test_what_another_study_measured_is_known_recorded_and_kept  # noqa: F401

pytestmark = pytest.mark.postgresql


@pytest.fixture(autouse=True)
def served(database, monkeypatch):
    """Whatever storage a test names, it is the server's."""
    monkeypatch.setattr("naslab.runs.ledger.storage_url", lambda text: database)
