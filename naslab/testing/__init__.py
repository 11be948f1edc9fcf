"""The contract suite: rules for every search space and its task, the shipped ones and your own.

    from naslab.testing import check_space

    def test_my_space():
        check_space("my_module:Space", task={"epochs": 2})

With pytest, a rule a test: parametrise over `RULES` and call each with the `subject` of the space.
"""

from naslab.testing.check import Broken, Subject, check_space, subject
from naslab.testing.rules import RULES

__all__ = ["RULES", "Broken", "Subject", "check_space", "subject"]
