import itertools

import pytest
import torch

from naslab.search_spaces.common.objectives.masked_patches import Masking, block_scores, lattice
from naslab.search_spaces.common.objectives.running_cell import RunningCell, phases, ring


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


def published_maps(grid, keep=0.5):
    """What VideoMAE V2's generator makes, one map (L,) for each of the cell's four phases; true: decoded."""
    time, rows, columns = grid
    masked = int(4 * (1 - keep))
    queue = [False] * masked + [True] * (4 - masked)
    maps = []
    for pointer in range(4):
        frames = []
        for _ in range(time):
            pointer += 1
            cell = torch.tensor([queue[(place + pointer) % 4] for place in range(4)]).view(2, 2)
            frames.append(cell.repeat(rows // 2, columns // 2))
        maps.append(torch.stack(frames).flatten())
    return torch.stack(maps)


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_the_ring_of_each_phase_is_the_published_map(keep):
    grid = (8, 14, 14)
    assert torch.equal(ring(grid, torch.arange(4)) >= 4 * (1 - keep), published_maps(grid, keep))


def test_the_papers_decoder_predicts_704_tokens_those_that_cell_and_tube_mask_both_hide():
    """1568 tokens, 1408 of them masked; 944 in the decoder."""
    masking, mask, hidden = drawn("tube", 0.9, (8, 14, 14), batch=32)
    cell = RunningCell(0.5, masking)
    assert cell.predicted == 704
    assert masking.visible + cell.predicted + cell.spare == 944
    predicted, spare = cell.draw(mask, torch.rand(32, masking.length))
    maps = published_maps(masking.grid)
    phases = set()
    for b in range(32):
        rebuilt = torch.zeros(1568, dtype=torch.bool)
        rebuilt[torch.cat([predicted[b], spare[b]])] = True
        phases |= {n for n in range(4) if torch.equal(rebuilt, maps[n])}
        assert hidden[b, predicted[b]].all()
        assert not hidden[b, spare[b]].any()
    assert phases == {0, 1, 2, 3}


def test_phases_are_uniform_and_tell_nothing_of_the_mask():
    noise = torch.rand(40_000, 5, generator=torch.Generator().manual_seed(0))
    found = phases(noise)
    for among in (found, found[noise[:, -1] < 0.1]):  # 4000 draws: a share of a quarter has a deviation of .7 %
        assert among.bincount(minlength=4) / len(among) == pytest.approx([0.25] * 4, abs=0.035)


def test_where_the_cells_hold_too_few_masked_tokens_others_make_up_the_number():
    masking, mask, hidden = drawn("agnostic", 0.9, (3, 5, 7), batch=5)
    cell = RunningCell(0.9, masking)
    noise = torch.rand(5, masking.length)
    predicted, spare = cell.draw(mask, noise)
    assert predicted.shape == (5, cell.predicted)
    assert spare.shape == (5, cell.spare)
    order = ring(masking.grid, phases(noise))
    for b in range(5):
        assert hidden[b, predicted[b]].all()
        assert not hidden[b, spare[b]].any()
        left_out = [i for i in hidden[b].nonzero().flatten().tolist() if i not in predicted[b].tolist()]
        assert order[b, left_out].max() <= order[b, predicted[b]].min()


@pytest.mark.parametrize(
    ("kind", "grid", "ratio", "found"),
    [
        ("random", (1, 7, 7), 0.755, 0.75),
        ("random", (1, 14, 14), 0.7502, 0.755),
        ("block", (1, 7, 7), 0.745, 0.75),
        ("grid", (1, 7, 7), 0.75, 0.75),
        ("tube", (4, 4, 4), 0.8, 0.75),
        ("agnostic", (8, 14, 14), 0.9003, 0.9),
        ("tube", (8, 14, 14), 0.9, 0.9),
    ],
)
def test_a_ratio_stands_for_all_that_mask_as_many(kind, grid, ratio, found):
    masking = Masking(kind, ratio, grid)
    assert masking.canonical_ratio() == found
    assert Masking(kind, found, grid).visible == masking.visible
