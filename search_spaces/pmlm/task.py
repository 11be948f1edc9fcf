"""Pre-training under conventional and pseudo masks, scored by held-out masked words and by fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.efficiency.inputs import Inputs
from naslab.errors import InputError
from naslab.search_spaces.common import controls
from naslab.search_spaces.common.objectives.fates import Fates
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.common.objectives.masked_blocks import NOISE, Masked, Masking, mask
from naslab.search_spaces.common.tasks import StepBudget, StepTask
from naslab.search_spaces.common.training import adamw, train_in_rungs
from naslab.search_spaces.common.training.choice import Wanted
from naslab.search_spaces.data.placing import sent
from naslab.search_spaces.data.text import IGNORED, TextOptions
from naslab.search_spaces.data.text.pieces import PieceBatches, load_pieces
from naslab.search_spaces.data.text.places import data_of
from naslab.search_spaces.parameters import When
from naslab.search_spaces.pmlm.classification import Classification, ClassificationOptions
from naslab.search_spaces.pmlm.generation import Generation, GenerationOptions
from naslab.search_spaces.pmlm.model import PseudoMaskedLM
from naslab.search_spaces.pmlm.space import PMLM
from naslab.search_spaces.seeds import derive_seed
from naslab.search_spaces.task import Control, Rung, Split

BETAS = (0.9, 0.98)
SCORED = Masking(exact=True, fates=Fates(1.0, 0.0))
"""How texts are masked for scores, whatever a configuration trains with: the paper's blocks, all of them [MASK]."""


class PretrainingOptions(StepBudget):
    """Text, budget and recipe, and what the model is fine-tuned for."""

    data: TextOptions = TextOptions()
    tokenizer: str | None = None
    """By name or folder; None: that of `space.options.text_model`, or a WordPiece trained on the training part."""
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(0.01, ge=0, le=100)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps in which the learning rate rises, before it falls along a cosine; published 4.8 %."""
    rung_windows: int = Field(256, gt=0)
    """How many windows a rung's score may use; the full evaluation uses all."""
    downstream: Literal["none", "classification", "generation"] = "none"
    """What ranks: masked words alone, or a copy that is fine-tuned on labelled sentences or on pairs of texts."""
    classification: Annotated[ClassificationOptions, When("downstream", ("classification",))] = ClassificationOptions()
    generation: Annotated[GenerationOptions, When("downstream", ("generation",))] = GenerationOptions()


