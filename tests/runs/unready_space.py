"""A user's spaces that a search by gradient cannot take, or can, though they cannot be built without real values."""

from __future__ import annotations

import torch
import toy_space

from naslab.search_spaces import GradientTask, RelaxableSpace


class UncheckedTask(toy_space.ToyTask):
    """Its `check` has an error of its own."""

    def check(self, configuration):
        {}["columns"]


class Unchecked(toy_space.Space):
    """The toy space with that task."""

    Task = UncheckedTask


class Ungraded(toy_space.Space, RelaxableSpace):
    """Has a supernet that needs real values, and a task that is not made of batches."""

    def supernet(self, relaxation, partial_channels=1):
        return [rate.item() for rate in torch.linspace(0, 0.1, 4)]

    def genotype(self, choices):
        return self.reference


class GradedTask(toy_space.ToyTask, GradientTask):
    """Twelve samples."""

    size = 4

    def num_batches(self, share=(0.0, 1.0)):
        return int(12 * (share[1] - share[0])) // self.size

    def batches(self, seed, epoch, share=(0.0, 1.0)):
        return iter(())

    def optimiser(self, model, parameters):
        return torch.optim.SGD(parameters)

    def set_learning_rate(self, optimiser, progress):
        pass


class Graded(Ungraded):
    """May be searched."""

    Task = GradedTask


class UncountedTask(GradedTask):
    """Divides by nothing."""

    size = 0


class Uncounted(Ungraded):
    """The same with that task."""

    Task = UncountedTask


class EmptyTask(GradedTask):
    """A half of its samples is less than a batch."""

    size = 8


class Empty(Ungraded):
    """The same with that task."""

    Task = EmptyTask
