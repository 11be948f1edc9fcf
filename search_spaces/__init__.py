"""What may vary: spaces of published systems, their models, and the tasks that train and score them."""

from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.find import find_space, space_names
from naslab.search_spaces.options import Options, explain
from naslab.search_spaces.parameters import Categorical, Chain, Float, Integer, Parameter, When
from naslab.search_spaces.space import RelaxableSpace, SearchSpace, Supernet, derive_seed, seed_everything
from naslab.search_spaces.task import Control, GradientTask, Rung, Split, Task, TrainingDiverged

__all__ = [
    "Categorical",
    "Chain",
    "Configuration",
    "Control",
    "Float",
    "GradientTask",
    "Integer",
    "Options",
    "Parameter",
    "RelaxableSpace",
    "Rung",
    "SearchSpace",
    "Split",
    "Supernet",
    "Task",
    "TrainingDiverged",
    "When",
    "derive_seed",
    "explain",
    "find_space",
    "seed_everything",
    "space_names",
]
