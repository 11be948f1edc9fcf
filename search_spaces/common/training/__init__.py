"""Training that every task uses: the loop and its checkpoints, optimisers, the learning rate's schedule."""

from naslab.search_spaces.common.training.loop import Budget, train_in_rungs
from naslab.search_spaces.common.training.optimisers import LayerDecay, adamw, is_matrix, scaled_rate
from naslab.search_spaces.common.training.schedule import learning_rate_share, set_learning_rate

__all__ = [
    "Budget",
    "LayerDecay",
    "adamw",
    "is_matrix",
    "learning_rate_share",
    "scaled_rate",
    "set_learning_rate",
    "train_in_rungs",
]
