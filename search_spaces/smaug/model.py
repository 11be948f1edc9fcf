"""SMAUG (Lin et al. 2023): a masked autoencoder over frames and text, with sparse space and time, and its losses.

The paper's body and code are not public: the skeleton is Singularity's (ALBEF's losses), what is inferred says so in
docs/smaug.md. Loss = sum of weighted parts: contrastive (vtc), matching (vtm), masked words (mlm), masked pixels (mvm),
and answers (qa) where questions are given.

Names: B clips with a text each, T frames in, K frames kept, N tokens and L patches of a frame, W words, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from naslab.kernels import patch_loss, token_mask
from naslab.search_spaces.common.modules.bert import DividedBert
from naslab.search_spaces.common.modules.masked_lm import load_masked_lm
from naslab.search_spaces.common.modules.top_k import Chosen
from naslab.search_spaces.common.objectives.contrastive import contrastive_loss, same_text
from naslab.search_spaces.common.objectives.float32 import in_float32
from naslab.search_spaces.common.objectives.hidden_places import at_places
from naslab.search_spaces.common.objectives.masked_words import labelled_loss, mask_words
from naslab.search_spaces.common.objectives.matching import hard_negatives, matching_loss
from naslab.search_spaces.data.placing import constant
from naslab.search_spaces.data.video.sets import middle_frames
from naslab.search_spaces.smaug.design import Design
from naslab.search_spaces.smaug.encoder import Encoded, FrameDecoder, FrameEncoder, frame_features
from naslab.search_spaces.smaug.options import SMAUGOptions
from naslab.search_spaces.smaug.selector import FrameSelector

TEMPERATURE, COLDEST, WARMEST = 0.07, 0.001, 0.5


class Video(NamedTuple):
    """Encoded clips: tokens (B, T, N, D) of each frame, and what frames are judged by (B, T, 2D).

    Where only the kept frames were encoded, there are no features, and T is K.
    """

    tokens_BTND: Tensor
    features_BTF: Tensor | None

    def of(self, clips: Tensor) -> Video:
        """The clips with the given numbers."""
        return Video(self.tokens_BTND[clips], None if self.features_BTF is None else self.features_BTF[clips])


class VideoLanguageModel(nn.Module):
    """Video and language encoders, fusion, frame selector and decoder of one configuration."""

    def __init__(self, sizes: SMAUGOptions, bert: BertConfig, design: Design) -> None:
        super().__init__()
        self.sizes, self.design, self.vocabulary = sizes, design, bert.vocab_size
        width, text_width, joint = sizes.width, bert.hidden_size, sizes.embedding_width
        self.encoder = FrameEncoder(sizes, design.frames, design.reduction(sizes.depth))
        pretrained = None
        if sizes.text_model is not None:
            pretrained = load_masked_lm(sizes.text_model, where="space.options.text_model", head=design.models_words)
        self.text = DividedBert(bert, sizes.fusion_layers, width, design.models_words, pretrained)
        self.project_video, self.project_text = nn.Linear(width, joint), nn.Linear(text_width, joint)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))
        self.fits = nn.Linear(text_width, 2)
        self.selector: FrameSelector | None = None
        self.decoder: FrameDecoder | None = None
        self.answer: nn.Module | None = None
        if design.selects:
            noise = (sizes.selector_samples, sizes.selector_sigma)
            self.selector = FrameSelector(2 * width, text_width, design.frames_kept, design.estimator, *noise)
        if design.models_pixels:
            self.decoder = FrameDecoder(sizes, design.decoder_depth)
        if sizes.answers and design.qa_weight:
            self.answer = nn.Sequential(
                nn.Linear(text_width, text_width), nn.GELU(), nn.Linear(text_width, sizes.answers)
            )

    def forward(
        self,
        frames: Tensor,
        text_ids: Tensor,
        visual_noise: Tensor,
        text_noise: Tensor,
        negative_noise: Tensor,
        question_ids: Tensor | None = None,
        answers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The training loss first, then its parts, detached.

        Args:
            frames: (B, T, C, H, W), normalised; of more frames than the configuration's, the middles of equal
                segments are taken.
            text_ids: (B, W), padded.
            visual_noise: (B, T, L) uniform in [0, 1): the patches of most noise are masked.
            text_noise: (B, W, 3), see `mask_words`.
            negative_noise: (B, 2), see `hard_negatives`.
            question_ids: (B, W) one question for each clip, with `answers` (B,), -100 where there is none.
        """
        design, sizes = self.design, self.sizes
        frames, visual_noise = self._own_frames(frames), self._own_frames(visual_noise)
        parts: dict[str, Tensor] = {}
        hidden = None
        if design.models_words:
            hidden = mask_words(text_ids, text_noise, design.text_masking_ratio, sizes.special, self.vocabulary)
        joint = hidden is not None and design.text_masking == "joint"
        read_ids = hidden.ids_BL if hidden is not None and joint else text_ids
        text = self.text.encode(read_ids)
        video, pixels = self._watch(frames, visual_noise, text[:, 0])
        if pixels is not None:
            parts["mvm"] = pixels
        same = same_text(text_ids)
        similarity = self._similarity(text[:, 0], video)
        parts["vtc"] = contrastive_loss(similarity, same)
        fused, parts["vtm"] = self._match(text, read_ids, video, similarity, same, negative_noise)
        if hidden is not None:
            if not joint:
                fused = self._fuse(self.text.encode(hidden.ids_BL), hidden.ids_BL, video)
            assert self.text.words is not None
            parts["mlm"] = labelled_loss(self.text.words(fused), hidden.labels_BL)
        if question_ids is not None and answers is not None and self.answer is not None:
            parts["qa"] = labelled_loss(self.answers(question_ids, video), answers)
        weighted = [getattr(design, f"{name}_weight") * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum(), **{name: part.detach() for name, part in parts.items()}}

    def _own_frames(self, values_BT: Tensor) -> Tensor:
        given, wanted = values_BT.shape[1], self.design.frames
        if given == wanted:
            return values_BT
        return values_BT[:, constant(middle_frames(given, wanted), values_BT.device)]

    def _watch(self, frames: Tensor, noise: Tensor, text_BD: Tensor) -> tuple[Video, Tensor | None]:
        """Encode the visible patches in training, of all frames or those that the text keeps; rebuild the masked."""
        patches, features = self.encoder.embed(frames), None
        if self.selector is not None and self.design.selection == "before":
            chosen = self.selector(frame_features(patches), text_BD)
            patches, frames = chosen.take(patches), chosen.take(frames).detach()
            noise = at_places(noise, chosen.kept_BK)
        batch, times = frames.shape[:2]
        mask = None
        if self.design.visual_masking_ratio > 0:
            mask = token_mask(noise.flatten(0, 1), self.design.visible(self.sizes.patches))
        encoded = self.encoder(patches.flatten(0, 1), mask)
        tokens = encoded.tokens_FND.unflatten(0, (batch, times))
        if self.selector is not None and self.design.selection == "after":
            features = _features(encoded, tokens)
        pixels = None
        if self.decoder is not None and mask is not None:
            predicted_FMP = self.decoder(encoded, mask.masked_BM)
            shown_FCHW = frames.flatten(0, 1)
            pixels = in_float32(patch_loss)(predicted_FMP, shown_FCHW, mask.masked_BM, self.sizes.patch_size)
        return Video(tokens, features), pixels

    def _match(
        self, text: Tensor, ids: Tensor, video: Video, similarity: Tensor, same: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fusion of the pairs (B, W, D) and the matching loss against one wrong video and one wrong text each."""
        wrong, own = hard_negatives(similarity, same, noise), torch.arange(len(text), device=text.device)
        texts = torch.cat([own, own, wrong.text_B])
        fused = self._fuse(text[texts], ids[texts], video.of(torch.cat([own, wrong.video_B, own])))
        return fused[: len(text)], matching_loss(self.fits(fused[:, 0]), wrong.valid_B)

    def _similarity(self, text_BD: Tensor, video: Video) -> Tensor:
        """Scaled cosines (B, B) of texts (rows) and videos, as evaluation has them."""
        if self.training:
            with torch.no_grad():
                self.temperature.clamp_(COLDEST, WARMEST)
        return self.similarities(text_BD, video.tokens_BTND[:, :, 0], video.features_BTF) / self.temperature

    def _fuse(self, text_BWD: Tensor, ids_BW: Tensor, video: Video) -> Tensor:
        """Fusion (B, W, D) of texts with the frames that each keeps of its clip."""
        return self.text.fuse(text_BWD, ids_BW, self.select(video, text_BWD[:, 0]).flatten(1, 2))

    def select(self, video: Video, text_BD: Tensor) -> Tensor:
        """Tokens (B, K, N, D) of the frames that are kept for each clip's text."""
        if self.selector is None or video.features_BTF is None:
            return video.tokens_BTND
        chosen: Chosen = self.selector(video.features_BTF, text_BD)
        return chosen.take(video.tokens_BTND)

    def watch(self, frames: Tensor) -> Video:
        """Every frame of the clips, nothing masked, sparsified as in training: what evaluation starts from."""
        patches = self.encoder.embed(frames)
        encoded = self.encoder(patches.flatten(0, 1), None)
        tokens = encoded.tokens_FND.unflatten(0, frames.shape[:2])
        if self.selector is None:
            return Video(tokens, None)
        before = self.design.selection == "before"
        return Video(tokens, frame_features(patches) if before else _features(encoded, tokens))

    def similarities(self, text_QD: Tensor, classes_VTD: Tensor, features_VTF: Tensor | None) -> Tensor:
        """Cosine (Q, V) of every text and every video, whose frames are chosen for that text alone.

        A video never sees a text other than the query's: which frames its own caption chose would give that away, and
        a contrastive loss learns to read it. Frames are encoded one by one, so in evaluation choosing before or after
        encoding is the same here.
        """
        text_QE, frames_VTE = self.project_text(text_QD), self.project_video(classes_VTD)
        if self.selector is None or features_VTF is None:
            return _cosines(text_QE, frames_VTE, None)
        return _cosines(text_QE, frames_VTE, self.selector.shares_of_all(features_VTF, text_QD))

    def fit(self, ids: Tensor, video: Video) -> Tensor:
        """How much better each text (B, W) fits its clip than not, as log-odds (B,)."""
        logits: Tensor = self.fits(self._fuse(self.text.encode(ids), ids, video)[:, 0])
        return logits[:, 1] - logits[:, 0]

    def answers(self, ids: Tensor, video: Video) -> Tensor:
        """Logits (B, A) over the answers, one question (B, W) for each clip, of a model with an answer head."""
        assert self.answer is not None
        answers: Tensor = self.answer(self._fuse(self.text.encode(ids), ids, video)[:, 0])
        return answers


@in_float32
def _cosines(text_QE: Tensor, frames_VTE: Tensor, shares_QVT: Tensor | None) -> Tensor:
    text_QE = F.normalize(text_QE, dim=-1)
    if shares_QVT is None:
        return text_QE @ F.normalize(frames_VTE.mean(1), dim=-1).T
    video_QVE = F.normalize(torch.einsum("qvt,vte->qve", shares_QVT.to(frames_VTE.dtype), frames_VTE), dim=-1)
    return torch.einsum("qe,qve->qv", text_QE, video_QVE)


def _features(encoded: Encoded, tokens_BTND: Tensor) -> Tensor:
    """What the encoded frames are judged by, (B, T, 2D), without their class tokens."""
    sizes = encoded.sizes_FN
    shaped = None if sizes is None else sizes.unflatten(0, tokens_BTND.shape[:2])[:, :, 1:]
    return frame_features(tokens_BTND[:, :, 1:], shaped)
