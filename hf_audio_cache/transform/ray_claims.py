"""Assign each clip to one of Ray's workers, so that it is computed once."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any


def start_claims() -> Any:
    """Start the actor of `Claims` on this node: if the node is lost, so is the whole run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Claims).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


class BatchClaim:
    """The clips that one batch asks to compute."""

    def __init__(self, claims: Any, worker: str) -> None:
        self._claims, self._worker = claims, worker
        self.granted: set[str] = set()
        self.refused: set[str] = set()

    def take(self, blob_shas: Sequence[str]) -> set[str]:
        """Return the clips that no other worker computes."""
        import ray

        self.granted = set(blob_shas)
        with contextlib.suppress(ray.exceptions.RayActorError):  # without the actor, clips may be computed twice
            self.granted = set(ray.get(self._claims.take.remote(self._worker, list(blob_shas))))
        self.refused = set(blob_shas) - self.granted
        return self.granted

    def release(self) -> None:
        """Report that these clips are stored, or failed."""
        if self.granted:
            self._claims.release.remote(self._worker)


class Claims:
    """The clips that are being computed now, by worker; one actor for a run.

    A lost worker releases nothing. It begins again under the same name, and then has no clips.
    """

    def __init__(self) -> None:
        self._workers: dict[str, str] = {}  # by clip
        self._n_lost = 0

    def take(self, worker: str, blob_shas: list[str]) -> list[str]:
        """Return those of the clips that this worker is to compute."""
        return [blob_sha for blob_sha in blob_shas if self._workers.setdefault(blob_sha, worker) == worker]

    def release(self, worker: str) -> None:
        """Forget the clips of a worker."""
        self._workers = {blob_sha: other for blob_sha, other in self._workers.items() if other != worker}

    def begin(self, worker: str) -> None:
        """Forget the clips of a worker that begins: they were lost with it."""
        before = len(self._workers)
        self.release(worker)
        self._n_lost += before - len(self._workers)

    def end(self) -> int:
        """Forget all clips, as no worker is left; return how many were lost with their workers so far."""
        self._n_lost += len(self._workers)
        self._workers = {}
        return self._n_lost
