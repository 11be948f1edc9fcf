"""The CPU clock counts work and not waiting, of children too, living or ended."""

from __future__ import annotations

import multiprocessing
import time

import pytest

from naslab.runs.clock import cpu_seconds
from naslab.runs.events import Follower, Trail
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
