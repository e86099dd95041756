"""The manifest of a processor: what its identity stands for, in words, and the form of its outputs.

``processors/<processor_sha>.json`` is written once under a root, sorted and indented, so that two of them can be
compared by eye, and a miss be explained.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StoreError, UnknownVersionError, UnsignedEntryError
from ..processors.identity import ProcessorIdentity
from ..processors.output_specs import OutputSpec
from ..stores import Store
from .entry_manifest import check_version
from .layout import PROCESSORS, manifest_name, parse_manifest_name
from .signing import SigningKeys

VERSION = 1  # of the file; not written, since only a later one has to be told from it

# What an identity does not contain, but somebody who looks for a difference wants to know.
_LIBRARIES = ("hf_audio_cache", "transformers", "numpy", "torch", "torchaudio")


@dataclass(frozen=True)
class Manifest:
    """What is known of a processor."""

    identity: ProcessorIdentity  # with the description
    outputs: Mapping[str, OutputSpec]  # the form of each output; none where that could not be found out
    versions: Mapping[str, str]  # releases of Python and of libraries where the manifest was written, for information

    @classmethod
    def of(cls, identity: ProcessorIdentity, outputs: Mapping[str, OutputSpec]) -> Manifest:
        """Return the manifest of a processor in this process."""
        imported = {library: sys.modules[library] for library in _LIBRARIES if library in sys.modules}
        versions = {library: str(getattr(module, "__version__", "unknown")) for library, module in imported.items()}
        return cls(identity, outputs, {"python": platform.python_version(), **versions})

    def to_bytes(self, signing_keys: SigningKeys | None = None) -> bytes:
        """Return the file's content; under a signed root with a ``signature`` of all else that it says."""
        manifest = {
            "processor_sha": self.identity.sha,
            "identity": self.identity.description,
            "outputs": [{"name": name, **spec.to_json()} for name, spec in self.outputs.items()],
            "versions": self.versions,
        }
        if signing_keys is not None:
            manifest["signature"] = signing_keys.sign(_text(manifest)).decode()
        return _text(manifest)

    @classmethod
    def from_bytes(cls, content: bytes, signing_keys: SigningKeys | None = None) -> Manifest:
        """Return the manifest that a file holds.

        Raises UnknownVersionError if a later release wrote it; ValueError, KeyError, TypeError, AttributeError or
        RecursionError if it is no manifest, or none of the keys signed it.
        """
        manifest = json.loads(content)
        signature = manifest.pop("signature", "")
        if signing_keys is not None and not signing_keys.accept(_text(manifest), signature.encode()):
            raise UnsignedEntryError("the manifest has no signature that one of the signing keys made")
        check_version(int(manifest.get("version", VERSION)), VERSION)
        identity = ProcessorIdentity.of(dict(manifest["identity"]))
        if manifest["processor_sha"] != identity.sha:
            raise ValueError("the identity that the manifest describes has another sha than it says")
        return cls(
            identity,
            {spec["name"]: OutputSpec.from_json(spec) for spec in manifest["outputs"]},
            dict(manifest["versions"]),
        )


def _text(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def parse_manifest(found: object, processor_sha: str, signing_keys: SigningKeys | None = None) -> Manifest | None:
    """Return the manifest of a processor that a store gave; None if it gave none, or none that is good.

    Raises UnknownVersionError if a later release wrote it.
    """
    if not isinstance(found, bytes):
        return None
    try:
        manifest = Manifest.from_bytes(found, signing_keys)
    except UnknownVersionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return manifest if manifest.identity.sha == processor_sha else None


def read_manifest(
    store: Store, processor_sha: str, signing_keys: SigningKeys | None = None, *, strict: bool = False
) -> Manifest | None:
    """Return the manifest of a processor; None if it is missing or unreadable; StoreError if `strict` and not read."""
    [found] = store.get_many([manifest_name(processor_sha)])
    if strict and isinstance(found, StoreError):
        raise found
    try:
        return parse_manifest(found, processor_sha, signing_keys)
    except UnknownVersionError:
        return None


def manifests_of(store: Store, signing_keys: SigningKeys | None = None, beginning: str = "") -> Iterator[Manifest]:
    """Yield the good manifests of processors whose sha begins like this."""
    for name in store.names(f"{PROCESSORS}/{beginning}"):
        sha = parse_manifest_name(name)
        manifest = read_manifest(store, sha, signing_keys) if sha else None
        if manifest is not None:
            yield manifest
