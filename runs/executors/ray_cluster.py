"""Persistent workers on a Ray cluster: one actor per slot, which holds a worker process on its node.

Ray finds the room, deals out GPUs and sees that nodes are lost. Its own restarts and retries are off: an attempt that
ends is the driver's to record and to charge, and what was interrupted goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from naslab.errors import InputError, NaslabError
from naslab.runs.concealment import conceal_passwords
from naslab.runs.executors.base import NodeLost, Say, Slot, SlotExecutor, WorkerDied
from naslab.runs.executors.host import Host, Surroundings, cluster_slot
from naslab.runs.executors.process import pack, unpack
from naslab.runs.faults import in_one_line

if TYPE_CHECKING:
    from naslab.runs.executors.options import Ray

place_of: Any = None
with suppress(ImportError):  # private to Ray, which may move it
    from ray._private.services import canonicalize_bootstrap_address as place_of

ROOM_SECONDS = 10.0
"""After so long without room in the cluster the user is told."""
ANSWER_SECONDS = 10.0
"""So long a cluster may take to answer at its address."""
PROBE_SECONDS = 5.0
"""How often the head is looked for, while a trial runs."""
LOST_SECONDS = 40.0
"""Without a head for so long a cluster is gone: some come back, and after 60 Ray ends this process in its own way."""
START_SECONDS = 300.0
"""So long a node may take to start a process for a task that needs no room; Ray itself would try for ever."""
LOSS_SECONDS = 15.0
"""So long it may take until the cluster knows that a node is gone whose actor died."""
NODE_DEATH = "its node has died"
"""Ray's words, also of an actor that was still to start, whose node nothing else tells."""
PROBE: dict[str, Any] = {"num_cpus": 0}
"""Of a task that every node has room for."""


class RayExecutor(SlotExecutor):
    """An actor for each slot.

    Raises:
        InputError: no such cluster.
    """

    def __init__(self, choice: Ray, slots: int, gpus: float, say: Say) -> None:
        self._owns_connection = not ray.is_initialized()
        if self._owns_connection:
            _connect(choice.address)
        self._head = _Head(ray.get_runtime_context().gcs_address)
        slot = cluster_slot(choice, gpus)
        options: dict[str, Any] = {
            "num_cpus": choice.cpus,
            "num_gpus": gpus,
            "resources": choice.resources,
            "memory": None if choice.memory_gb is None else int(choice.memory_gb * 1e9),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        try:
            actor = ray.remote(_Host).options(**options)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"executor: Ray has no such actor: {in_one_line(error)}") from None
        surroundings = Surroundings.here(choice.environment)
        needs = ", ".join([f"{choice.cpus:g} CPU", *([f"{gpus:g} GPU"] if gpus else []), *choice.resources])
        make, probe = partial(actor.remote, surroundings), _Probe()
        super().__init__([_RayWorker(slot, make, self._head, probe, needs, say) for _ in range(slots)])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See SlotExecutor.shutdown; leaves the cluster, if this executor has joined it."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and self._owns_connection and not self._head.is_lost:
            ray.shutdown()


class ClusterLost(NaslabError):
    """There is no cluster any more: its head has gone."""


class _Head:
    """The head of the cluster: where it has gone, whatever is asked of Ray waits until Ray ends this process."""

    def __init__(self, address: str) -> None:
        self.is_lost = False
        self._address, self._lock = address, threading.Lock()
        self._seen = self._asked = time.monotonic()

    def check(self) -> None:
        """Look for it, if that was some time ago.

        Raises:
            ClusterLost: it was not there for long.
        """
        with self._lock:
            if not self.is_lost and time.monotonic() - self._asked > PROBE_SECONDS:
                with suppress(OSError):
                    _knock(self._address)
                    self._seen = time.monotonic()
                self._asked = time.monotonic()
                self.is_lost = self._asked - self._seen > LOST_SECONDS
        if self.is_lost:
            raise ClusterLost(f"the Ray cluster at {self._address} is gone; the same command resumes in another")


class ClusterStuck(NaslabError):
    """The cluster starts no processes, whatever room it has."""


