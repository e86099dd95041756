"""Last step: store what was computed while the next clips are computed; manifest and tag of the root once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from ..audio.length import ClipLength
from ..audio.waveform import Waveform
from ..cache.entry_cache import EntryCache
from ..cache.keys import AudioCacheKey, WaveformCacheKey
from ..cache.layout import TAG, TAG_NAME, manifest_name
from ..cache.open_root import OpenRoot
from ..cache.processor_manifest import Manifest
from ..errors import UnstorableOutputError
from ..processors.identity import ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..support.process_local import is_worker
from ..support.write_behind import WriteError, Writer


class EntryWriter:
    """Encodes and stores entries, in the calling thread or behind the computation of the next clips."""

    def __init__(self, root: OpenRoot) -> None:
        self._root = root
        self.write_behind = Writer()

    def write(
        self,
        key: AudioCacheKey | WaveformCacheKey,
        outputs: Mapping[str, Any],
        length: ClipLength,
        compute_seconds: float,
    ) -> list[WriteError]:
        """Store the entry of a clip in the calling thread; return why it could not be stored."""
        is_waveform = isinstance(key, WaveformCacheKey)
        cache: EntryCache[Any] = self._root.waveform_cache if is_waveform else self._root.audio_cache
        try:
            return [*cache.store_many({key: outputs}, compute_seconds=compute_seconds, length=length)]
        except UnstorableOutputError as exc:
            exc.key = key
            return [exc]

    def write_waveform(self, key: WaveformCacheKey, waveform: Waveform, compute_seconds: float) -> list[WriteError]:
        """Store the waveform of a clip in the calling thread; a lost one is counted, and costs a decoding."""
        self.write(key, {"waveform": waveform.samples}, waveform.length, compute_seconds)
        return []

    def note(self, errors: list[WriteError]) -> None:
        """Take errors of features that were not stored, or by other threads for this one."""
        self.write_behind.submit(lambda: errors, at_once=True)

    def submit(self, write: Callable[[], list[WriteError]], *, behind: bool = True) -> None:
        """Call `write`, which stores something, behind the next clips or in the calling thread."""
        # A store that takes nothing now refuses before anything is encoded: no thread is needed for that. A worker
        # has no core to spare for one, unless it waits for the network.
        store = self._root.store
        is_quick = not behind or (store.is_local and is_worker()) or bool(store.refuse_puts((TAG_NAME,)))
        self.write_behind.submit(write, at_once=is_quick)

    def wait(self) -> list[WriteError]:
        """Wait until all is stored; return the errors of features that this thread submitted."""
        return self.write_behind.wait()


# What each processor was found to give, for the next root of this process, and for workers that are forked from it.
_PROBED: dict[str, dict[str, OutputSpec]] = {}
_MOST_PROBED = 64


class ProcessorManifests:
    """The manifests of processors in a root: what each is, and the form of its outputs."""

    def __init__(self, root: OpenRoot, probe: Callable[[], dict[str, OutputSpec]]) -> None:
        self._root = root
        self._probe = probe  # finds the form of the outputs, if the root has no manifest
        self._known: dict[str, Manifest] = {}  # by identity, as read or written
        self._ensured: set[str] = set()  # identities whose manifest this process has looked for and written

    def get(self, identity: ProcessorIdentity) -> Manifest:
        """Return the manifest of a processor as the root has it, or as it will be written."""
        known = self._known.get(identity.sha)
        if known is None:
            known = self._root.read_manifest(identity.sha)
            if known is None or not known.outputs:  # the made-up clips failed where it was written, and may not here
                known = Manifest.of(identity, self._specs(identity.sha))
            self._known[identity.sha] = known
        return known

    def _specs(self, processor_sha: str) -> dict[str, OutputSpec]:
        found = _PROBED.get(processor_sha) or self._probe()
        if len(_PROBED) >= _MOST_PROBED:
            _PROBED.clear()
        _PROBED[processor_sha] = found
        return found

    def ensure(self, identity: ProcessorIdentity) -> None:
        """Write the manifest, and the root's tag, if the root has none; tried once in a process."""
        if identity.sha in self._ensured:
            return
        missing = {}
        if self._root.lacks_manifest(identity.sha):
            missing[manifest_name(identity.sha)] = self.get(identity).to_bytes(self._root.signing_keys)
        tag_root(self._root, missing)
        self._ensured.add(identity.sha)


def tag_root(root: OpenRoot, beside: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """Write the root's tag if it has none, and further objects beside it. A strict root raises `StoreError`."""
    objects = dict(beside) if root.store.exists(TAG_NAME) else {**beside, TAG_NAME: TAG}
    failed = [error for error in root.store.put_many(objects).values() if error.kind != "read-only"]
    root.counters.add(write_errors=len(failed))
    if failed and root.root.strict:
        raise failed[0]
