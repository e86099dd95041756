"""Filling a cache on a cluster, by Ray Data: which clip is whose, and what all workers did."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from typing import TYPE_CHECKING, Any

from ..cache.stats import BadClip, Counters, Filling, Stats
from ..errors import AudioError, ClusterError, HfAudioCacheError, ProcessorError
from ..support.secrets import learn_secret
from .batch_formats import check_column, read_batch
from .cached_features import CachedFeatures

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

__all__ = ["fill_by_ray"]

_BATCH_ROWS = 32  # a round trip's worth, and what is lost with a worker at most
_BLOCK_BYTES = 16 << 20  # of audio: what a worker is given at a time, and is seen to again if it is lost
_PASSES = 3  # over the dataset, where workers were lost together with what they had claimed


def fill_by_ray(
    dataset: ray.data.Dataset,
    cached_features: CachedFeatures,
    *,
    max_workers: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Filling:
    """Compute what a cache lacks of a Ray dataset, on the cluster that this process is connected to.

    Each worker is an actor with a processor of its own. Ray starts as many as there is work and room for, and does the
    work of a lost one again elsewhere. A clip that several rows have is computed by one worker.

    Parameters
    ----------
    dataset
        With the audio column, as `ray.data.read_parquet` and `ray.data.from_huggingface` make it.
    cached_features
        What to fill. Bad clips are listed, whatever its ``on_error`` is; near tiers are neither read nor written. A
        root that is a path must be the same folder for all workers. Its ``storage_options`` are sent to the workers
        over Ray's own connections. Signing keys are not: set their variable where the workers run.
    max_workers
        The most actors; by default as many as the cluster has room for.
    on_rows
        Called with the number of rows that were seen to, again and again.

    Raises
    ------
    ClusterError
        If the workers fail, or clips are missing in the end since workers were lost again and again. What was stored
        stays, so that the same call goes on from there.
    """
    import ray

    columns = dataset.columns(fetch_if_missing=False)  # to fetch them takes a run of its own
    if columns is not None:
        check_column(cached_features.audio_column, columns)
    claims = _start_claims()
    state = _state_without_near(cached_features)
    # By a reference: what stands in the arguments themselves, Ray writes into its descriptions of the dataset.
    sent = ray.put(_sent(cached_features, state))
    work = _work_on(dataset, (sent, claims), max_workers)
    far = _made_of(type(cached_features), state)
    identity = far._router.identity()
    filling = Filling()
    missing: set[str] = set()
    failed: set[str] = set()
    try:
        for _ in range(_PASSES):
            # What the pass before this one computed is a hit of it.
            filling.rows, filling.stats = 0, replace(filling.stats, hits=0, misses=0)
            missing.clear()
            for line in _lines(work):
                done = json.loads(line["done"])
                filling.rows += done["rows"]
                filling.stats += Stats(**done["stats"])
                filling.bad_clips.update((BadClip(*clip), None) for clip in done["bad_clips"])
                filling.n_elsewhere += len(done["elsewhere"])
                missing.update(done["elsewhere"])
                failed.update(done["failed"])
                on_rows(filling.rows)
            filling.n_again = ray.get(claims.end.remote())
            keys = [far._router.key(blob_sha, identity) for blob_sha in sorted(missing - failed)]
            if all(far.audio_cache.exists_many(keys)):
                return filling
    except Exception as exc:
        raise ClusterError(
            f"expected the workers to see to all rows, and after {filling.rows} of them they ended: {_reason(exc)}; "
            "what was stored stays. Do the same again to go on from there."
        ) from exc
    raise ClusterError(
        f"expected all clips to be in the cache, and some of {len(keys)} are not after {_PASSES} passes over the "
        "dataset, since workers were lost with what they computed; the others are. Do the same again, with less in "
        "each worker's memory."
    )


def _reason(error: BaseException) -> str:
    """Return what one of our workers raised, out of what Ray wraps around it; else what Ray says."""
    chain: list[BaseException] = [error]
    for each in chain:
        inner = (each.__cause__, getattr(each, "cause", None), each.__context__)
        chain += [one for one in inner if isinstance(one, BaseException) and one not in chain]
    chain.sort(key=lambda each: (not isinstance(each, HfAudioCacheError), not str(each)))  # keeps the rest in order
    return f"{type(chain[0]).__name__}: {chain[0]}"


def _start_claims() -> Any:
    """Start the record of who computes what, on this node: where it is lost, all is."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(_Claims).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


