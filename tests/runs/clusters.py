"""Executors of every kind on this machine, for tests; a Ray cluster of two nodes has room for what a test leaves."""

import atexit
from functools import cache

from naslab.runs.executors.choose import make_executor
from naslab.runs.executors.options import Local, Ray, Slurm


@cache
def ray_cluster():
    """Started once for all tests of this process."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    atexit.register(cluster.shutdown)
    return cluster


CHOICES = {
    "local": lambda: Local(),
    "ray": lambda: Ray(kind="ray", cpus=0.1, address=ray_cluster().address),
    "slurm": lambda: Slurm(kind="slurm", cluster="local"),
}


def executor_of(kind, slots, folder):
    """One of this kind, on the CPU."""
    return make_executor(CHOICES[kind](), slots, "cpu", folder, print)
