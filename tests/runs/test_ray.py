"""What Ray cannot do, and a cluster that is not there, or is of no use: a line each, at once where it can be."""

import socket

import pytest

ray = pytest.importorskip("ray", reason="naslab[ray] is not installed")

from calls import hold_with_children, pid, wait_until  # noqa: E402
from clusters import executor_of  # noqa: E402
from clusters import ray_cluster as cluster  # noqa: E402

from naslab.errors import InputError, NaslabError  # noqa: E402
from naslab.runs.executors import NodeLost, Slot, WorkerDied, ray_cluster  # noqa: E402
from naslab.runs.executors.choose import make_executor  # noqa: E402
from naslab.runs.executors.options import Ray  # noqa: E402

LONG = 240


class Asked(Exception):
    """Ray was asked for a cluster."""


@pytest.fixture
def init(monkeypatch):
    """Raises instead of Ray, and notes the address that Ray was given."""

    def given(problem):
        def init(address, **_):
            addresses.append(address)
            raise problem

        monkeypatch.setattr(ray, "init", init)
        return addresses

    addresses = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return given


def refused(tmp_path, address):
    with pytest.raises(InputError, match=r"^executor\.address: no Ray cluster at ") as problem:
        make_executor(Ray(kind="ray", address=address), 1, "cpu", tmp_path, print)
    assert "\n" not in str(problem.value)
    return str(problem.value)


@pytest.mark.parametrize(
    ("raised", "word"),
    [
        (PermissionError(13, "Permission denied", "/tmp/ray/session_x"), "RAY_TMPDIR"),
        (OSError("AF_UNIX path length cannot exceed 107 bytes: '/scratch/x'"), "RAY_TMPDIR names a folder with a sh"),
        (ConnectionError("Failed to connect to Ray cluster at h:1."), "Failed to connect"),
        (RuntimeError("Version mismatch:\nThe cluster was started with:\n  Ray: 1"), "Version mismatch"),
        (ValueError("'h' is not a valid address"), "not a valid address"),
    ],
)
def test_what_ray_cannot_do_is_one_line(raised, word, tmp_path, init):
    init(raised)
    assert word in refused(tmp_path, "local")


@pytest.fixture
def nobody():
    """An address of this machine where nobody listens; it is taken, so that nobody else begins to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_a_call_ends_where_the_head_of_the_cluster_has_gone(nobody, tmp_path, monkeypatch):
    """In a line, before Ray ends the whole process; and nothing is asked of Ray any more, which would wait for ever."""
    for name, seconds in (("PROBE_SECONDS", 0.1), ("LOST_SECONDS", 0.5)):
        monkeypatch.setattr(ray_cluster, name, seconds)
    executor = executor_of("ray", 1, tmp_path)
    call = executor.submit(hold_with_children, tmp_path / "pids")
    wait_until((tmp_path / "pids").exists)
    assert not call.done(), "its head is there"
    executor._head._address = nobody
    with pytest.raises(ray_cluster.ClusterLost, match="is gone; the same command resumes"):
        call.result(LONG)
    executor.shutdown(cancel_futures=True)
    ray.shutdown()
    assert isinstance(ray_cluster.ClusterLost(), NaslabError)


def test_a_cluster_that_starts_no_process_is_told_from_one_without_room(tmp_path, monkeypatch):
    """The second may get room; the first, as where the modules of its machines are broken, is waited for in vain."""
    for name, seconds in (("ROOM_SECONDS", 0.1), ("PROBE_SECONDS", 0.1)):
        monkeypatch.setattr(ray_cluster, name, seconds)
    said, choice = [], Ray(kind="ray", address=cluster().address, resources={"nowhere": 1})
    executor = make_executor(choice, 1, "cpu", tmp_path, said.append)
    probe = ray_cluster._Probe()
    probe.check()
    wait_until(lambda: ray.wait([probe._answer], timeout=0)[0])
    monkeypatch.setattr(ray_cluster, "START_SECONDS", 0.0)
    probe.check()  # answered: who waits, waits for room
    monkeypatch.setattr(ray_cluster, "PROBE", {"resources": {"nowhere": 1}})
    with pytest.raises(ray_cluster.ClusterStuck, match="has started no process"):
        executor.submit(pid).result(LONG)
    assert said == ["waiting for room in the Ray cluster: 1 CPU, nowhere a trial (`ray status` says what it has)"]
    executor.shutdown(cancel_futures=True)
    ray.shutdown()
    assert isinstance(ray_cluster.ClusterStuck(), NaslabError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.RayActorError("1f", "its node was drained", preempted=True), NodeLost),
        (ray.exceptions.RayActorError("1f", "The actor died because its node has died. Node Id: 2e"), NodeLost),
        (ray.exceptions.RayActorError("1f", "Worker exits with code 1"), WorkerDied),
        (ray.exceptions.OutOfMemoryError("killed"), WorkerDied),
    ],
)
def test_an_actor_that_was_still_to_start_tells_of_its_node(error, kind):
    worker = ray_cluster._RayWorker(Slot("cpu"), lambda: None, None, None, "1 CPU", print)
    assert type(worker._death(error)) is kind


@pytest.mark.parametrize("address", ["{}", "ray://{}", "no.such.host.invalid:6379", "nonsense", " ", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_answers_is_not_knocked_at(address, nobody, tmp_path, init, monkeypatch):
    """Ray would for minutes, with pages of warnings."""
    asked, address = init(Asked()), address.format(nobody)
    assert f"at {address}: " in refused(tmp_path, address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert "at this machine: " in refused(tmp_path, None)
    assert not asked


def test_where_the_last_cluster_of_this_machine_has_gone_another_is_started(nobody, tmp_path, init, monkeypatch):
    monkeypatch.setattr(ray_cluster, "place_of", lambda _: nobody)
    asked = init(Asked())
    with pytest.raises(Asked):
        make_executor(Ray(kind="ray"), 1, "cpu", tmp_path, print)
    assert asked == ["local"]
    refused(tmp_path, "auto")


def test_a_ray_that_has_moved_its_own_parts_knocks_for_itself(nobody, tmp_path, init, monkeypatch):
    monkeypatch.setattr(ray_cluster, "place_of", None)
    asked = init(Asked())
    with pytest.raises(Asked):
        make_executor(Ray(kind="ray", address=nobody), 1, "cpu", tmp_path, print)
    assert asked == [nobody]
