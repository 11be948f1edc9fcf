"""What may vary: spaces of published systems, their models, and the tasks that train and score them."""

from naslab.search_spaces.configuration import Configuration
from naslab.search_spaces.find import find_space, make_task, space_names
from naslab.search_spaces.options import Mechanical, Network, Options, explain
from naslab.search_spaces.parameters import Categorical, Chain, Float, Integer, Parameter, Unless, When
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.splits import Splits
from naslab.search_spaces.supernet import RelaxableSpace, Supernet
from naslab.search_spaces.task import Control, GradientTask, Rung, Split, Task, TrainingDiverged

__all__ = [
    "Categorical",
    "Chain",
    "Configuration",
    "Control",
    "Float",
    "GradientTask",
    "Integer",
    "Mechanical",
    "Network",
    "Options",
    "Parameter",
    "RelaxableSpace",
    "Rung",
    "SearchSpace",
    "Split",
    "Splits",
    "Supernet",
    "Task",
    "TrainingDiverged",
    "Unless",
    "When",
    "derive_seed",
    "explain",
    "find_space",
    "make_task",
    "seed_everything",
    "space_names",
]