def _state_without_near(cached_features: CachedFeatures) -> dict[str, Any]:
    """Return what a worker's `CachedFeatures` is made of; the driver's, too, when it looks whether all is there.

    A near tier would have what the root has not: entries that nobody was allowed to write there, or that were deleted.
    """
    # Each counts for itself, and says with each batch what it has done.
    root = cached_features._root.without_local_tier()
    return {**cached_features.__getstate__(), "root": root, "counters": Counters("")}


def _made_of(kind: type[CachedFeatures], state: dict[str, Any]) -> CachedFeatures:
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made


def _sent(cached_features: CachedFeatures, state: dict[str, Any]) -> tuple[bytes, tuple[str, Any] | None, str]:
    """Return what a worker is sent: its `CachedFeatures`, the secret that is not in it, and its identity."""
    import ray

    pickled = ray.cloudpickle.dumps((type(cached_features), state))
    return pickled, cached_features._root.secret, cached_features.processor_sha


def _work_on(dataset: ray.data.Dataset, arguments: tuple[Any, ...], max_workers: int | None) -> ray.data.Dataset:
    """Return what is done, a row for each batch, as JSON; nothing is begun."""
    import ray

    return dataset.map_batches(
        _Worker,
        fn_constructor_args=arguments,
        batch_size=_BATCH_ROWS,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max_workers),
    )


def _lines(work: ray.data.Dataset) -> Iterator[dict[str, Any]]:
    """Do the work, and yield its rows; with settings of our own for that time."""
    context = work.context  # which the dataset that it was made of has, too
    before = context.target_max_block_size, context.enable_progress_bars
    context.target_max_block_size, context.enable_progress_bars = _BLOCK_BYTES, False
    try:
        yield from work.iter_rows()
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


class _Worker:
    """Sees to batches, in an actor of its own."""

    def __init__(self, sent: Any, claims: Any) -> None:
        import ray

        pickled, secret, processor_sha = ray.get(sent)
        if secret is not None:
            learn_secret(*secret)
        self._cached_features = _made_of(*ray.cloudpickle.loads(pickled))
        self._processor_sha = processor_sha
        self._claims = claims
        self._name = ray.get_runtime_context().get_actor_id()  # which it keeps when Ray starts it again
        ray.get(claims.begin.remote(self._name))
        self._n_bad_clips = 0
        if self._cached_features.processor_sha != processor_sha:
            raise ProcessorError(
                f"expected the processor to have the identity {processor_sha[:12]} here too, and it has "
                f"{self._cached_features.processor_sha[:12]}; nothing was computed by this worker. Install the same "
                "versions of transformers and of what else the processor needs on each machine."
            )

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        """Compute what a batch lacks, and return what was done."""
        cached_features = self._cached_features
        cells = read_batch(batch, cached_features.audio_column).cells
        claim = _Claim(self._claims, self._name)
        before = cached_features.stats
        try:
            keys = cached_features._router.ensure(cells, self._processor_sha, claim=claim.take)
        finally:
            claim.release()
        bad_clips = cached_features.bad_clips[self._n_bad_clips :]
        self._n_bad_clips += len(bad_clips)
        seen = {key.blob_sha for key in keys if not isinstance(key, AudioError)}
        done = {
            "rows": len(cells),
            "stats": asdict(cached_features.stats - before),
            "bad_clips": [astuple(clip) for clip in bad_clips],
            "elsewhere": sorted(claim.refused),
            "failed": sorted(claim.granted - seen),
        }
        return {"done": [json.dumps(done)]}


class _Claim:
    """What one batch asks to compute."""

    def __init__(self, claims: Any, worker: str) -> None:
        self._claims, self._worker = claims, worker
        self.granted: set[str] = set()
        self.refused: set[str] = set()

    def take(self, blob_shas: Sequence[str]) -> set[str]:
        """Return those clips that are not another worker's."""
        import ray

        self.granted = set(blob_shas)
        with contextlib.suppress(ray.exceptions.RayActorError):  # without it, clips may be computed twice
            self.granted = set(ray.get(self._claims.take.remote(self._worker, list(blob_shas))))
        self.refused = set(blob_shas) - self.granted
        return self.granted

    def release(self) -> None:
        """Say that these clips are stored, or cannot be."""
        if self.granted:
            self._claims.release.remote(self._worker)


class _Claims:
    """Which worker computes which clip; an actor, of which a run has one.

    What it holds are the clips that are being computed now. A worker that is lost releases nothing: it begins again
    under the same name, and then has none.
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
        """Forget the clips of a worker that begins; those that it had were lost with it."""
        before = len(self._workers)
        self.release(worker)
        self._n_lost += before - len(self._workers)

    def end(self) -> int:
        """Forget all clips, since no worker is left; return how many were lost with theirs so far."""
        self._n_lost += len(self._workers)
        self._workers = {}
        return self._n_lost