class _Probe:
    """Tells a cluster without room, which an autoscaler may give it, from one that cannot start processes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answer: Any = None
        self._alive = 0.0
        """When it was asked for, or a process was last known to have started."""

    def note(self) -> None:
        """A process has started."""
        self._alive = time.monotonic()

    def check(self) -> None:
        """Ask for a task that needs no room, the first time; later see, without waiting, whether it was done.

        Raises:
            ClusterStuck: it was not for long, and no process has started.
        """
        with self._lock:
            if self._answer is None:
                self._answer = ray.remote(_nothing).options(**PROBE).remote()
                self.note()
            if ray.wait([self._answer], timeout=0)[0]:
                self.note()
            elif time.monotonic() - self._alive > START_SECONDS:
                raise ClusterStuck(
                    f"the Ray cluster has started no process for {START_SECONDS:g} s, not even for a task that needs "
                    "no room; `logs/` of its session (/tmp/ray/session_latest) says why"
                )


def _nothing() -> None:
    """What any node has room for."""


class _Host(Host):
    def node(self) -> str:
        """The node that it is on: once this answers, the cluster has had room."""
        return str(ray.get_runtime_context().get_node_id())


class _RayWorker:
    def __init__(self, slot: Slot, make: Callable[[], Any], head: _Head, probe: _Probe, needs: str, say: Say) -> None:
        self.slot = slot
        self._make, self._head, self._probe, self._needs, self._say = make, head, probe, needs, say
        self._start()

    def _start(self) -> None:
        self._actor, self._node, self._lost, self._killed = self._make(), "", False, False

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            if self._lost:
                self.renew()
            self._await_room()
            answer = self._await(self._actor.call.remote(pack(fn, args, kwargs)))
        except RayTaskError as error:  # raised by the host
            raise error.cause from None
        except RayError as error:
            self._lost = True
            raise self._death(error) from None
        return unpack(answer)

    def kill(self) -> None:
        self._killed = True
        self.close()

    def renew(self) -> None:
        if self._lost or self._killed:
            self.close()
            self._start()
        else:
            self._actor.renew.remote()

    def close(self) -> None:
        if not self._head.is_lost:  # else the actor has ended with its cluster, or soon will
            ray.kill(self._actor)

    def _await(self, asked: Any) -> Any:
        while not ray.wait([asked], timeout=PROBE_SECONDS)[0]:
            self._head.check()
        return ray.get(asked)

    def _await_room(self) -> None:
        if self._node:
            return
        found = self._actor.node.remote()
        if not ray.wait([found], timeout=ROOM_SECONDS)[0]:
            self._say(f"waiting for room in the Ray cluster: {self._needs} a trial (`ray status` says what it has)")
            while not ray.wait([found], timeout=PROBE_SECONDS)[0]:
                self._head.check()
                self._probe.check()
        self._node = ray.get(found)
        self._probe.note()

    def _death(self, error: RayError) -> WorkerDied:
        if self._killed:
            return WorkerDied("its worker was ended")
        told = NODE_DEATH in str(error) or (isinstance(error, RayActorError) and error.preempted)
        if told or (self._node and _is_gone(self._node)):
            return NodeLost("its node left the Ray cluster")
        return WorkerDied(f"its Ray actor died: {in_one_line(error)}")


def _is_gone(node: str) -> bool:
    """Whether a node has left the cluster, which takes a while to see it."""
    deadline = time.monotonic() + LOSS_SECONDS
    while node in {known["NodeID"] for known in ray.nodes() if known["Alive"]}:  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _connect(address: str | None) -> None:
    conceal_passwords()  # Ray keeps the driver's command line, of a script of the user's, too
    try:
        with _signals_kept():
            ray.init(_answering(address), log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        where, said = address or "this machine", in_one_line(error)
        raise InputError(f"executor.address: no Ray cluster at {where}: {said}{_hint(error)}") from None


def _hint(error: Exception) -> str:
    """What helps where Ray's folder is not its to use."""
    if isinstance(error, PermissionError):  # another user of this machine was the first to start a Ray
        return "; RAY_TMPDIR names a folder of your own"
    if "AF_UNIX" in str(error):  # its sockets lie some 60 letters deeper
        return "; RAY_TMPDIR names a folder with a shorter path"
    return ""


def _answering(address: str | None) -> str | None:
    """The address, if somebody listens there: Ray would knock for minutes, and say so in pages.

    Where the last cluster of this machine was, nothing public of Ray says before it is joined.

    Raises:
        OSError: nobody listens.
        ValueError: no address.
    """
    named = address or os.environ.get("RAY_ADDRESS") or None
    place = place_of and place_of(named and named.removeprefix("ray://"))
    if place is None:  # no cluster is known here, and Ray starts one; or it knocks in its own way
        return address
    try:
        _knock(place)
    except OSError:
        if named is None:  # the last one of this machine has gone without a word
            return "local"
        raise
    return address


def _knock(address: str) -> None:
    """Raise OSError where nobody listens."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray answers SIGTERM in its own way; here the driver does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
