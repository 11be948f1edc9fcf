"""What happens in generated clips: families of eight twins that differ in direction or order alone.

Objects live on a canvas whose edges are joined. A mover's place at the middle frame is uniform on it, so that its
place at every single frame is uniform whatever its direction. All twins of a family share that frame where nothing
comes or goes; where something does, each possible frame is shared by twins of either answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from naslab.search_spaces.data.video.options import Event

TWINS = 8
OBJECTS = 3
DIRECTIONS = ("left", "up", "right", "down")
"""A quarter turn from each to the next."""
STEPS = np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
"""(y, x) of each direction."""
PATTERNS = ("plain cloth", "stripes", "dots", "checks")
TRAVEL = (0.3, 0.5)
"""Way of a mover through the clip, as a share of the canvas: at most half, or the edges would hide its direction."""


@dataclass(frozen=True)
class Scene:
    """The truth of one clip, from which its texts are written.

    Attributes:
        family: twins have the same number.
        objects: class of each object; the first (for `cross`, `sequence`, `replace` the first two) acts, others rest.
        directions: of the acting objects, as places in DIRECTIONS; of `turn`: first and last.
        swapped: the second object comes before the first (`sequence`, `replace`), or the first leaves (`presence`).
        late: what changes in `replace` and `presence` changes in the second half.
        pattern: place in PATTERNS.
    """

    family: int
    event: Event
    objects: tuple[int, ...]
    directions: tuple[int, ...]
    swapped: bool
    late: bool
    pattern: int


@dataclass(frozen=True, eq=False)
class Tracks:
    """How clips are drawn; N clips, K = 3 objects, lengths as shares of the canvas.

    Attributes:
        classes_NK: class of each object, -1 for none.
        draws_NK: which image of the class, a share of how many there are.
        middle_NK2: (y, x) at the middle frame.
        before_NK2, after_NK2: way per clip duration, before and after the middle frame.
        shown_NK2: first frame in view, and first frame no more in view.
        pattern_N, shift_N2, seed_N: pattern, how far it is shifted, and what else the background is made from.
    """

    classes_NK: Tensor
    draws_NK: Tensor
    middle_NK2: Tensor
    before_NK2: Tensor
    after_NK2: Tensor
    shown_NK2: Tensor
    pattern_N: Tensor
    shift_N2: Tensor
    seed_N: Tensor

    def take(self, indices: Tensor) -> Tracks:
        """Those of the chosen clips."""
        return Tracks(**{name: value[indices] for name, value in vars(self).items()})


def make_scenes(
    clips: int, events: Sequence[Event], classes: int, objects: int, frames: int, random: np.random.Generator
) -> tuple[list[Scene], Tracks]:
    """Scenes and tracks of `clips` clips: family after family, the last one cut off where they do not come out even."""
    seen: set[tuple[object, ...]] = set()
    families = [
        _Family(number, events[number % len(events)], number // len(events), classes, objects, random, seen)
        for number in range(-(-clips // TWINS))
    ]
    scenes = [family.scene(twin) for family in families for twin in range(TWINS)][:clips]
    drawn = [family.draw(scene, twin, frames) for family in families for twin, scene in enumerate(family.scenes)]
    columns = {name: np.stack([values[name] for values in drawn[:clips]]) for name in drawn[0]}
    return scenes, Tracks(**{name: torch.from_numpy(column) for name, column in columns.items()})


def change_frames(frames: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two pairs of (early, late) frames of change, such that the middle frame is as often before as after it.

    The pairs lie evenly about the middle of the clip, so a frame drawn at random is as often before as after, too.
    """
    middle = frames // 2
    early_near, late_near = (middle - 1, middle + 1) if frames % 2 == 0 else (middle, middle + 1)
    step = 1 if early_near > 1 else 0
    return (early_near, late_near), (early_near - step, late_near + step)


