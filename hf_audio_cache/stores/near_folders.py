"""Which local folder is the near tier of a root: each place that holds objects has one, and two never share it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..support.mounts import is_network_mount
from ..support.paths import near_root
from .remote.urls import flat_options, is_in_process, protocols_of

# Options that say which store a bucket's name belongs to, and the variables that stand for them.
_Places = Mapping[str, tuple[str, ...]]
_S3: _Places = {"endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")}
_GCS: _Places = {"endpoint_url": ("STORAGE_EMULATOR_HOST",)}
_AZURE: _Places = {
    "account_name": ("AZURE_STORAGE_ACCOUNT_NAME",),
    "account_host": ("AZURE_STORAGE_ACCOUNT_HOST",),
    "connection_string": ("AZURE_STORAGE_CONNECTION_STRING",),
}
_PLACES: dict[str, _Places] = {
    **dict.fromkeys(("s3", "s3a"), _S3),
    **dict.fromkeys(("gs", "gcs"), _GCS),
    **dict.fromkeys(("az", "abfs", "abfss"), _AZURE),
    "hf": {"endpoint": ("HF_ENDPOINT",)},
}
_OTHER_CLOUD = r"(cn|us-gov|us-iso\w*|eusc)-"  # AWS partitions, which have buckets of their own
_IN_AWS_FILES = re.compile(rf"^\s*(?:endpoint_url\s*=.*|region\s*=\s*{_OTHER_CLOUD}.*)$", re.MULTILINE)
_NOT_EVERYWHERE = re.compile(r'[<>:"\\|?*%\x00-\x1f]|[. ]+$')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_SECRET = re.compile(r"key|secret|token|pass|sas|cred|sig", re.IGNORECASE)


def near_folder(
    url: str, *, near: str | None, storage_options: Mapping[str, Any] | None = None, filesystem: Any = None
) -> str | None:
    """Return the directory of the near tier of a root; None if it has none.

    `near` is the directory that holds the near tiers; ``"auto"`` for the default one, if the root is far. With
    `filesystem`, `url` is a path in it.
    """
    protocol, separator, path = url.partition("://")
    if near == "auto":
        is_far = filesystem is None and (not is_in_process(url) if separator else is_network_mount(url))
        near = near_root() if is_far else None
    if near is None:
        return None
    if filesystem is not None:
        protocol, path, place = protocols_of(filesystem)[0], url.rpartition("://")[2], list(_of_filesystem(filesystem))
    elif separator:
        place = list(_of_options(protocol, flat_options(url, storage_options)))
    else:
        protocol, path, place = "mount", url, []
    digest = _digest(place)
    return os.path.join(near, f"{protocol}-{digest}" if place else protocol, *_segments(path))


def place_of(url: str, storage_options: Mapping[str, Any] | None) -> str:
    """Return a digest that tells the store at a URL from others whose URLs are the same; no secrets are in it."""
    return _digest(list(_of_options(url.partition("://")[0], flat_options(url, storage_options))))


def _digest(place: list[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]


def _segments(path: str) -> Iterator[str]:
    """Yield the folders of a path, without any that leads upwards, under names that every system takes."""
    for segment in path.split("/"):
        if segment:
            name = _NOT_EVERYWHERE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), segment)
            # Windows has devices of these names in every folder.
            yield f"%{ord(name[0]):02X}{name[1:]}" if _DEVICE.fullmatch(name) else name


def _of_options(protocol: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what tells the store at a URL from others that have the same bucket; no secrets."""
    known = _PLACES.get(protocol)
    if known is None:
        yield from _plain_values(options)
        return
    given = {**options, **(options.get("client_kwargs") or {})}
    found = {name: str(_first(given.get(name), *map(os.environ.get, variables))) for name, variables in known.items()}
    yield from ((name, _without_keys(value)) for name, value in found.items() if value)
    if known is _S3:
        region = str(
            _first(given.get("region_name"), os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION"))
        )
        if cloud := re.match(_OTHER_CLOUD, region):
            yield "cloud", cloud[1]
        if not found["endpoint_url"] and (lines := _in_aws_files()):
            profile = _first(given.get("profile"), os.environ.get("AWS_PROFILE"))
            yield from [("profile", str(profile)), ("files", lines)]


def _first(*values: Any) -> Any:
    return next((value for value in values if value), "")


def _in_aws_files() -> str:
    """Return what the files of the AWS tools say of endpoints, whichever profile it is of."""
    home = os.path.join("~", ".aws")
    found: list[str] = []
    for variable, name in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        try:
            path = os.path.expanduser(
                os.environ.get(variable) or os.path.join(home, name)
            )  # unlike Path's, never raises
            text = Path(path).read_text(errors="replace")
        except OSError:
            continue
        found += (match[0].strip() for match in _IN_AWS_FILES.finditer(text))
    return "\n".join(found)


def _without_keys(value: str) -> str:
    """Return a connection string without what is secret in it; another value as it is."""
    return ";".join(part for part in value.split(";") if "=" not in part or not _SECRET.search(part.partition("=")[0]))


def _of_filesystem(filesystem: Any) -> Iterator[tuple[str, str]]:
    """Yield what tells a file system from others of its class."""
    yield "class", f"{type(filesystem).__module__}.{type(filesystem).__qualname__}"
    arguments = enumerate(getattr(filesystem, "storage_args", ()))
    options = {**{str(place): each for place, each in arguments}, **getattr(filesystem, "storage_options", {})}
    if protocols_of(filesystem)[0] in _PLACES:
        yield from _of_options(protocols_of(filesystem)[0], options)
    else:
        yield from _plain_values(options)


def _plain_values(options: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """Yield all options that are plain values and not secret, of inner file systems too."""
    for name, value in sorted(options.items(), key=str):
        if _SECRET.search(str(name)):
            continue
        if isinstance(value, Mapping):
            yield from _plain_values({str(key): each for key, each in value.items()}, f"{inside}{name}.")
        elif isinstance(value, (str, int, float, os.PathLike)):
            yield f"{inside}{name}", str(value)
        elif hasattr(value, "storage_options"):
            yield from ((f"{inside}{name}.{inner}", each) for inner, each in _of_filesystem(value))
