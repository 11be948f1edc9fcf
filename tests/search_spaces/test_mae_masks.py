import itertools

import pytest
import torch

from naslab.search_spaces.common.objectives.masked_patches import (
    Masking,
    block_scores,
    decoder_subset,
    lattice,
    running_cell,
)


def drawn(kind, ratio, grid, batch=64, seed=0):
    masking = Masking(kind, ratio, grid)
    noise = torch.rand(batch, masking.length, generator=torch.Generator().manual_seed(seed))
    mask = masking.draw(noise)
    hidden = torch.zeros(batch, masking.length, dtype=torch.bool).scatter(1, mask.masked_BM, True)
    return masking, mask, hidden


@pytest.mark.parametrize(("length", "ratio", "visible"), [(14, 0.75, 49), (16, 0.75, 64), (14, 0.9, 19), (7, 0.95, 2)])
def test_visible_counts_truncate_as_published(length, ratio, visible):
    assert Masking("random", ratio, (1, length, length)).visible == visible


def test_published_clip_counts():
    assert Masking("agnostic", 0.9, (8, 14, 14)).visible == 156
    assert Masking("tube", 0.9, (8, 14, 14)).visible == 160


@pytest.mark.parametrize(
    ("kind", "ratio", "grid"),
    [
        *itertools.product(["random", "block"], [0.1, 0.5, 0.75, 0.95], [(1, 7, 7), (1, 14, 14)]),
        ("grid", 0.75, (1, 7, 7)),
        ("grid", 0.75, (1, 8, 8)),
        ("agnostic", 0.9, (4, 6, 6)),
        ("tube", 0.9, (4, 6, 6)),
    ],
)
def test_every_sample_has_the_same_number_and_the_noise_decides(kind, ratio, grid):
    masking, mask, hidden = drawn(kind, ratio, grid)
    assert mask.visible_BK.shape == (64, masking.visible)
    assert (hidden.sum(1) == masking.length - masking.visible).all()
    assert torch.equal(hidden, drawn(kind, ratio, grid)[2])
    if kind != "grid":
        assert not torch.equal(hidden, drawn(kind, ratio, grid, seed=1)[2])


@pytest.mark.parametrize("kind", ["random", "block"])
def test_every_place_is_masked_at_times(kind):
    share = drawn(kind, 0.5, (1, 8, 8), batch=2000)[2].float().mean(0)
    assert share.min() > 0.1  # BEiT puts blocks inside the image, so corners are covered less often
    assert share.max() < 0.9


def test_blocks_are_blocks():
    """Masked tokens of a block mask have more masked neighbours than those of a random one."""

    def neighbours(kind):
        hidden = drawn(kind, 0.5, (1, 14, 14))[2].view(-1, 14, 14).float()
        return (hidden[:, 1:] * hidden[:, :-1]).mean().item()

    assert neighbours("random") < 0.3
    assert neighbours("block") > 0.38


def test_block_scores_are_those_of_a_loop():
    rows = columns = 7
    noise = torch.rand(5, 49, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    scores = block_scores(noise, rows, columns, masked=30)
    for b in range(5):
        covered, n = {}, noise[b].tolist()
        for number in range(12):
            size, aspect, top, left = n[4 * number : 4 * number + 4]
            area = 4.0 + size * max(max(30 - len(covered), 0) - 4.0, 0)
            shape = (1 / 0.3) ** (2 * aspect - 1)
            height = min(max(round((area / shape) ** 0.5), 1), rows)
            width = min(max(round((area * shape) ** 0.5), 1), columns)
            first, start = int(top * (rows - height + 1)), int(left * (columns - width + 1))
            for r, c in itertools.product(range(first, first + height), range(start, start + width)):
                covered.setdefault(r * columns + c, number)
        expected = [-covered[i] if i in covered else -13 - n[i] for i in range(49)]
        assert scores[b].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("side", [4, 7, 14])
def test_the_grid_keeps_one_in_four_and_no_two_neighbours(side):
    kept = lattice(side, side, torch.device("cpu")).view(side, side)
    assert kept.sum() == side * side // 4
    assert not (kept[1:] & kept[:-1]).any()
    assert not (kept[:, 1:] & kept[:, :-1]).any()
    visible = drawn("grid", 0.75, (1, side, side), batch=2)[1].visible_BK
    assert visible[0].tolist() == kept.flatten().nonzero().flatten().tolist()


def test_tubes_run_through_time():
    hidden = drawn("tube", 0.75, (4, 6, 6))[2].view(-1, 4, 36)
    assert (hidden == hidden[:, :1]).all()
    agnostic = drawn("agnostic", 0.75, (4, 6, 6))[2].view(-1, 4, 36)
    assert not (agnostic == agnostic[:, :1]).all()


def test_the_running_cell_keeps_two_of_each_four_and_moves():
    cell = running_cell((4, 4, 6), torch.device("cpu")).view(4, 2, 2, 3, 2)
    assert (cell.sum((2, 4)) == 2).all()
    assert not torch.equal(cell[0], cell[1])
    assert (cell.sum(0) == 2).all()


def test_a_decoder_subset_holds_the_visible_and_masked_ones_of_the_cell_first():
    masking, mask, hidden = drawn("tube", 0.9, (4, 8, 8), batch=3)
    noise = torch.rand(3, masking.length)
    cell = running_cell(masking.grid, torch.device("cpu"))
    for chosen in (40, 180):
        subset = decoder_subset(mask, noise, masking.grid, chosen)
        assert torch.equal(subset.visible_BK[:, : masking.visible], mask.visible_BK)
        rebuilt = subset.visible_BK[:, masking.visible :]
        assert rebuilt.shape == (3, chosen)
        for b in range(3):
            assert hidden[b, rebuilt[b]].all()
            inside = int((hidden[b] & cell).sum())
            assert int(cell[rebuilt[b]].sum()) == min(chosen, inside)
