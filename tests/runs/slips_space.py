"""A user's spaces with a slip each."""

from naslab.search_spaces import Categorical, Float, Options, SearchSpace, When


class WithoutTask(SearchSpace):
    name = "without_task"
    Options = Options
    parameters = (Categorical("kind", ("a", "b")),)

    @property
    def reference(self):
        return self.configuration({"kind": "a"})

    def build(self, configuration):
        raise NotImplementedError


class WithoutOptions(WithoutTask):
    Options = dict


class WithoutName(WithoutTask):
    name = None


class ConditionOfText(WithoutTask):
    parameters = (*WithoutTask.parameters, Float("rate", 0, 1, when=When("kind", "ab")))
