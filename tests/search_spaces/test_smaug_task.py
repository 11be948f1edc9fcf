import itertools
from types import SimpleNamespace

import pytest
import torch

from naslab.errors import InputError
from naslab.search_spaces import TrainingDiverged, find_space, seed_everything
from naslab.search_spaces.data.text import SpecialIds, named_tokenizer, train_wordpiece
from naslab.search_spaces.data.video.tokenized import Choice, Open
from naslab.search_spaces.smaug.model import Video
from naslab.search_spaces.smaug.scoring import choice_accuracy, open_accuracy, text_to_video
from naslab.search_spaces.smaug.task import VideoLanguage, VideoLanguageOptions

SPACE = {
    "image_size": 16, "patch_size": 4, "clip_frames": 4, "width": 16, "depth": 2, "heads": 2, "text_tokens": 20,
    "embedding_width": 16, "decoder_width": 16,
}  # fmt: skip
DATA = {"train": 64, "validation": 32, "test": 32, "frames": 4, "image_size": 16}
TASK = {"dataset": DATA, "batch_size": 16, "epochs": 2, "learning_rate": 1e-3}


def make(space=None, **options):
    chosen = find_space("smaug", "tiny", {**SPACE, **(space or {})})
    return VideoLanguage(chosen, VideoLanguageOptions.model_validate({**TASK, **options}), torch.device("cpu"))


@pytest.fixture(scope="module")
def task():
    return make()


def built(task, **changed):
    seed_everything(0)
    return task.space.build(task.space.configuration({**task.space.reference.as_dict(), **changed}))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("changed", [{}, {"selection": "before", "estimator": "perturbed"}], ids=str)
def test_a_resumed_training_ends_bit_for_bit_like_an_unbroken_one(task, changed, tmp_path):
    whole = built(task, **changed)
    rungs = list(task.train(whole, 5))
    first = list(itertools.islice(task.train(built(task, **changed), 5, tmp_path), 1))
    torch.manual_seed(99)
    resumed = task.space.build(task.space.configuration({**task.space.reference.as_dict(), **changed}))
    rest = list(task.train(resumed, 5, tmp_path))
    assert equal(whole, resumed)
    assert [*first[:-1], *rest] == rungs  # the rung of the checkpoint is told again
    assert set(rungs[0].facts) == {"loss", "vtc", "vtm", "mlm", "mvm", "qa"}


def pairwise(model, pairs):
    """Every text with every video, one at a time, frames chosen for that text."""
    found = torch.zeros(len(pairs.captions_CW), len(pairs.video))
    for v in range(len(pairs.video)):
        video = model.watch(pairs.frames(torch.tensor([v]), model.design.frames))
        for q, ids in enumerate(pairs.captions_CW):
            text = model.text.encode(ids[None])[:, 0]
            seen = model.select(video, text)[:, :, 0].mean(1)
            found[q, v] = torch.cosine_similarity(model.project_text(text), model.project_video(seen))
    return found


@pytest.mark.parametrize("selection", ["after", "before"])
def test_similarities_choose_frames_for_every_pair(task, selection):
    model = built(task, selection=selection).eval()
    pairs = task.pairs["validation"]
    with torch.no_grad():
        found = text_to_video(model, pairs, 7)
        assert torch.allclose(found, pairwise(model, pairs), atol=1e-5)


def test_reranking_orders_the_best_by_the_matching_head(task):
    model, pairs = built(task).eval(), task.pairs["test"]
    with torch.no_grad():
        plain, ranked = text_to_video(model, pairs, 16), text_to_video(model, pairs, 16, rerank=4)
        for q in (0, 7, 31):
            best = plain[q].topk(4).indices
            assert set(ranked[q].topk(4).indices.tolist()) == set(best.tolist())
            rest = torch.ones(32, dtype=torch.bool).scatter(0, best, False)
            assert torch.equal(ranked[q][rest], plain[q][rest])
            video = model.watch(pairs.frames(best, model.design.frames))
            fit = model.fit(pairs.captions_CW[q].expand(4, -1), video)
            assert ranked[q][best].argsort().tolist() == fit.argsort().tolist()
            assert ranked[q][best].min() >= 2 > ranked[q][rest].max()


def test_reranking_tells_apart_what_fits_almost_surely(task):
    """A sigmoid would round log-odds of 16 and 18 to the same, and a lift by text would move texts of one clip."""
    model, pairs = built(task).eval(), task.pairs["test"]
    with torch.no_grad():
        model.fits.weight *= 1000
        ranked = text_to_video(model, pairs, 16, rerank=32)
        for v in (0, 31):
            video = model.watch(pairs.frames(torch.tensor([v]), model.design.frames))
            fits = torch.cat([model.fit(ids[None], video) for ids in pairs.captions_CW])
            order = fits.argsort()
            assert fits.sigmoid().unique().numel() < fits.unique().numel()
            assert torch.allclose(ranked[order, v].diff(), fits[order].diff().double(), atol=1e-2)


