"""Two Ray nodes on this machine, of one CPU each, for as long as standard input is open.

Prints a line of JSON: the address and each node's raylet, the process whose death is a node's.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    options = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    nodes = [cluster.add_node(**options) for _ in range(2)]
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
