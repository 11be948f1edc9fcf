"""What tasks share: a budget in epochs, and the samples, batches and scores of those on labelled images or clips."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Set
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from naslab.errors import InputError
from naslab.search_spaces.common.scores.evaluation import Evaluation, Scoring
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.common.training.recording import Recorded
from naslab.search_spaces.common.training.schedule import Fall, set_learning_rate
from naslab.search_spaces.data import Augmentation, DatasetOptions, check_fit, load_dataset
from naslab.search_spaces.data.images import WholeImages
from naslab.search_spaces.data.video import ClipOptions, load_clips
from naslab.search_spaces.options import Options
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.space import SearchSpace
from naslab.search_spaces.task import Task, TrainingPlan


class EpochTask(Task):
    """A task whose options have `epochs` and `batch_size`."""

    passes: ClassVar[int] = 1
    """How often a sample goes through the model in a step."""
    least_part: ClassVar[int] = 1
    """Samples that a part of a batch needs under gradient accumulation."""

    def __init__(self, space: SearchSpace, options: Any, device: torch.device) -> None:
        super().__init__(space, options, device)
        parts, size = options.policy.accumulation, options.batch_size
        if parts > (most := max(size // self.least_part, 1)):
            raise InputError(
                f"task.policy.accumulation: {parts} parts are too many for a batch of {size}; at most {most}"
            )
        if options.policy.cuda_graphs == "on" and device.type != "cuda":
            raise InputError(f"task.policy.cuda_graphs: on, but the study runs on {device.type}; leave it out")
        if options.policy.cuda_graphs == "on" and options.policy.recompute:
            raise InputError(
                "task.policy.cuda_graphs: on, but with recompute nothing is recorded; leave out one of them"
            )

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""

    @property
    def max_epochs(self) -> int:
        """Epochs of training."""
        return int(self.options.epochs)

    @property
    def training_plan(self) -> TrainingPlan:
        """Optimiser steps over all epochs."""
        return TrainingPlan(self.steps_per_epoch * self.max_epochs, self.options.batch_size, self.passes)


class StepBudget(Options):
    """Budget of a training whose epochs may be shorter or longer than once through the data."""

    epochs: int = Field(gt=0)
    steps_per_epoch: int | None = Field(None, gt=0)
    """None: once through the training part."""
    rung_epochs: int = Field(1, gt=0)
    """Epochs between two rungs."""
    policy: PolicyOptions = PolicyOptions()


class StepTask(EpochTask):
    """A task whose options are a StepBudget."""

    batches_per_pass: int
    """Whole batches in the training part."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return self.options.steps_per_epoch or self.batches_per_pass

    def scheduled_steps(
        self, optimiser: torch.optim.Optimizer, epoch: int, warmup: float, floor: float = 0.0, fall: Fall = "cosine"
    ) -> Iterator[int]:
        """The numbers of an epoch's steps in the whole training, each once the rates are set for it."""
        steps = self.steps_per_epoch
        for step in range(epoch * steps, (epoch + 1) * steps):
            set_learning_rate(optimiser, step / (self.max_epochs * steps), warmup, floor, fall)
            yield step


class PretrainingBudget(Scoring):
    """Data and budget of a training without labels that is scored by its features."""

    dataset: DatasetOptions | ClipOptions = DatasetOptions()
    epochs: int = Field(gt=0)
    batch_size: int = Field(256, ge=2)
    rung_epochs: int = Field(1, gt=0)
    """Epochs between two rungs."""
    policy: PolicyOptions = PolicyOptions()


class Batch(NamedTuple):
    """Training samples, uint8 on the device, their numbers (B,), and what their random views are drawn from."""

    indices: Tensor
    samples: Tensor | WholeImages
    generator: torch.Generator


class SampleTask(EpochTask):
    """A task on labelled images (C, H, W) or clips (T, C, H, W), of which the options name the `dataset`."""

    compared: ClassVar[Set[str]] = frozenset({"dataset", "knn_k", "knn_temperature", "rung_bank"})
    """Options that decide, beside the metric, whether two studies are comparable; see Task.benchmark."""

    def __init__(self, space: SearchSpace, options: Any, device: torch.device) -> None:
        super().__init__(space, options, device)
        dataset, sizes = options.dataset, space.options
        self.data = load_clips(dataset) if isinstance(dataset, ClipOptions) else load_dataset(dataset)
        check_fit(self.data, sizes.in_channels, sizes.image_size, options.batch_size)
        self.train_images = self.data.train.to(device)
        self.train_labels = self.data.train.labels.to(device)
        self.augmentation = self.views()
        records = options.policy.cuda_graphs != "off"
        self._random_views = Recorded(self.augmentation, "a random view") if records else self.augmentation
        self.scores = Evaluation(self.data, self.augmentation, device, self.scoring, dataset.seed)

    @abstractmethod
    def views(self) -> Augmentation:
        """Random views of `self.data` for training, plain ones for scoring."""

    @property
    def scoring(self) -> Scoring:
        """How features are scored."""
        scoring: Scoring = self.options
        return scoring

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.data.train) // int(self.options.batch_size)

    def whole_batches(self, number: int, *key: int | str, first: int = 0) -> Iterator[Batch]:
        """Each whole batch of `number` training samples, from number `first` on; `key` decides order and views."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(*key))
        size = self.options.batch_size
        order = first + torch.randperm(number, generator=generator, device=self.device)[: number // size * size]
        for indices, samples in self.train_images.batches(order, size, self.device):
            yield Batch(indices, samples.to(self.device), generator)

    def view(self, batch: Batch) -> Tensor:
        """A random view of each sample of the batch, standardised, on the device."""
        view: Tensor = self._random_views(batch.samples, generator=batch.generator)
        return view

    def examples(self, number: int) -> tuple[Tensor, Tensor]:
        """Standardised validation samples and their labels, on the device."""
        chosen = torch.arange(number) % len(self.data.validation)
        samples = self.augmentation.normalise(self.data.validation.fetch(chosen).to(self.device))
        return samples, self.data.validation.labels[chosen].to(self.device)

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The samples that are scored, and how; see Task.benchmark."""
        return {"metric": self.metric, **self.options.model_dump(mode="json", include=set(self.compared))}