class Table:
    """A model whose log-odds and answers are looked up by clip and by the first token of a text."""

    def __init__(self, fits, answers):
        self.table, self.by_answer = fits, answers
        self.design, self.answer = SimpleNamespace(frames=1), True

    def parameters(self):
        return iter([torch.zeros(())])

    def watch(self, frames):
        return Video(frames, None)

    def fit(self, ids, video):
        return self.table[video.tokens_BTND.flatten(), ids[:, 0]]

    def answers(self, ids, video):
        return self.by_answer[video.tokens_BTND.flatten(), ids[:, 0]]


class Numbered:
    """Clips whose frames are their own numbers."""

    def __init__(self, choices=(), asked=None):
        self.choices, self.open = choices, asked

    def frames(self, clips, frames):
        return clips[:, None, None, None]


@pytest.mark.parametrize("seed", range(6))
def test_choices_that_fit_best_of_their_own_clip_share_the_point(seed):
    rng = torch.Generator().manual_seed(seed)
    fits = torch.randint(3, (7, 20), generator=rng).float()
    choices, points = [], 0.0
    for _ in range(23):
        clip, size = (int(torch.randint(*bounds, (), generator=rng)) for bounds in ((0, 7), (2, 6)))
        ids = torch.randint(20, (size, 3), generator=rng)
        choices.append(Choice(ids, clip, int(torch.randint(size, (), generator=rng))))
        mine = [fits[clip, first].item() for first in ids[:, 0]]
        points += (mine[choices[-1].right] == max(mine)) / mine.count(max(mine))
    for batch in (1, 5, 1000):
        assert choice_accuracy(Table(fits, None), Numbered(choices), batch) == pytest.approx(points / 23)


@pytest.mark.parametrize("seed", range(3))
def test_answers_are_the_likeliest_of_those_that_training_knew(seed):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.rand(7, 20, 9, generator=rng)
    ids, clips = torch.randint(20, (31, 3), generator=rng), torch.randint(7, (31,), generator=rng)
    answers = torch.randint(6, (31,), generator=rng)
    answers[:4] = -100
    right = [int(logits[c, i[0], :6].argmax()) == a for i, c, a in zip(ids, clips, answers, strict=True)]
    for batch in (4, 1000):
        pairs = Numbered(asked=Open(ids, clips, answers))
        assert open_accuracy(Table(None, logits), pairs, 6, batch) == pytest.approx(sum(right) / 31)


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.5])
def test_the_learning_rate_rises_and_falls_as_published(warmup, monkeypatch):
    """Linearly from 0, then by half a cosine to 0: transformers' schedule of the same steps."""
    from transformers import get_cosine_schedule_with_warmup

    task, seen = make(warmup=warmup, epochs=2, learning_rate=3e-3), []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self, *a: seen.append([g["lr"] for g in self.param_groups]) or step(self, *a)
    )
    list(task.train(built(task), 0))
    assert len(seen) == 8
    oracle = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=3e-3)
    schedule = get_cosine_schedule_with_warmup(oracle, round(8 * warmup), 8)
    for rates in seen:
        assert rates == pytest.approx([schedule.get_last_lr()[0]] * len(rates))
        oracle.step()
        schedule.step()


