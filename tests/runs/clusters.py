"""Executors of every kind on this machine, for tests; a Ray cluster of two nodes has room for what a test leaves."""

from contextlib import suppress
from functools import cache

from naslab.runs.executors.choose import make_executor
from naslab.runs.executors.options import Local, Ray, Slurm


@cache
def ray_cluster():
    """Started once for the tests of a file; see `stop_ray`."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=head))
    begun(lambda: cluster.add_node(num_cpus=1))
    return cluster


def begun(start, tries=3):
    """What `start` returns: Ray gives a node 30 seconds to begin, which a busy machine may exceed."""
    for _ in range(tries - 1):
        with suppress(Exception):
            return start()
    return start()


def stop_ray():
    """End the cluster, if one was started: it takes an eighth of a core from all tests that come after."""
    if ray_cluster.cache_info().currsize:
        import ray

        ray.shutdown()
        ray_cluster().shutdown()
        ray_cluster.cache_clear()


CHOICES = {
    "local": lambda: Local(),
    "ray": lambda: Ray(kind="ray", cpus=0.1, address=ray_cluster().address),
    "slurm": lambda: Slurm(kind="slurm", cluster="local"),
}


def executor_of(kind, slots, folder):
    """One of this kind, on the CPU."""
    return make_executor(CHOICES[kind](), slots, "cpu", folder, print)
