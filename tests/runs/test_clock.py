"""The CPU clock counts work and not waiting, of children too, living or ended."""

from __future__ import annotations

import multiprocessing
import time
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from naslab.kernels._compiling import compiling, telling
from naslab.runs.clock import cpu_seconds
from naslab.runs.events import Follower, Trail
from naslab.runs.limits import seconds_left, spent_hours
from naslab.runs.study import Limits
from naslab.runs.trial import Trial

WORK, TICK = 0.2, 0.03
"""Seconds of processor time, and what the kernel's clock ticks may lose of them."""


def work() -> None:
    end = time.process_time() + WORK
    while time.process_time() < end:
        pass


def work_and_wait(pipe) -> None:
    work()
    pipe.send("worked")
    pipe.recv()


def test_waiting_is_free_and_work_is_not():
    before = cpu_seconds()
    time.sleep(2 * WORK)
    assert cpu_seconds() - before < WORK
    before = cpu_seconds()
    work()
    assert cpu_seconds() - before >= WORK - TICK


def test_children_count_while_they_live_and_after():
    ours, theirs = multiprocessing.Pipe()
    before = cpu_seconds()
    child = multiprocessing.get_context("fork").Process(target=work_and_wait, args=(theirs,))
    child.start()
    ours.recv()
    living = cpu_seconds() - before
    ours.send("end")
    child.join()
    assert living >= WORK - TICK
    assert cpu_seconds() - before >= living - TICK


def test_a_trail_charges_cores_by_phase_and_its_reader_agrees(tmp_path):
    with Trail(tmp_path) as trail:
        with trail.phase("train"):
            work()
            trail.rung(1, {"score": 1.0})
        with trail.phase("evaluate"):
            time.sleep(WORK)
        trail.settle()
    follower = Follower(tmp_path)
    assert follower.core_seconds() == pytest.approx({p: s for p, s in trail.core_seconds.items() if s > 0})
    assert follower.seconds() == pytest.approx(trail.seconds)
    assert follower.rungs[0].core_seconds >= WORK - TICK
    assert trail.core_seconds["train"] >= WORK - TICK
    assert trail.core_seconds["evaluate"] < WORK


@pytest.mark.parametrize(("wall", "core", "threads", "contended"), [
    (100, 99, 1, False), (119, 100, 1, False), (121, 100, 1, True), (100, 190, 2, False), (130, 200, 2, True),
    (1000, 0, 1, False), (1000, 1, None, False),
])  # fmt: skip
def test_a_run_that_waits_for_its_cores_is_contended(wall, core, threads, contended):
    trial = Trial(0, None, "complete", seconds={"train": wall}, core_seconds={"train": core}, threads=threads)
    assert trial.contended is contended
    assert not replace(trial, device="cuda NVIDIA H100").contended, "there the cores wait for the device"


class Clock:
    """Stands for the time module of a trail: wall time passes only where a test says so."""

    now = 100.0

    def perf_counter(self):
        return self.now

    def time(self):
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr("naslab.runs.events.time", found)
    return found


@pytest.mark.parametrize("share", [1.0, 1 / 2, 1 / 3])
def test_a_slot_is_charged_for_its_share_of_the_device_everywhere(share, tmp_path, clock):
    with Trail(tmp_path, share) as trail:
        with trail.phase("train"):
            clock.now += 30
            rung = trail.rung(1, {"score": 1.0})
            clock.now += 6
            so_far, _ = trail.so_far()
        clock.now += 3
        trail.settle()
    follower = Follower(tmp_path)
    assert trail.seconds == pytest.approx({"other": 3 * share, "train": 36 * share})
    assert follower.seconds() == pytest.approx(trail.seconds)
    assert so_far["train"] == pytest.approx(36 * share)
    assert rung.device_seconds == follower.rungs[0].device_seconds == pytest.approx(30 * share)
    assert follower.share == share
    assert follower.last_seen == pytest.approx(follower.began + 39)
    assert spent_hours([], [follower]) == pytest.approx(39 * share / 3600)
    trial = Trial(0, None, "complete", seconds=trail.seconds, device_share=share)
    assert (trial.device_seconds, trial.wall_seconds) == pytest.approx((39 * share, 39))
    assert (trial.run_seconds, trial.run_wall_seconds) == pytest.approx((36 * share, 36))