class PseudoMaskedPretraining(StepTask):
    """Trains a pseudo-masked language model by AdamW with warm-up and cosine.

    Without a downstream task `masked_accuracy` ranks: percent of held-out masked tokens predicted right, all at once.
    With one, a copy is fine-tuned at every scoring, rungs included: `classification_top1` or `rouge_l` ranks.
    """

    percentages = frozenset({"masked_accuracy", Classification.metric, Generation.metric})
    Options = PretrainingOptions
    space: PMLM
    options: PretrainingOptions

    def __init__(self, space: PMLM, options: PretrainingOptions, device: torch.device) -> None:
        super().__init__(space, options, device)
        sizes = space.options
        self.batching = PieceBatches(options.batch_size, sizes.context, sizes.special)
        tokenizer = options.tokenizer or sizes.text_model
        with data_of("task.data"):
            self.data = load_pieces(options.data, space.vocabulary, sizes.special, sizes.context, tokenizer)
            self.batches_per_pass = self.batching.per_pass(self.data.train)
        if sizes.text_model is not None:  # what its checkpoint lacks is said before any time is spent
            space.build(space.reference)
        self.downstream = self._downstream()
        self.metric = "masked_accuracy" if self.downstream is None else self.downstream.metric
        as_bert = "BERT's own masks, single tokens predicted at once, trained for as many steps"
        self._bert = controls.trained_as(self, "bert", as_bert, space.published["bert"])

    def _downstream(self) -> Classification | Generation | None:
        options, positions = self.options, self.space.positions
        match options.downstream:
            case "classification":
                _fit(options.classification.tokens, positions, "task.classification.tokens")
                return Classification(options.classification, self.data.tokenizer, self.device)
            case "generation":
                tokens = options.generation.source_tokens + options.generation.target_tokens
                _fit(tokens, positions, "task.generation.source_tokens and target_tokens")
                return Generation(options.generation, self.data.tokenizer, self.device)
        return None

    def train(self, model: nn.Module, seed: int, checkpoint: Path | None = None) -> Iterator[Rung]:
        """Train for the budget; see Task.train. Facts of a rung: `loss`, its parts `ae`, `par`, `steps`, `tokens`."""
        model.to(self.device)
        options = self.options
        optimiser = adamw(model.named_parameters(), options.learning_rate, options.weight_decay, BETAS)
        batches = partial(self._steps, seed=seed)
        wanted = Wanted.by(self)
        for rung in train_in_rungs(model, optimiser, batches, _loss, options, seed, checkpoint, wanted=wanted):
            steps = rung.epoch * self.steps_per_epoch
            tokens = steps * options.batch_size * self.batching.words
            yield replace(rung, facts={**rung.facts, "steps": steps, "tokens": tokens})

    def _steps(
        self, model: nn.Module, optimiser: torch.optim.Optimizer, epoch: int, seed: int
    ) -> Iterator[dict[str, Tensor]]:
        for step in self.scheduled_steps(optimiser, epoch, self.options.warmup):
            generator = torch.Generator().manual_seed(derive_seed(seed, "masks", step))
            ids = self.batching.batch(self.data.train, seed, step)
            yield {"ids": sent(ids, self.device), "noise": sent(_noise(ids, generator), self.device)}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: Split, full: bool = True) -> dict[str, float]:
        """Scores of all windows of a part, of the first `rung_windows` if not `full`, always under the same masks.

        `masked_accuracy` (percent) and `masked_loss` (nats a token): masked tokens predicted all at once. `order_loss`
        (nats): block after block where the model was trained for that. With a downstream task its score, too.
        """
        network = cast(PseudoMaskedLM, model).to(self.device).eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        for masked in self._masked(split, full):
            sums += _sums(network, masked)
        right, nats, joint, number = sums.tolist()
        scores = {"masked_accuracy": 100 * right / number, "masked_loss": nats / number, "order_loss": joint / number}
        if self.downstream is None:
            return scores
        with torch.enable_grad():
            return {**scores, **self.downstream.scores(network, split, full)}

    def _masked(self, split: Split, full: bool) -> Iterator[Masked]:
        generator = torch.Generator().manual_seed(derive_seed(0, "scored masks", split))
        for ids in self.batching.evaluation(self.data.of(split), None if full else self.options.rung_windows):
            noise = _noise(ids, generator)
            masked = mask(ids, noise, SCORED, self.space.options.special, self.space.vocabulary)
            yield torch.utils._pytree.tree_map(lambda tensor: tensor.to(self.device), masked)

    def controls(self) -> tuple[Control, ...]:
        """What needs no network, the reference as initialised, and BERT's own objective."""
        words = "always the most frequent token" if self.downstream is None else self.downstream.trivial
        return Control("baseline", words, self._baseline, seeded=False), controls.untrained(self), self._bert

    def _baseline(self, seed: int, split: Split) -> dict[str, float]:
        if self.downstream is not None:
            return self.downstream.baseline(split)
        frequent = self.data.train.bincount().argmax()
        right = number = 0
        for masked in self._masked(split, full=True):
            masked_BM = masked.slots.steps_BM > 0
            right += int(((masked.slots.originals_BM == frequent) & masked_BM).sum())
            number += int(masked_BM.sum())
        return {"masked_accuracy": 100 * right / number}

    @property
    def benchmark(self) -> Mapping[str, Any]:
        """The text by its hash, its tokens, and what is asked of them; see Task.benchmark."""
        options, sizes = self.options, self.space.options
        if self.downstream is not None:
            recipe = options.model_dump(mode="json", include={"downstream", options.downstream})
            return {"metric": self.metric, "downstream_sha256": self.downstream.sha256, **recipe}
        return {
            "metric": self.metric,
            "text_sha256": self.data.sha256,
            **options.data.model_dump(mode="json", include={"corpus", "validation", "test"}),
            "tokenizer": options.tokenizer or sizes.text_model,
            "vocabulary": self.space.vocabulary,
            "context": sizes.context,
        }

    def example_input(self, batch_size: int) -> Inputs:
        """Windows of the validation part, and the noise of their masks."""
        ids = self.batching.evaluation(self.data.validation, 1)[0].expand(batch_size, -1).contiguous()
        noise = _noise(ids, torch.Generator().manual_seed(derive_seed(0, "example")))
        return {"ids": ids.to(self.device), "noise": noise.to(self.device)}


def _noise(ids_BL: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(*ids_BL.shape, NOISE, generator=generator)


def _loss(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return model(**batch)  # type: ignore[no-any-return]


def _sums(model: PseudoMaskedLM, masked: Masked) -> Tensor:
    """Right predictions and nats of tokens predicted at once, nats block after block, and how many are masked."""
    slots, plan = masked.slots, model.plan
    labels = slots.originals_BM.masked_fill(slots.steps_BM == 0, IGNORED)
    text_BLD, pseudo_BMD = model.states(masked.ids_BL, slots if plan.pseudo_weight else None)
    if plan.autoencoding:
        at_once_BMD = at_places(text_BLD, slots.places_BM)
    else:
        together = slots._replace(steps_BM=slots.steps_BM.clamp(max=1))
        at_once_BMD = cast(Tensor, model.states(masked.ids_BL, together)[1])
    logits_BMV = model.logits(at_once_BMD)
    at_once = _nats(logits_BMV, labels)
    ordered = at_once if pseudo_BMD is None else _nats(model.logits(pseudo_BMD), labels)
    right = (logits_BMV.argmax(-1) == labels).sum()
    return torch.stack([right.double(), at_once, ordered, (labels != IGNORED).sum().double()])


def _nats(logits_BMV: Tensor, labels_BM: Tensor) -> Tensor:
    flat = logits_BMV.float().flatten(0, 1)
    return F.cross_entropy(flat, labels_BM.flatten(), ignore_index=IGNORED, reduction="sum").double()


def _fit(tokens: int, positions: int, where: str) -> None:
    if tokens > positions:
        raise InputError(f"{where}: {tokens} tokens are more than the {positions} positions of the model")
