"""Pre-training on captioned clips with questions trained along; scored by retrieval and by question answering."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from naslab.efficiency.inputs import Inputs
from naslab.efficiency.surroundings import seeded
from naslab.errors import InputError
from naslab.search_spaces.common.controls import trained, untrained
from naslab.search_spaces.common.scores import chance_scores, retrieval_scores
from naslab.search_spaces.common.tasks import EpochTask
from naslab.search_spaces.common.training import adamw, set_learning_rate, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.common.training.policy import PolicyOptions
from naslab.search_spaces.common.training.together import check_alone
from naslab.search_spaces.data import check_fit
from naslab.search_spaces.data.ahead import ahead
from naslab.search_spaces.data.placing import sent_batch
from naslab.search_spaces.data.video import VideoTextOptions, load_video_text
from naslab.search_spaces.data.video.tokenized import TokenizedClips, tokenized
from naslab.search_spaces.options import Mechanical, Options
from naslab.search_spaces.seeds import derive_seed, seed_everything
from naslab.search_spaces.smaug.model import VideoLanguageModel
from naslab.search_spaces.smaug.scoring import choice_accuracy, open_accuracy, text_to_video
from naslab.search_spaces.smaug.space import SMAUG
from naslab.search_spaces.task import Control, Rung, Split

Metric = Literal["retrieval_qa", "mean_recall", "recall_at_1", "recall_at_5", "recall_at_10", "qa_top1", "choice_top1"]


class VideoLanguageOptions(Options):
    """Data, budget, recipe and evaluation."""

    dataset: VideoTextOptions = VideoTextOptions()
    epochs: int = Field(gt=0)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(1e-4, gt=0)
    """Singularity's; models trained from nothing on little data want about ten times as much."""
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; then it falls by half a cosine."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    metric: Metric = "retrieval_qa"
    rung_epochs: int = Field(1, gt=0)
    policy: PolicyOptions = PolicyOptions()
    rerank: int = Field(0, ge=0)
    """How many of each text's best videos are ordered anew by the matching head, on `test` only; 0: none."""
    tokenizer: str | None = None
    """A tokenizer by name or path; None: a WordPiece trained on the training text."""
    evaluation_batch: Annotated[int, Mechanical()] = Field(128, gt=0)


