"""Real Ray clusters on this machine: each node is a set of processes of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from children import python_path

OBJECT_STORE_BYTES = 120 << 20  # of a node; Ray takes a third of the memory by default


@contextlib.contextmanager
def cluster(*, has_torch: bool, **environment: str) -> Iterator[Any]:
    """Start a node of two CPUs, and be connected to it.

    Parameters
    ----------
    has_torch
        Whether the workers can import torch.
    **environment
        What the workers' environment is to have.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Ray says of its own code
        import ray
        import ray.data
        from ray.cluster_utils import Cluster

    before = dict(os.environ)
    # By default its workers are as nice as can be, and wait for whatever else this machine does.
    os.environ.update(environment, PYTHONPATH=python_path(has_torch=has_torch))
    os.environ.update(RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", RAY_worker_niceness="0")
    # A node is lost after five checks without an answer: one that was killed refuses them at once.
    os.environ.update(RAY_health_check_period_ms="300", RAY_USAGE_STATS_ENABLED="0")
    made = Cluster()
    try:
        add_node(made)
        connect(made)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def add_node(made: Any) -> Any:
    """Start another node of two CPUs, and return it."""
    size = {"num_cpus": 2, "object_store_memory": OBJECT_STORE_BYTES}
    # Each of these is a process that nobody asks.
    return made.add_node(**size, include_dashboard=False, include_log_monitor=False, no_monitor=True)


def connect(made: Any) -> None:
    """Connect this process to a cluster."""
    import ray

    ray.init(address=made.address, logging_level="error", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False


def parent_of(process: int) -> int | None:
    """Return the process that started a process: the raylet of its node, for a worker. None if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(status.split("PPid:")[1].split()[0])


def occupy(node: Any, *, n_cpus: int) -> Any:
    """Return an actor that keeps CPUs of a node until it is killed."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Busy:
        def is_there(self) -> bool:
            return True

    here = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    busy = ray.remote(Busy).options(num_cpus=n_cpus, scheduling_strategy=here).remote()
    assert ray.get(busy.is_there.remote())
    return busy
