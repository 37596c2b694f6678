"""Two Ray nodes on this machine, of one CPU each, for as long as standard input is open.

Prints a line of JSON: the address and each node's raylet, the process whose death is a node's.
"""

from __future__ import annotations

import json
import socket
import sys
import threading

AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    options = {
        "num_cpus": 1,
        "object_store_memory": 80_000_000,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
    }
    # With ports told beforehand a node waits for none of its agents, which take their time on a busy machine.
    nodes = [cluster.add_node(**options, **{name: free_port() for name in AGENT_PORTS}) for _ in range(2)]
    raylets = [node.all_processes["raylet"][0].process for node in nodes]
    for raylet in raylets:  # one that is killed must not stay as a zombie: its actors would think it lives
        threading.Thread(target=raylet.wait, daemon=True).start()
    print(json.dumps({"address": cluster.address, "raylets": [raylet.pid for raylet in raylets]}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
