"""What Ray cannot do, and a cluster that is not there: a line each, at once."""

import socket

import pytest

ray = pytest.importorskip("ray", reason="naslab[ray] is not installed")

from calls import hold_with_children, wait_until  # noqa: E402
from clusters import executor_of  # noqa: E402

from naslab.errors import InputError, NaslabError  # noqa: E402
from naslab.runs.executors import ray_cluster  # noqa: E402
from naslab.runs.executors.choose import make_executor  # noqa: E402
from naslab.runs.executors.options import Ray  # noqa: E402


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
        call.result(240)
    executor.shutdown(cancel_futures=True)
    ray.shutdown()
    assert isinstance(ray_cluster.ClusterLost(), NaslabError)


@pytest.mark.parametrize("address", ["{}", "ray://{}", "no.such.host.invalid:6379", "nonsense", " ", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_answers_is_not_knocked_at(address, nobody, tmp_path, init, monkeypatch):
    """Ray would for minutes, with pages of warnings."""
    asked, address = init(Asked()), address.format(nobody)
    assert f"at {address}: " in refused(tmp_path, address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert "at this machine: " in refused(tmp_path, None)
    assert not asked


def test_where_the_last_cluster_of_this_machine_has_gone_another_is_started(nobody, tmp_path, init, monkeypatch):
    monkeypatch.setattr(ray_cluster.services, "canonicalize_bootstrap_address", lambda _: nobody)
    asked = init(Asked())
    with pytest.raises(Asked):
        make_executor(Ray(kind="ray"), 1, "cpu", tmp_path, print)
    assert asked == ["local"]
    refused(tmp_path, "auto")