class _Family:
    """What eight twins have in common."""

    def __init__(
        self,
        number: int,
        event: Event,
        turn: int,
        classes: int,
        objects: int,
        random: np.random.Generator,
        seen: set[tuple[object, ...]],
    ) -> None:
        self.number, self.event = number, event
        least = 1 if event in ("move", "turn") else 2
        count = least + turn % (max(objects, least) + 1 - least)
        for _ in range(20):
            # The classes take turns, each round shifted so that none meets the same number of objects always; another
            # family with the same texts is avoided.
            first = (turn + turn // classes) % classes
            rest = random.permutation([c for c in range(classes) if c != first])[: count - 1]
            self.objects = (first, *(int(c) for c in rest))
            self.patterns = tuple(int(p) for p in random.permutation(len(PATTERNS))[:2])
            self.second = int(random.integers(4))
            key = (event, self.objects, self.patterns)
            if key not in seen:
                break
        seen.add(key)
        self.draws = random.random(OBJECTS)
        self.middle = _spread(count, random)
        self.travel = random.uniform(*TRAVEL)
        self.shift = random.random(2)
        self.seed = int(random.integers(1 << 30))
        self.scenes = [self.scene(twin) for twin in range(TWINS)]

    def scene(self, twin: int) -> Scene:
        """The truth of one twin."""
        pattern = self.patterns[0]
        objects, swapped, late = self.objects, False, False
        directions: tuple[int, ...] = ()
        quarter, half = twin % 4, twin // 4
        match self.event:
            case "move":
                directions = (quarter,)
                if len(objects) > 1 and half:
                    objects = (objects[1], objects[0], *objects[2:])
                elif half:
                    pattern = self.patterns[1]
            case "turn":
                directions = (quarter, (quarter + (1 if half else 3)) % 4)
            case "cross":
                directions = (quarter, (quarter + 2) % 4)
                pattern = self.patterns[half]
            case "sequence":
                directions, swapped = (quarter, self.second), bool(half)
            case "replace" | "presence":
                swapped, late = bool(twin % 2), bool(twin // 2 % 2)
                pattern = self.patterns[half]
        return Scene(self.number, self.event, objects, directions, swapped, late, pattern)

    def draw(self, scene: Scene, twin: int, frames: int) -> dict[str, np.ndarray]:
        """One twin as arrays, see Tracks."""
        count = len(scene.objects)
        # The same images stand at the same places in all twins; which of them acts is told by the scene.
        slots = [self.objects.index(c) for c in scene.objects]
        classes = np.full(OBJECTS, -1)
        classes[:count] = self.objects
        before, after = np.zeros((OBJECTS, 2)), np.zeros((OBJECTS, 2))
        shown = np.tile(np.array([0, frames]), (OBJECTS, 1))
        match scene.event:
            case "move":
                before[slots[0]] = after[slots[0]] = self.travel * STEPS[scene.directions[0]]
            case "turn":
                before[slots[0]], after[slots[0]] = (TRAVEL[1] * STEPS[d] for d in scene.directions)
            case "cross":
                # Together they travel the canvas once: wherever they start, they pass each other exactly once.
                for slot, direction in zip(slots[:2], scene.directions, strict=True):
                    before[slot] = after[slot] = 0.5 * STEPS[direction]
            case "sequence":
                ways = [TRAVEL[1] * STEPS[d] for d in scene.directions]
                (after if scene.swapped else before)[slots[0]] = ways[0]
                (before if scene.swapped else after)[slots[1]] = ways[1]
            case "replace" | "presence":
                change = change_frames(frames)[twin // 4][int(scene.late)]
                shown[0] = (change, frames) if scene.swapped == (scene.event == "replace") else (0, change)
                if scene.event == "replace":
                    shown[1] = (0, change) if scene.swapped else (change, frames)
        return {
            "classes_NK": classes,
            "draws_NK": self.draws,
            "middle_NK2": self.middle,
            "before_NK2": before,
            "after_NK2": after,
            "shown_NK2": shown,
            "pattern_N": np.array(scene.pattern),
            "shift_N2": self.shift,
            "seed_N": np.array(self.seed),
        }


def _spread(count: int, random: np.random.Generator) -> np.ndarray:
    """Places of objects on the joined canvas, each uniform, apart from one another along one of the axes."""
    apart = {1: [0.0], 2: [0.0, random.uniform(0.375, 0.625)], 3: [0.0, 1 / 3, 2 / 3]}[count]
    places = random.random((OBJECTS, 2))
    axis = int(random.integers(2))
    places[:count, axis] = places[0, axis] + np.array(apart)
    return places % 1.0
