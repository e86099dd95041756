"""Filling a cache on a cluster: how Ray Data is started, what its workers do, and which of them computes a clip."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..audio.source import check_column
from ..cache.stats import BadClip, Counters, Stats
from ..errors import AudioError, ClusterError, HfAudioCacheError, ProcessorError
from ..pipeline.feature_pipeline import FeaturePipeline
from ..pipeline.unstorable import check_storable
from ..processors.extractor import name_of
from ..support.secrets import learn_secret
from .batch_formats import read_batch
from .cached_features import CachedFeatures

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

_BATCH_ROWS = 32  # about a round trip's worth of entries, and the most that is lost with a worker
_BLOCK_BYTES = 16 << 20  # of audio that a worker gets at a time, and that is done again if the worker is lost
_PASSES = 3  # over the dataset, if workers are lost with clips that they had claimed


@dataclass
class FillReport:
    """What the processes or workers that filled a cache did."""

    rows: int = 0  # that were processed
    # Their figures in all. A clip that a lost worker had stored is a hit of the worker that took over.
    stats: Stats = field(default_factory=Stats)
    n_elsewhere: int = 0  # clips that a worker left to another one, which was computing them
    # Clips that were computed again, since their worker was lost. Others are computed twice only if a worker survives
    # its node for a moment.
    n_again: int = 0
    bad_clips: dict[BadClip, None] = field(default_factory=dict)  # each once
    n_not_stored: int = 0  # clips whose features the root did not take
    reason: str = ""


def fill_by_ray(
    dataset: ray.data.Dataset,
    cached_features: CachedFeatures,
    *,
    max_workers: int | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
) -> FillReport:
    """Compute and store the missing features of a Ray dataset, on the cluster that this process is connected to.

    Bad clips are reported, with any ``on_error``. Ray sends the ``storage_options`` of the root and of the audio to the
    workers. It does not send signing keys: set their environment variable on the workers. `on_rows` is called
    repeatedly with the number of rows done so far.

    Raises UnstorableOutputError if no entry can hold the outputs of the processor; ClusterError if the workers fail, or
    clips are missing in the end since workers were lost again and again. What was stored stays, so the same call goes
    on from there.
    """
    import ray

    columns = dataset.columns(fetch_if_missing=False)  # fetching them would be a run of its own
    if columns is not None:
        check_column(cached_features.settings.audio_column, columns)
    claims = start_claims()
    pipeline = _for_workers(cached_features.pipeline)
    check_storable(pipeline.output_specs(), name_of(pipeline.processor))
    identity = pipeline.identity()
    options = pipeline.settings.audio_storage_options
    secrets = [pipeline.root.root.secret, None if options is None else (options.token, options.value)]
    sent = (ray.cloudpickle.dumps(pipeline), [secret for secret in secrets if secret is not None], identity.sha)
    # By a reference: Ray writes the arguments themselves into its descriptions of the dataset.
    work = _work_on(dataset, (ray.put(sent), claims), max_workers)
    report = FillReport()
    try:
        for _ in range(_PASSES):
            left = _one_pass(work, report, on_rows)
            report.n_again = ray.get(claims.end.remote())
            keys = [pipeline.key(blob_sha, identity) for blob_sha in left]
            if all(pipeline.audio_cache.exists_many(keys)):
                return report
    except Exception as exc:
        raise ClusterError(
            f"the workers ended after {report.rows} rows: {_reason(exc)}. What was stored stays: do the same again to "
            "go on from there."
        ) from exc
    raise ClusterError(
        f"clips are missing in the cache, some of {len(keys)}, after {_PASSES} passes over the dataset: workers were "
        "lost with what they had computed. All others are stored. Do the same again, with less in each worker's memory."
    )


def _one_pass(work: ray.data.Dataset, report: FillReport, on_rows: Callable[[int], None]) -> list[str]:
    """Do the work once, add it to the report, and return the clips that some worker left to another one."""
    # Clips that an earlier pass computed are hits of this one: hits and misses count in the last pass alone.
    report.rows, report.stats = 0, replace(report.stats, hits=0, misses=0)
    elsewhere: set[str] = set()
    failed: set[str] = set()
    for line in _lines(work):
        done = json.loads(line["done"])
        report.rows += done["rows"]
        report.stats += Stats(**done["stats"])
        report.bad_clips.update((BadClip(*clip), None) for clip in done["bad_clips"])
        report.n_elsewhere += len(done["elsewhere"])
        elsewhere.update(done["elsewhere"])
        failed.update(done["failed"])
        on_rows(report.rows)
    return sorted(elsewhere - failed)


def _reason(error: BaseException) -> str:
    """Return what a worker of ours raised, without Ray's wrapping; else what Ray says."""
    chain: list[BaseException] = [error]
    for each in chain:
        inner = (each.__cause__, getattr(each, "cause", None), each.__context__)
        chain += [one for one in inner if isinstance(one, BaseException) and one not in chain]
    chain.sort(key=lambda each: (not isinstance(each, HfAudioCacheError), not str(each)))  # keeps the rest in order
    return f"{type(chain[0]).__name__}: {chain[0]}"


