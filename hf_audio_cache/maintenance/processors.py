"""List and compare the processors of a root, by their manifests."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any

from ..cache.open_root import OpenRoot
from ..cache.processor_manifest import Manifest, manifests_of
from ..cache.root import CacheRoot
from ..cache.signing import SigningKeys
from ..stores import Store
from ..support.report import Report, Table
from .explain import explain_difference


@dataclass(frozen=True)
class ProcessorInfo:
    """A processor that a root has a manifest of."""

    sha: str  # the first twelve of its 64 digits stand in the names of entries
    name: str  # its class, or the name that the user gave a function
    outputs: dict[str, str]  # dtype and shape of each (None for an axis that follows the clip)
    versions: dict[str, str]  # releases of Python and of libraries where it was first used

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def _name(manifest: Manifest) -> str:
    description = manifest.identity.description
    given = description.get("identity")
    return str(given) if given else str(description.get("class", "")).rpartition(".")[2]


def processor_names(store: Store) -> dict[str, str]:
    """Return the name of each processor by the first twelve digits of its sha."""
    return {manifest.identity.sha[:12]: _name(manifest) for manifest in manifests_of(store)}


def list_processors(root: str | os.PathLike[str] | CacheRoot) -> list[ProcessorInfo]:
    """Return the processors that a root has a good manifest of."""
    opened = OpenRoot.for_maintenance(root)
    return [
        ProcessorInfo(
            manifest.identity.sha,
            _name(manifest),
            {name: f"{spec.dtype or 'JSON'} {_shape(spec.shape)}".strip() for name, spec in manifest.outputs.items()},
            dict(manifest.versions),
        )
        for manifest in manifests_of(opened.store, opened.signing_keys)
    ]


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "of any shape" if shape is None else f"({', '.join('n' if axis is None else str(axis) for axis in shape)})"


@dataclass(frozen=True, repr=False)
class ProcessorDifference(Report):
    """What differs between two processors."""

    old: str  # sha
    new: str  # sha
    differences: tuple[str, ...]  # such as ``feature_size: 80 -> 128``

    def tables(self) -> list[Table]:
        return [Table(f"{self.old[:12]} -> {self.new[:12]}", (), [(line,) for line in self.differences])]


def diff_processors(root: str | os.PathLike[str] | CacheRoot, old: str, new: str) -> ProcessorDifference:
    """Return what differs between two processors of a root, each named by its sha or the beginning of it.

    Raises ValueError if there is no such manifest, or more than one.
    """
    opened = OpenRoot.for_maintenance(root)
    there, wanted = (_read_one(opened.store, sha, opened.signing_keys) for sha in (old, new))
    differences = () if there.identity == wanted.identity else tuple(explain_difference(there, wanted))
    return ProcessorDifference(there.identity.sha, wanted.identity.sha, differences)


def _read_one(store: Store, sha: str, keys: SigningKeys | None) -> Manifest:
    manifests = list(manifests_of(store, keys, sha)) if re.fullmatch(r"[0-9a-f]{4,64}", sha) else []
    if len(manifests) == 1:
        return manifests[0]
    raise ValueError(
        f"{len(manifests)} processors under {store.location()} begin with {sha!r}. Pass the first 4 to 64 digits of "
        "one, as `hf-audio-cache processors` lists them."
    )