def test_weights_alone_decay_and_gradients_are_cut(monkeypatch):
    task, norms = make(weight_decay=0.3, clip_norm=0.05, epochs=1), []
    step = torch.optim.AdamW.step

    def watched(self, *arguments):
        for group in self.param_groups:
            assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] == 0.3}
        parts = [p.grad.square().sum() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack(parts).sum().sqrt().item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    list(task.train(built(task), 0))
    assert norms == pytest.approx([0.05] * 4, rel=1e-3)


def test_batches_pair_clips_with_their_own_texts(task):
    pairs = task.pairs["train"]
    clips = torch.tensor([5, 0, 63])
    batch = task.batch(pairs, clips, 4, torch.Generator().manual_seed(0), questions=True)
    for row, clip in enumerate(clips.tolist()):
        own = pairs.captions_CW[pairs.caption_clips == clip]
        assert (own == batch["text_ids"][row]).all(1).any()
        asked = pairs.open.clips_Q == clip
        both = torch.cat([pairs.open.ids_QW[asked], pairs.open.answers_Q[asked, None]], 1)
        given = torch.cat([batch["question_ids"][row], batch["answers"][row, None]])
        assert (both == given).all(1).any() or (not asked.any() and batch["answers"][row] == -100)


def test_scores_are_complete_and_their_mean_is_the_metric(task):
    scores = task.evaluate(built(task), "test")
    recalls = [f"{way}recall_at_{k}" for way in ("", "video_to_text_") for k in (1, 5, 10)]
    assert set(scores) == {
        *recalls, "median_rank", "video_to_text_median_rank", "mean_recall", "qa_top1", "choice_top1", "retrieval_qa",
    }  # fmt: skip
    assert scores["mean_recall"] == pytest.approx(sum(scores[n] for n in recalls) / 6)
    assert scores["retrieval_qa"] == pytest.approx((scores["mean_recall"] + scores["qa_top1"]) / 2)
    assert task.metric == "retrieval_qa"
    assert "choice_top1" not in task.evaluate(built(task), "validation", full=False)


def test_controls_are_blind_where_they_say_so(task):
    controls = {control.name: control for control in task.controls()}
    scores = {name: control.measure(0, "test") for name, control in controls.items()}
    chance = scores["chance"]
    assert chance["recall_at_1"] == pytest.approx(100 / 32)
    assert chance["choice_top1"] == pytest.approx(20)
    # Every clip looks alike: retrieval is exactly what guessing gives.
    assert scores["text_only"]["recall_at_5"] == pytest.approx(chance["recall_at_5"], abs=6)
    assert not any(pairs.blind for pairs in task.pairs.values())
    assert controls["text_only"].measure(0, "test") == scores["text_only"]
    assert scores["one_frame"].keys() == scores["untrained"].keys()


def test_the_example_input_is_fixed_and_fits_every_configuration(task):
    a, b = task.example_input(4), task.example_input(4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    for changed in ({}, {"frames": 1, "frames_kept": 1}, {"frames": 3, "frames_kept": 2}):
        assert torch.isfinite(built(task, **changed).eval()(**a)["loss"])


def test_weights_under_which_nothing_is_learned_from_the_data_are_refused():
    task = make(metric="mean_recall", dataset={**DATA, "questions": ["choice"]})
    with pytest.raises(InputError, match="both 0, and the data has no open questions"):
        next(task.train(built(task, vtc_weight=0.0, vtm_weight=0.0), 0))


def test_divergence_is_said(task):
    with pytest.raises(TrainingDiverged, match=r"loss is (nan|inf)"):
        list(make(learning_rate=1e30).train(built(task), 0))


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ({"in_channels": 3}, {}, "has 1x16x16 frames, the space takes 3x16x16"),
        ({"clip_frames": 5}, {}, "clip_frames: 5 is more than the 4 frames of a clip"),
        ({"answers": 3}, {}, "answers: 3 is less than the"),
        ({"answers": 0}, {}, "retrieval_qa needs open-ended questions"),
        ({}, {"batch_size": 65}, "batch_size: 65 is more than the 64 training clips"),
        ({}, {"tokenizer": "/no/such/folder"}, "task.tokenizer: cannot load"),
        (
            {},
            {"metric": "choice_top1", "dataset": {**DATA, "questions": ["direction"]}},
            "needs questions with options",
        ),
        ({"special": {"unk": 9}}, {}, "numbers its special tokens 0 to 4"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(space, options, message):
    with pytest.raises(InputError, match=message) as caught:
        make(space, **options)
    assert "\n" not in str(caught.value)


def test_the_tokenizer_is_the_same_every_time_and_cuts_and_pads(tmp_path):
    texts = ["a bag moves left", "a boot moves right then", "A BAG appears"] * 3
    first, second = (train_wordpiece(texts, 60, SpecialIds(), 6) for _ in range(2))
    assert torch.equal(first(texts), second(texts))
    ids = first(["a bag moves left moves left", "a", ""])
    assert ids.shape == (3, 6)
    assert ids[:, 0].tolist() == [1, 1, 1]
    assert ids[0, -1] == 2
    assert ids[2].tolist() == [1, 2, 0, 0, 0, 0]
    with pytest.raises(InputError, match=r"vocabulary: 20 is too small for text of 16 letters"):
        train_wordpiece(texts, 20, SpecialIds(), 6)
    with pytest.raises(InputError, match="training captions are empty"):
        train_wordpiece([" "], 60, SpecialIds(), 6)


def test_a_tokenizer_by_name_numbers_as_it_says(tmp_path):
    words = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "bag", "moves"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    from transformers import BertTokenizer

    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    tokenizer = named_tokenizer(str(tmp_path), 256, SpecialIds(), 6)
    assert tokenizer(["A bag moves", "boot"]).tolist() == [[1, 5, 6, 7, 2, 0], [1, 4, 2, 0, 0, 0]]
    with pytest.raises(InputError, match=r"numbers its special tokens .* set space.options.special"):
        named_tokenizer(str(tmp_path), 256, SpecialIds(mask=9), 6)


@pytest.mark.slow
def test_training_beats_chance():
    easy = {"events": ["move"], "questions": ["object", "count"], "classes": 4, "clutter": 0.0}
    data = {**DATA, "train": 768, "validation": 64, "test": 64, **easy}
    task = make(dataset=data, epochs=6, learning_rate=2e-3)
    model = built(task)
    list(task.train(model, 0))
    scores, chance = task.evaluate(model, "test"), task._chance(0, "test")
    assert scores["mean_recall"] > 2 * chance["mean_recall"]
    assert scores["qa_top1"] > 2 * chance["qa_top1"]
