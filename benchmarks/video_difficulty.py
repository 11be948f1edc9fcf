"""Is time needed? Questions about direction and order from the text alone, from one frame and from all frames.

Usage: python benchmarks/video_difficulty.py [--seeds 3] [--epochs 6] [--out benchmarks/results/video_difficulty.json]

Three models of the same kind answer the open-ended direction and order questions of generated clips that none was
trained on: a convolution over the frames that they see (none, the middle one, one at random, all), joined with the
words of the question. Chance is one over the number of answers that a question's text allows, averaged over the
questions. The file also holds the clips per second at which batches are drawn, with one process and with two.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from results_file import write_result
from torch import Tensor, nn
from torch.nn import functional as F

from naslab.nas.statistics import mean_interval
from naslab.search_spaces.data.video import Question, VideoText, VideoTextData, VideoTextOptions, load_video_text

RESULT = Path(__file__).parent / "results" / "video_difficulty.json"
KINDS = ("direction", "order")
MODELS = {"text only": 0, "middle frame": 1, "random frame": 1, "all frames": 8}
BATCH = 128
TRAIN_CLIPS, TEST_CLIPS = 8192, 1024
THROUGHPUT_BATCH, THROUGHPUT_SECONDS = 128, 3.0


class Answerer(nn.Module):
    """Frames as channels through convolutions, joined with a bag of the question's words."""

    def __init__(self, frames: int, words: int, answers: int, width: int = 32) -> None:
        super().__init__()
        self.frames = frames
        self.words = nn.EmbeddingBag(words, 2 * width)
        if frames:
            self.convolutions = nn.Sequential(
                nn.Conv2d(frames, width, 5, 2, 2, padding_mode="circular"),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, 2 * width, 3, 2, 1, padding_mode="circular"),
                nn.BatchNorm2d(2 * width),
                nn.ReLU(),
                nn.Conv2d(2 * width, 2 * width, 3, 1, 1, padding_mode="circular"),
            )
        self.head = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, answers))

    def forward(self, clips_BTHW: Tensor, words_BL: Tensor) -> Tensor:
        """Logits (B, answers)."""
        words = self.words(words_BL)
        if not self.frames:
            return self.head(torch.cat([words, torch.zeros_like(words)], 1))
        seen = self.convolutions(clips_BTHW)
        # The question decides which places count: attention by the words, then the mean and the words themselves.
        weight = torch.einsum("bchw,bc->bhw", seen, words).flatten(1).div(seen.shape[1] ** 0.5).softmax(1)
        return self.head(torch.cat([words, torch.einsum("bcn,bn->bc", F.relu(seen.flatten(2)), weight)], 1))