def _for_workers(pipeline: FeaturePipeline) -> FeaturePipeline:
    """Return the pipeline without near tier, which may have entries that the root has not; each worker counts anew."""
    root = pipeline.root.root.without_near_tier()
    return FeaturePipeline(**{**pipeline.__getstate__(), "root": root, "counters": Counters("")})


def _work_on(dataset: ray.data.Dataset, arguments: tuple[Any, ...], max_workers: int | None) -> ray.data.Dataset:
    """Return the work as a lazy dataset: a row for each batch, as JSON."""
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
    """Do the work and yield its rows, with other settings of Ray Data meanwhile."""
    context = work.context  # shared with the dataset that it was made of
    before = context.target_max_block_size, context.enable_progress_bars
    context.target_max_block_size, context.enable_progress_bars = _BLOCK_BYTES, False
    try:
        yield from work.iter_rows()
    finally:
        context.target_max_block_size, context.enable_progress_bars = before


class _Worker:
    """Computes the missing features of batches, in an actor of its own."""

    def __init__(self, sent: Any, claims: Any) -> None:
        import ray

        pickled, secrets, processor_sha = ray.get(sent)
        for secret in secrets:
            learn_secret(*secret)
        self._pipeline: FeaturePipeline = ray.cloudpickle.loads(pickled)
        self._processor_sha = processor_sha
        self._claims = claims
        self._name = ray.get_runtime_context().get_actor_id()  # stays the same when Ray starts the actor again
        ray.get(claims.begin.remote(self._name))
        self._n_bad_clips = 0
        own_sha = self._pipeline.identity().sha
        if own_sha != processor_sha:
            raise ProcessorError(
                "the processor has another identity on this worker. Install the same versions of transformers and of "
                f"what else the processor needs on each machine. It is {own_sha[:12]} here and {processor_sha[:12]} "
                "where the fill was started; this worker computed nothing."
            )

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        """Compute and store what is missing of a batch, and return what was done."""
        pipeline = self._pipeline
        cells = read_batch(batch, pipeline.settings.audio_column).cells
        claim = BatchClaim(self._claims, self._name)
        before = pipeline.counters.total()
        try:
            clips = pipeline.ensure(cells, self._processor_sha, claim=claim.take)
        finally:
            claim.release()
        bad_clips = pipeline.counters.bad_clips()[self._n_bad_clips :]
        self._n_bad_clips += len(bad_clips)
        seen = {clip.key.blob_sha for clip in clips if not isinstance(clip, AudioError)}
        done = {
            "rows": len(cells),
            "stats": asdict(pipeline.counters.total() - before),
            "bad_clips": [astuple(clip) for clip in bad_clips],
            "elsewhere": sorted(claim.refused),
            "failed": sorted(claim.granted - seen),
        }
        return {"done": [json.dumps(done)]}


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
