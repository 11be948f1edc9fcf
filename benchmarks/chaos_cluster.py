"""The studies of chaos.py on a Ray cluster and a PostgreSQL server of this machine, whose nodes and server die, too.

Usage: python benchmarks/chaos_cluster.py [--strikes 100] [--minutes 60] [--seed 0]
    [--out benchmarks/results/chaos_cluster.json]

Victims are the driver, the workers, the nodes of the cluster (one goes, another comes) and the server, which is killed
and started again after up to two seconds. What must hold is what chaos.py checks.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chaos import Chaos, options, processes, strike_and_write, workers_of
from ray.cluster_utils import Cluster

TESTS = Path(__file__).resolve().parents[1] / "tests" / "runs"
sys.path.insert(0, str(TESTS))

from postgresql import Server  # noqa: E402 - the tests' own server

CPUS = 2
"""Of each of two nodes, at half of one a trial: one node alone has room for all four slots."""


class ClusterChaos(Chaos):
    """A driver whose workers are on two nodes and whose records are on a server."""

    victims = ("driver", "worker", "node", "server")

    def __init__(self, folder: Path, seed: int, server: Server) -> None:
        self._server = server
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._nodes: list[Any] = [self._cluster.add_node(num_cpus=CPUS) for _ in range(2)]
        self.executor = {"kind": "ray", "address": self._cluster.address, "cpus": 0.5}
        super().__init__(folder, seed, server.create("chaos"))

    def _strike(self) -> bool:
        victim = self.random.choice(self.victims)
        if victim == "node":
            self._cluster.remove_node(self._nodes.pop(self.random.randrange(2)), allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=CPUS))
            how: str | None = "loss"
        elif victim == "server":
            self._server.kill()
            time.sleep(self.random.uniform(0, 2))
            self._server.start()
            how = "SIGKILL"
        else:
            how = self._strike_process(victim, self._processes(victim))
        if how is not None:
            self.strikes[f"{how} of a {victim}"] += 1
        return how is not None

    def _processes(self, victim: str) -> list[int]:
        if victim == "driver":
            return super()._processes(victim)
        known = list(processes())
        raylets = {pid for pid, parent, _ in known if parent == os.getpid()}  # another cluster is not for us to strike
        return workers_of([pid for pid, parent, command in known if parent in raylets and command.startswith(b"ray::")])

    def close(self) -> None:
        """End the cluster."""
        self._cluster.shutdown()


def main() -> None:
    """Strike."""
    given = options(__doc__, 100, "benchmarks/results/chaos_cluster.json")
    server = Server().start()
    with tempfile.TemporaryDirectory() as folder:
        chaos = ClusterChaos(Path(folder), given.seed, server)
        try:
            strike_and_write(chaos, given)
        finally:
            chaos.close()
            server.stop()


if __name__ == "__main__":
    main()