def train_and_test(name: str, data: VideoTextData, seed: int, epochs: int) -> dict[str, float]:
    """Accuracy on the test questions, by kind and over all."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    questions = asked(data.train)
    vocabulary = {w: n for n, w in enumerate(sorted({w for q in questions for w in tokens(q)}), 1)}
    answers = {a: n for n, a in enumerate(sorted({q.answer for q in questions}))}
    frames = MODELS[name]
    model = Answerer(frames, len(vocabulary) + 1, len(answers))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * (len(questions) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)

    def batch(split: VideoText, part: list[Question], draw: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        clips = split.fetch(torch.tensor([q.clip for q in part]), max(frames, 1), draw)[:, :, 0].float() / 255
        lines = [[vocabulary.get(w, 0) for w in tokens(q)] for q in part]
        longest = max(len(line) for line in lines)
        words = torch.tensor([line + [0] * (longest - len(line)) for line in lines])
        target = torch.tensor([answers[q.answer] for q in part])
        return (clips - data.mean[0]) / data.std[0], words, target

    random_frame = generator if name == "random frame" else None
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(questions), generator=generator).tolist()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            part = [questions[i] for i in order[start : start + BATCH]]
            clips, words, target = batch(data.train, part, random_frame)
            loss = F.cross_entropy(model(clips, words), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    right: dict[str, list[float]] = defaultdict(list)
    test = asked(data.test)
    with torch.no_grad():
        for start in range(0, len(test), BATCH):
            part = test[start : start + BATCH]
            clips, words, target = batch(data.test, part, random_frame)
            for q, hit in zip(part, (model(clips, words).argmax(1) == target).tolist(), strict=True):
                right[q.kind].append(hit)
                right["all"].append(hit)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


def asked(split: VideoText) -> list[Question]:
    """The questions that need time."""
    return [q for q in split.questions if q.kind in KINDS]


def tokens(question: Question) -> list[str]:
    """The words of a question."""
    return question.text.rstrip("?").split()


def chance(questions: list[Question]) -> dict[str, float]:
    """Mean over the questions of one over the number of answers that their text has."""
    possible: dict[str, set[str]] = defaultdict(set)
    for q in questions:
        possible[q.text].add(q.answer)
    by_kind: dict[str, list[float]] = defaultdict(list)
    for q in questions:
        for kind in (q.kind, "all"):
            by_kind[kind].append(1 / len(possible[q.text]))
    return {kind: sum(values) / len(values) for kind, values in by_kind.items()}


def draw_for_a_while(seed: int, barrier: Any, results: Any) -> None:
    """Put clips per second of one process into `results`."""
    torch.set_num_threads(1)
    clips = load_video_text(VideoTextOptions(seed=seed)).train
    generator = torch.Generator().manual_seed(seed)
    clips.fetch(torch.arange(THROUGHPUT_BATCH), 8, generator)
    barrier.wait()
    start, drawn = time.perf_counter(), 0
    while time.perf_counter() - start < THROUGHPUT_SECONDS:
        clips.fetch(torch.randint(len(clips), (THROUGHPUT_BATCH,), generator=generator), 8, generator)
        drawn += THROUGHPUT_BATCH
    results.put(drawn / (time.perf_counter() - start))


def clips_per_second(processes: int) -> float:
    """Clips of 8 frames of 32 x 32 per second, of so many processes together, one thread each."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=draw_for_a_while, args=(seed, barrier, results)) for seed in range(processes)]
    for worker in workers:
        worker.start()
    total = sum(results.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total


def main() -> None:
    """Train, test, time, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    accuracy: dict[str, list[dict[str, float]]] = {name: [] for name in MODELS}
    seconds: dict[str, list[float]] = {name: [] for name in MODELS}
    options: dict[str, Any] = {"train": TRAIN_CLIPS, "test": TEST_CLIPS}
    for seed in range(arguments.seeds):
        data = load_video_text(VideoTextOptions(**options, seed=seed))
        for name in MODELS:
            start = time.perf_counter()
            accuracy[name].append(train_and_test(name, data, seed, arguments.epochs))
            seconds[name].append(time.perf_counter() - start)
            print(f"seed {seed}  {name:13s} {accuracy[name][-1]}  {seconds[name][-1]:.0f} s", flush=True)
    document = {
        "schema": "naslab.video_difficulty/1",
        "options": options,
        "epochs": arguments.epochs,
        "seeds": list(range(arguments.seeds)),
        "chance": chance(asked(data.test)),
        "questions": {kind: sum(q.kind == kind for q in asked(data.test)) for kind in KINDS},
        "accuracy": accuracy,
        "seconds": seconds,
        "clips_per_second": {f"{n} process{'es' * (n > 1)}": clips_per_second(n) for n in (1, 2)},
    }
    print(document["chance"], document["clips_per_second"])
    write_result(arguments.out, document)


def table(path: Path = RESULT) -> str:
    """The result file as Markdown; "not measured" where there is none."""
    if not path.exists():
        return "Difficulty of the clips: not measured."
    found = json.loads(path.read_text(encoding="utf-8"))
    kinds = [kind for kind in found["chance"] if kind != "all"]
    lines = [f"| right answers | {' | '.join(kinds)} |", f"| --- |{' --- |' * len(kinds)}"]
    lines.append("| chance, knowing the question | " + " | ".join(f"{found['chance'][k]:.3f}" for k in kinds) + " |")
    for name, runs in found["accuracy"].items():
        cells = (mean_interval([run[kind] for run in runs]) for kind in kinds)
        lines.append(f"| {name} | " + " | ".join(f"{c.mean:.3f} [{c.low:.3f}, {c.high:.3f}]" for c in cells) + " |")
    speed = ", ".join(f"{rate:,.0f} with {name}" for name, rate in found["clips_per_second"].items())
    return "\n".join([*lines, "", f"Clips a second, 8 frames of 32 x 32: {speed}."])


if __name__ == "__main__":
    main()
