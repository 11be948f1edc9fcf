import pytest
import torch

from naslab.efficiency import kernel_tuning
from naslab.efficiency.kernel_cases import Case
from naslab.efficiency.kernel_tuning import candidates, tune, tune_kernels
from naslab.errors import InputError
from naslab.kernels import _triton
from naslab.kernels._triton import Launch, launch, trying
from naslab.runs.cli import run_command_line

CPU = torch.device("cpu")
DEFAULTS = {"any": Launch(64, rows=4, num_warps=4)}


@pytest.fixture(autouse=True)
def toy_device(monkeypatch, tmp_path):
    monkeypatch.setenv("NASLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(kernel_tuning, "device_key", lambda device: "toy")
    _triton._tuned.cache_clear()
    yield
    _triton._tuned.cache_clear()


def used():
    return launch("toy_kernel", CPU, DEFAULTS)


def toy_table(sizes=(1, 2)):
    return [Case("toy", str(n), (), lambda: torch.ones(()), n) for n in sizes]


def tuned(milliseconds, correct=lambda case, size: True):
    """Run the tuner on a kernel whose correctness and time are functions of the launch it is given."""
    (outcome,) = tune(toy_table(), lambda case: correct(case, used()), lambda case: milliseconds(used()), CPU)
    return outcome


def test_the_fastest_launch_is_chosen_and_remembered():
    best = Launch(128, rows=2, num_warps=8)
    outcome = tuned(lambda size: 1.0 if size == best else 3.0)
    assert outcome.before == DEFAULTS["any"]
    assert (outcome.before_ms, outcome.chosen, outcome.chosen_ms) == (3.0, best, 1.0)
    assert _triton._tuned("toy") == {"toy_kernel": best}


def test_what_is_hardly_faster_changes_nothing():
    outcome = tuned(lambda size: 1.0 if size == DEFAULTS["any"] else 0.99)
    assert outcome.chosen == DEFAULTS["any"]
    assert _triton._tuned("toy") == {}


def test_a_wrong_result_at_any_shape_is_never_chosen():
    wrong = Launch(128, rows=2, num_warps=8)
    outcome = tuned(
        lambda size: 0.1 if size == wrong else float(size.num_warps),
        correct=lambda case, size: not (size == wrong and case.shape == "1"),
    )
    assert outcome.chosen.num_warps == 1


def test_a_launch_that_does_not_fit_the_device_is_passed_over():
    def milliseconds(size):
        if size.num_warps > 4:
            raise RuntimeError("out of resource: shared memory")
        return 8.0 - size.num_warps - size.rows / 10

    chosen = tuned(milliseconds).chosen
    assert (chosen.num_warps, chosen.rows) == (4, 8)


def test_candidates_leave_unused_sizes_alone():
    assert {(c.block, c.rows) for c in candidates(Launch(0))} == {(0, 1)}
    assert {c.rows for c in candidates(Launch(64, rows=4))} == {2, 4, 8}


def test_trying_ends_with_its_block():
    with trying("toy_kernel", Launch(1)):
        assert used() == Launch(1)
    assert used() == DEFAULTS["any"]


def test_a_cpu_is_refused_in_one_line(capsys):
    with pytest.raises(InputError, match="cpu has no launches to tune"):
        tune_kernels(CPU, torch.float32, 1.0)
    assert run_command_line(["bench", "kernels", "--tune", "--device", "cpu"]) == 2
    assert "--tune: cpu has no launches to tune; use a CUDA or ROCm device" in " ".join(capsys.readouterr().err.split())
