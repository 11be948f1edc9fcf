"""What a device will need next is prepared while it works."""

import threading

import pytest
import torch
from PIL import Image

from naslab.search_spaces.data.ahead import ahead
from naslab.search_spaces.data.images import FileImages

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LONG = 60


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_results_are_those_of_map_in_order(device, number):
    assert list(ahead(lambda n: n * n, range(number), device)) == [n * n for n in range(number)]


def test_numbers_are_drawn_in_the_same_order():
    drawn = []
    for device in (CPU, GPU):
        generator = torch.Generator().manual_seed(0)
        drawn.append(torch.stack(list(ahead(lambda n: torch.rand(n, generator=generator), [3] * 20, device))))  # noqa: B023
    assert drawn[0].equal(drawn[1])


def test_the_next_is_prepared_while_the_last_is_used():
    begun = [threading.Event() for _ in range(5)]

    def prepared(n):
        begun[n].set()
        return n

    results = ahead(prepared, range(5), GPU)
    assert next(results) == 0
    assert begun[1].wait(LONG)
    assert begun[2].wait(LONG)
    assert not begun[4].is_set()
    assert list(results) == [1, 2, 3, 4]


def test_nothing_is_prepared_on_a_cpu():
    begun = []
    results = ahead(lambda n: begun.append(n) or n, range(5), CPU)
    assert next(results) == 0
    assert begun == [0]


def test_what_a_call_raises_comes_in_its_turn():
    results = ahead(lambda n: 1 / n, [2, 1, 0, 4], GPU)
    assert [next(results), next(results)] == [0.5, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_early_leaves_nothing_running():
    held, begun = threading.Event(), []

    def prepared(n):
        begun.append(n)
        assert n == 0 or held.wait(LONG)
        return n

    results = ahead(prepared, range(100), GPU)
    assert next(results) == 0
    threading.Timer(0.1, held.set).start()
    results.close()
    assert set(begun) <= {0, 1, 2}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_files_are_decoded_ahead_into_the_same_views(tmp_path):
    random = torch.Generator().manual_seed(0)
    for n in range(6):
        pixels = torch.randint(256, (20 + n, 30, 3), generator=random, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{n}.png")
    images = FileImages([tmp_path / f"{n}.png" for n in range(6)], torch.zeros(6, dtype=torch.long), side=16)
    boxes = torch.tensor([[1, 2, 15, 20], [0, 5, 18, 9]])
    order = torch.tensor([5, 1, 0, 2, 4, 3])
    cut = [[whole.cut(boxes) for whole in images.each(images.whole, order, 2, device)] for device in (CPU, GPU)]
    assert all(a.equal(b) for a, b in zip(*cut, strict=True))
    one_by_one = [
        torch.stack([images.whole(part[[k]]).cut(boxes[[k]])[0] for k in range(2)]) for part in order.split(2)
    ]
    assert all(a.equal(b) for a, b in zip(cut[0], one_by_one, strict=True))
