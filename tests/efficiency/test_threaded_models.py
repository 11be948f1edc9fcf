"""What a model hands to threads counts for the module that does."""

import asyncio
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import pytest
from small_models import LINEAR, Fn, batch, layer, profiled
from torch import nn

from naslab.efficiency import InputError, count_forward


def started(function, x):
    outputs = []
    threads = [threading.Thread(target=lambda: outputs.append(function(x))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(outputs)


def pooled(pool):
    def run(function, x):
        with pool(2) as workers:
            return sum(workers.map(function, [x, x]))

    return run


def handed_to_one_that_waits(waiting):
    return lambda function, x: waiting.submit(function, x).result() + waiting.submit(function, x).result()


THREADED = {
    "started": started,
    "executor": pooled(ThreadPoolExecutor),
    "pool": pooled(ThreadPool),
    "event loop": lambda function, x: asyncio.run(asyncio.to_thread(function, x)) + function(x),
}


@pytest.mark.parametrize("way", [*THREADED, "executor that waits"])
@pytest.mark.parametrize("plain", [True, False])
def test_what_a_model_hands_to_threads_counts_for_the_module_that_does(way, plain):
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = layer()

        def forward(self, x):
            weight = self.linear.weight
            return hand((lambda x: x @ weight) if plain else self.linear, x)

    with ThreadPoolExecutor(2) as waiting:
        waiting.submit(int).result()  # its thread is there before anything is counted
        hand = THREADED.get(way) or handed_to_one_that_waits(waiting)
        model = nn.Sequential(Inner(), layer())
        found = profiled(model, batch(), only=("flops", "training_step", "memory"))
    assert (found.flops.forward, found.flops.training_step, found.coverage) == (3 * LINEAR, 7 * LINEAR, 1.0)
    rows = found.by_module
    assert (rows["0"]["forward"], rows["1"]["forward"]) == (2 * LINEAR, LINEAR)
    assert sum(row["own"] for row in rows.values()) == found.flops.forward
    held = 4 * (2 * 17 * 16 + 4 * 16)
    assert found.peak_memory_bytes >= held + 4 * 2 * 4 * 16, "both threads' results are there at once"
    assert threading.Thread.start.__qualname__ == "Thread.start"
    assert not {"apply_async", "_map_async", "imap"} & vars(ThreadPool).keys()


def test_a_thread_that_was_there_before_is_said():
    jobs, answers = queue.SimpleQueue(), queue.SimpleQueue()

    def serve():
        for function, x in iter(jobs.get, None):
            answers.put(function(x))

    def ask(linear, x):
        jobs.put((linear, x))
        return linear(answers.get())

    thread = threading.Thread(target=serve)
    thread.start()
    model = Fn(ask, layer())
    try:
        with pytest.raises(InputError, match=r"layers\.0 runs in a thread of its own"):
            count_forward(model, batch())
    finally:
        jobs.put(None)
        thread.join()