class VideoLanguage(EpochTask):
    """Trains a SMAUG model on pairs of clips and captions, with one open-ended question a clip."""

    percentages = frozenset(get_args(Metric))
    Options = VideoLanguageOptions
    space: SMAUG
    options: VideoLanguageOptions

    def __init__(self, space: SMAUG, options: VideoLanguageOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        self.metric = options.metric
        self.data = load_video_text(options.dataset)
        self._check_fit()
        texts = (space.bert.vocab_size, space.options.special, space.options.text_tokens)
        self.pairs = tokenized(self.data, options.tokenizer, *texts)
        blind = "the reference model, trained and scored on black frames"
        one = "the reference model with one frame a clip"
        self._controls = (
            Control("chance", "every pair alike, the most frequent answer, any option", self._chance, seeded=False),
            untrained(self),
            trained("text_only", blind, partial(self._reference, blind=True), partial(self._scores, blind=True)),
            trained("one_frame", one, partial(self._reference, frames=1, frames_kept=1), self._scores),
        )

    def _check_fit(self) -> None:
        data, sizes, options = self.data, self.space.options, self.options
        check_fit(data, sizes.in_channels, sizes.image_size, options.batch_size)
        if data.train.frames < sizes.clip_frames:
            raise InputError(
                f"space.options.clip_frames: {sizes.clip_frames} is more than the {data.train.frames} frames of a "
                "clip; lower it or raise task.dataset.frames"
            )
        if len(data.answers) > sizes.answers > 0:
            raise InputError(
                f"space.options.answers: {sizes.answers} is less than the {len(data.answers)} answers of the data"
            )
        if options.metric in ("qa_top1", "retrieval_qa") and not (data.answers and sizes.answers):
            raise InputError(f"task.metric: {options.metric} needs open-ended questions and space.options.answers")
        choices = any(q.options for q in data.validation.questions) and any(q.options for q in data.test.questions)
        if options.metric == "choice_top1" and not choices:
            raise InputError("task.metric: choice_top1 needs questions with options, this data set has none")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.data.train) // self.options.batch_size

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """AdamW with warm-up and half a cosine; rungs carry every part of the loss. See Task.train."""
        return self._train(cast(VideoLanguageModel, model), self.pairs["train"], seed, checkpoint)

    def _train(
        self, model: VideoLanguageModel, pairs: TokenizedClips, seed: int, checkpoint: Path | None
    ) -> Iterator[Rung]:
        model.to(self.device)
        options, design = self.options, model.design
        if not (design.vtc_weight or design.vtm_weight or self.data.answers):
            raise InputError(
                "vtc_weight, vtm_weight: both 0, and the data has no open questions, so nothing joins video and text"
            )
        optimiser = adamw(model.named_parameters(), options.learning_rate, options.weight_decay)
        batches = partial(self._steps, pairs=pairs, seed=seed)
        clip_norm, wanted = options.clip_norm, Wanted.by(self)
        check_alone("pairs are told apart within the whole batch")
        return train_in_rungs(model, optimiser, batches, _loss, options, seed, checkpoint, clip_norm, wanted)

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, pairs: TokenizedClips, seed: int
    ) -> Iterator[dict[str, Tensor]]:
        options, video_language = self.options, cast(VideoLanguageModel, model)
        frames, asks = video_language.design.frames, video_language.answer is not None
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        order = torch.randperm(len(pairs), generator=generator)
        steps = self.steps_per_epoch
        parts = order.split(options.batch_size)[:steps]
        for step, batch in enumerate(
            ahead(lambda p: self._batch(pairs, p, frames, generator, asks), parts, self.device)
        ):
            set_learning_rate(optimiser, (epoch + step / steps) / options.epochs, options.warmup)
            yield sent_batch(batch, self.device)

    def batch(
        self,
        pairs: TokenizedClips,
        clips: Tensor,
        frames: int,
        generator: torch.Generator | None = None,
        questions: bool = False,
    ) -> dict[str, Tensor]:
        """What the training forward takes; without generator the first caption and question of each clip."""
        return sent_batch(self._batch(pairs, clips, frames, generator, questions), self.device)

    def _batch(
        self, pairs: TokenizedClips, clips: Tensor, frames: int, generator: torch.Generator | None, questions: bool
    ) -> dict[str, Tensor]:
        options, number = self.space.options, len(clips)
        drawn = torch.rand(number, 2, generator=generator) if generator else torch.zeros(number, 2)
        batch = {
            "frames": pairs.frames(clips, frames, generator),
            "text_ids": pairs.caption(clips, drawn[:, 0]),
            "visual_noise": torch.rand(number, frames, options.patches, generator=generator),
            "text_noise": torch.rand(number, options.text_tokens, 3, generator=generator),
            "negative_noise": torch.rand(number, 2, generator=generator),
        }
        if questions and len(pairs.open.clips_Q):
            batch["question_ids"], batch["answers"] = pairs.question(clips, drawn[:, 1])
        return batch

    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Retrieval and question answering with nothing masked and the sparsification on, in percent.

        `recall_at_1`, `_5`, `_10` and `median_rank` are text to video, `video_to_text_...` the way back, `mean_recall`
        the mean of the six recalls; `qa_top1` is open-ended, `choice_top1` the best matching option; `retrieval_qa`
        is the mean of `mean_recall` and `qa_top1`.
        """
        return self._scores(cast(VideoLanguageModel, model), split, full)

    @torch.no_grad()
    def _scores(
        self, model: VideoLanguageModel, split: Split, full: bool = True, blind: bool = False
    ) -> dict[str, float]:
        model.to(self.device).eval()
        options, pairs = self.options, self._shown(split, blind)
        batch, metric = options.evaluation_batch, options.metric
        scores: dict[str, float] = {}
        if full or metric not in ("qa_top1", "choice_top1"):
            rerank = options.rerank if split == "test" else 0
            scores = retrieval_scores(text_to_video(model, pairs, batch, rerank), pairs.caption_clips)
        if model.answer is not None and len(pairs.open.clips_Q) and (full or metric in ("qa_top1", "retrieval_qa")):
            scores["qa_top1"] = 100 * open_accuracy(model, pairs, len(self.data.answers), batch)
        if pairs.choices and (full or metric == "choice_top1"):
            scores["choice_top1"] = 100 * choice_accuracy(model, pairs, batch)
        return self._joined(scores)

    def _shown(self, part: str, blind: bool) -> TokenizedClips:
        return self.pairs[part].blinded() if blind else self.pairs[part]

    def _joined(self, scores: dict[str, float]) -> dict[str, float]:
        if self.metric in ("qa_top1", "retrieval_qa") and self.data.answers:
            scores.setdefault("qa_top1", 0.0)  # a configuration without a head answers nothing
        if "mean_recall" in scores and "qa_top1" in scores:
            scores["retrieval_qa"] = (scores["mean_recall"] + scores["qa_top1"]) / 2
        return scores

    def controls(self) -> tuple[Control, ...]:
        """What guessing, the text alone, a single frame and an untrained model score."""
        return self._controls

    def _chance(self, seed: int, split: Split) -> dict[str, float]:
        pairs, trained = self.pairs[split], self.pairs["train"].open.answers_Q
        scores = chance_scores(pairs.caption_clips, len(pairs))
        if len(pairs.open.clips_Q) and len(self.data.answers):
            most_frequent = torch.bincount(trained[trained >= 0]).argmax()
            scores["qa_top1"] = 100 * (pairs.open.answers_Q == most_frequent).float().mean().item()
        if pairs.choices:
            scores["choice_top1"] = 100 * sum(1 / len(c.ids_OW) for c in pairs.choices) / len(pairs.choices)
        return self._joined(scores)

    def _reference(self, seed: int, blind: bool = False, **changed: int) -> VideoLanguageModel:
        """The reference with other values, trained."""
        seed_everything(seed)
        model = self.space.build(self.space.configuration({**self.space.reference.as_dict(), **changed}))
        for _ in self._train(model, self._shown("train", blind), seed, None):
            pass
        return model

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The clips and texts that are scored, and how; see Task.benchmark."""
        return self.options.model_dump(mode="json", include={"metric", "dataset", "rerank"})

    def example_input(self, batch_size: int) -> Inputs:
        """Validation clips with all their frames, of which a model takes its own, and fixed noise; no questions."""
        pairs = self.pairs["validation"]
        clips = torch.arange(batch_size) % len(pairs)
        with seeded(0, self.device):
            return self.batch(pairs, clips, self.space.options.clip_frames)


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return model(**batch)  # type: ignore[no-any-return]
