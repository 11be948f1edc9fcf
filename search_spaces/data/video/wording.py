"""Captions and questions of generated clips, written from their scenes.

All twins of a family are asked in the same words, and each answer is right for equally many of them. Questions whose
answers cannot be even within a family (which object, how many) are thinned until they are even over the whole set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np

from naslab.search_spaces.data.video.options import Kind
from naslab.search_spaces.data.video.scenes import DIRECTIONS, PATTERNS, TWINS, Scene
from naslab.search_spaces.data.video.sets import Question

NUMBERS = ("one", "two", "three")
CHOICES = 5
CHOICE_QUESTION = "which caption fits?"
MOVES = ("moves", "goes", "travels", "drifts")
GROUNDS = ("in front of {}", "over {}", "on a ground of {}", "before {}")
RESTING = ("beside a resting {}", "next to a still {}", "while a {} stays in place", "with an idle {}")
WORDINGS = len(MOVES)


def caption(scene: Scene, names: Sequence[str], wording: int) -> str:
    """What happens, over which pattern, beside which resting objects; `wording` 0 to 3 chooses the words alone."""
    moves = MOVES[wording]
    objects = [names[c] for c in scene.objects]
    ways = [DIRECTIONS[d] for d in scene.directions]
    time = "late" if scene.late else "early"
    match scene.event:
        case "move":
            acting, event = 1, f"a {objects[0]} {moves} {ways[0]}"
        case "turn":
            acting, event = 1, f"a {objects[0]} {moves} {ways[0]} and then {ways[1]}"
        case "cross":
            acting, event = 2, f"a {objects[0]} {moves} {ways[0]} and passes a {objects[1]} that {moves} {ways[1]}"
        case "sequence":
            steps = [f"a {thing} {moves} {way}" for thing, way in zip(objects[:2], ways, strict=True)]
            first, second = reversed(steps) if scene.swapped else steps
            acting, event = 2, f"{first} and then {second}"
        case "replace":
            first, second = (objects[1], objects[0]) if scene.swapped else (objects[0], objects[1])
            acting, event = 2, f"a {first} leaves {time} and a {second} appears"
        case "presence":
            acting, event = 1, f"a {objects[0]} {'leaves' if scene.swapped else 'appears'} {time}"
    parts = [event]
    if resting := objects[acting:]:
        parts.append(RESTING[wording].format(" and a ".join(resting)))
    return " ".join([*parts, GROUNDS[wording].format(PATTERNS[scene.pattern])])


def write_captions(
    scenes: Sequence[Scene], names: Sequence[str], per_clip: int, random: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Captions and the clip of each: one of every clip, then second ones of every clip, and so on."""
    wordings = np.array([random.permutation(WORDINGS) for _ in scenes])
    captions = [caption(s, names, int(wordings[i, n])) for n in range(per_clip) for i, s in enumerate(scenes)]
    return captions, [i for _ in range(per_clip) for i in range(len(scenes))]


def ask(
    scenes: Sequence[Scene], names: Sequence[str], kinds: Collection[Kind], random: np.random.Generator
) -> list[Question]:
    """Questions about the clips of whole families, in the clips' order, even in their answers."""
    questions: list[Question] = []
    uneven: list[Question] = []
    for start in range(0, len(scenes) - TWINS + 1, TWINS):
        family = scenes[start : start + TWINS]
        wording = int(random.integers(2))
        for clip, scene in enumerate(family, start):
            questions += _even_questions(clip, scene, names, wording)
            uneven += _object_questions(clip, scene, names)
            if scene.event == "move":
                number = NUMBERS[len(scene.objects) - 1]
                uneven.append(Question(clip, "how many objects are there?", number, kind="count"))
        questions += _choices(start, family, names, random)
    questions = [q for q in questions if q.kind in kinds]
    questions += thin([q for q in uneven if q.kind in kinds], {"object": len(names), "count": len(NUMBERS)}, random)
    return sorted(questions, key=lambda q: q.clip)


def thin(questions: Sequence[Question], answers: dict[str, int], random: np.random.Generator) -> list[Question]:
    """The most of `questions` for which every text has each of its kind's answers equally often.

    Args:
        questions: open-ended.
        answers: how many different answers each kind has.
        random: chooses which to keep.
    """
    groups: dict[tuple[str, str], dict[str, list[Question]]] = defaultdict(lambda: defaultdict(list))
    for question in questions:
        groups[question.kind, question.text][question.answer].append(question)
    kept: list[Question] = []
    for (kind, _), by_answer in groups.items():
        if len(by_answer) < answers[kind]:
            continue
        fewest = min(len(group) for group in by_answer.values())
        kept += [group[i] for group in by_answer.values() for i in random.permutation(len(group))[:fewest]]
    return kept


def _even_questions(clip: int, scene: Scene, names: Sequence[str], wording: int) -> list[Question]:
    """Questions of which every answer is right for equally many twins."""
    things = [names[c] for c in scene.objects]
    ways = [DIRECTIONS[d] for d in scene.directions]
    where = (f"where does the {things[0]} move", f"which way does the {things[0]} go")[wording]
    second = "after" if scene.swapped else "before"
    match scene.event:
        case "move":
            # Where twins take turns in who moves, the words are the same within each half of the family alone.
            return [Question(clip, f"{where}?", ways[0], kind="direction")]
        case "cross":
            return [Question(clip, f"{where}?", ways[0], kind="direction")]
        case "turn":
            return [
                Question(clip, f"{where} first?", ways[0], kind="order"),
                Question(clip, f"{where} last?", ways[1], kind="order"),
            ]
        case "sequence":
            text = f"does the {things[0]} move before or after the {things[1]}?"
            return [
                Question(clip, f"{where}?", ways[0], kind="direction"),
                Question(clip, text, second, kind="order"),
            ]
        case "replace":
            text = f"is the {things[0]} seen before or after the {things[1]}?"
            return [Question(clip, text, second, kind="presence")]
        case "presence":
            text = f"does the {things[0]} appear or leave?"
            return [Question(clip, text, "leaves" if scene.swapped else "appears", kind="presence")]


def _object_questions(clip: int, scene: Scene, names: Sequence[str]) -> list[Question]:
    things = [names[c] for c in scene.objects]
    match scene.event:
        case "move" | "cross":
            movers = zip(scene.directions, things, strict=False)
            asked = [(f"what moves {DIRECTIONS[d]}?", thing) for d, thing in movers]
        case "sequence" | "replace":
            verb = "moves" if scene.event == "sequence" else "is seen"
            asked = [(f"what {verb} first?", things[1] if scene.swapped else things[0])]
        case "presence":
            asked = [(f"what {'leaves' if scene.swapped else 'appears'}?", things[0])]
        case "turn":
            asked = [("what turns?", things[0])]
    return [Question(clip, text, answer, kind="object") for text, answer in asked]


def _choices(start: int, family: Sequence[Scene], names: Sequence[str], random: np.random.Generator) -> list[Question]:
    """Which of five captions fits, asked of five twins with the same options: each is right once.

    Were the options made around the right one, it would be the one most like the others, and text alone would tell.
    """
    twins = [int(t) for t in random.permutation(TWINS)[:CHOICES]]
    wording = int(random.integers(WORDINGS))
    options = tuple(caption(family[t], names, wording) for t in twins)
    if len(set(options)) < CHOICES:
        return []
    return [Question(start + t, CHOICE_QUESTION, options[i], options, "choice") for i, t in enumerate(twins)]