def test_who_asks_for_the_seconds_takes_no_rung_from_who_judges(tmp_path, clock):
    with Trail(tmp_path) as trail:
        follower = Follower(tmp_path)
        first = trail.rung(1, {"score": 1.0})
        assert follower.seconds() == {}
        second = trail.rung(2, {"score": 2.0})
        assert follower.read() == [first, second]
        assert follower.read() == []


@pytest.mark.parametrize("share", [1.0, 1 / 4])
def test_what_is_left_of_a_budget_counts_up_to_this_moment(share, tmp_path, clock, monkeypatch):
    """Not up to the last sign of life, which is half a second old: the next rung may end before the next sign."""
    monkeypatch.setattr("naslab.runs.limits.time", clock)
    limits = Limits(gpu_hours=100 / 3600)
    with Trail(tmp_path, share) as trail:
        clock.now += 30
        trail.settle()
        clock.now += 0.4
        left = seconds_left(limits, 20.0, [Follower(tmp_path)])
        assert left == pytest.approx(100 - 20 - share * 30.4)
        clock.now += 1000  # such as another machine's clock
        assert left - 2 < seconds_left(limits, 20.0, [Follower(tmp_path)]) < left
    assert seconds_left(Limits(), 1e9, []) == float("inf")


def test_the_wall_time_of_a_run_counts_each_attempt_by_its_own_share():
    """An attempt with the device to itself, and one that went on from it beside another slot."""
    spent = {"seconds": {"train": 5.0}, "carried_seconds": {"train": 20.0}}
    trial = Trial(0, None, "complete", **spent, device_share=0.5, carried_wall_seconds={"train": 20.0})
    assert (trial.run_seconds, trial.run_wall_seconds) == (25.0, 30.0)
    assert Trial(0, None, "complete", **spent).run_wall_seconds == 25.0, "a record of an earlier version"


def test_a_trail_of_an_earlier_version_has_the_whole_device(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"began": 1.0}\n{"phase": "train", "at": 2.0, "cpu": 0.0}\n')
    follower = Follower(tmp_path)
    assert follower.seconds() == {"other": 2.0}
    assert follower.share == 1.0


def test_what_compiles_is_charged_apart_from_the_phase_that_waits_for_it(tmp_path, clock, monkeypatch):
    """The outermost of nested compilations counts, also where it fails, and never more than the phase had."""
    monkeypatch.setattr("naslab.kernels._compiling.time", clock)
    with Trail(tmp_path, 0.5) as trail, telling(trail.compiled):
        with trail.phase("train"):
            clock.now += 10
            with suppress(ZeroDivisionError), compiling():
                clock.now += 4
                with compiling():
                    clock.now += 2
                raise ZeroDivisionError
            clock.now += 8
        with trail.phase("evaluate"):
            clock.now += 1
            trail.compiled(99.0)
        trail.settle()
    spent = {phase: seconds for phase, seconds in trail.seconds.items() if seconds}
    assert spent == pytest.approx({"train": 9.0, "compile": 3.5})
    assert Follower(tmp_path).seconds() == pytest.approx(spent)
    trial = Trial(0, None, "complete", seconds=spent, device_share=0.5)
    assert (trial.run_seconds, trial.device_seconds) == (9.0, 12.5)
    with compiling():  # nobody is told any more
        clock.now += 1
    assert trail.seconds["compile"] == 3.5


def test_torch_compile_is_heard():
    heard = []
    torch.compiler.reset()
    with telling(lambda seconds, _: heard.append(seconds)):
        torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    assert heard
    assert min(heard) > 0
