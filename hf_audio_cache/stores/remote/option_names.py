"""Names of storage options, compared with those that a driver takes: a name that it does not know never works."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.dircache import DirCache

from ...errors import InvalidRootError
from .urls import flat_options

# Drivers that hand options which they do not know to nobody, or to a session whose options are known. Others may pass
# them on to a library of their own (paramiko, pyarrow), which is not asked here.
_DRIVERS = ("s3fs", "gcsfs", "adlfs", "huggingface_hub")

# What other libraries call an option, without the name of their cloud before it, and what the drivers call it.
_OTHER_NAMES = {
    "s3fs": {
        **dict.fromkeys(("access_key_id", "access_key", "key_id", "accesskey"), "key"),
        **dict.fromkeys(("secret_access_key", "secret_key", "secretkey"), "secret"),
        "session_token": "token",
        **dict.fromkeys(("endpoint", "endpoint_override", "s3_endpoint", "host"), "endpoint_url"),
        **dict.fromkeys(("region", "default_region"), "region_name"),
        "profile_name": "profile",
        "skip_signature": "anon",
    },
    "gcsfs": {
        **dict.fromkeys(("credentials", "application_credentials", "service_account", "service_account_key"), "token"),
        **dict.fromkeys(("service_account_file", "key", "keyfile", "json_credentials"), "token"),
        "endpoint": "endpoint_url",
        "anon": "token",
    },
    "adlfs": {
        **dict.fromkeys(("account", "storage_account"), "account_name"),
        **dict.fromkeys(("key", "access_key", "storage_key"), "account_key"),
        **dict.fromkeys(("sas", "sas_key"), "sas_token"),
        **dict.fromkeys(("endpoint", "endpoint_url", "host"), "account_host"),
    },
    "huggingface_hub": {**dict.fromkeys(("use_auth_token", "api_key", "key"), "token"), "endpoint_url": "endpoint"},
}
_CLOUDS = ("aws_s3_", "aws_", "s3_", "fs_s3a_", "google_cloud_", "google_", "gcs_", "azure_storage_", "azure_", "hf_")


def check_option_names(root: str, storage_options: Mapping[str, Any] | None) -> None:
    """Raise InvalidRootError for storage options of a URL that its driver does not know; nothing is contacted."""
    options = flat_options(root, storage_options)
    if not options:
        return
    try:
        system = fsspec.get_filesystem_class(root.partition("://")[0])
        driver = system.__module__.partition(".")[0]
        if driver not in _DRIVERS:
            return
        known, inner = _known_names(driver, system)
    except ImportError:  # a driver that is installed in part says so when it is used
        return
    problems = [_problem(driver, name, known, inner) for name in options if name not in known]
    for group, names in inner.items():
        given = options.get(group)
        if isinstance(given, Mapping):
            problems += [_problem(driver, name, names, {}, f" in {group}") for name in given if name not in names]
    if problems:
        raise InvalidRootError(f"{'; '.join(problems)}; nothing was opened.", root=root)


def _known_names(driver: str, system: type) -> tuple[set[str], dict[str, set[str]]]:
    """Return the names that a driver takes, and those inside of options that are dicts."""
    known = {*_parameters(DirCache.__init__), "skip_instance_cache"}
    for base in system.__mro__[: system.__mro__.index(fsspec.AbstractFileSystem)]:
        if "__init__" in vars(base) and not (driver == "s3fs" and base is AsyncFileSystem):  # s3fs hands it three names
            known |= _parameters(vars(base)["__init__"])
    if driver != "s3fs":
        return known, {}
    session = importlib.import_module("aiobotocore.session").AioSession
    config = importlib.import_module("aiobotocore.config").AioConfig
    for base in session.__mro__[:-1]:
        known |= _parameters(vars(base).get("__init__", object.__init__))
    own = {"service_name", "config"}  # which s3fs says itself
    return known, {
        "client_kwargs": _parameters(inspect.unwrap(session.__mro__[1].create_client)) - own,
        "config_kwargs": {*config.OPTION_DEFAULTS, *getattr(config, "NON_LEGACY_OPTION_DEFAULTS", ())}
        | _parameters(config.__init__),
    }


def _parameters(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)} - {"self"}


def _problem(
    driver: str, name: object, known: Collection[str], inner: Mapping[str, Collection[str]], where: str = ""
) -> str:
    said = f"{driver} has no storage option {name!r}{where}"
    suggestion = next(_suggestions(driver, str(name), known, inner), None)
    return f"{said} (did you mean {suggestion}?)" if suggestion else f"{said}; it has {', '.join(sorted(known))}"


def _suggestions(driver: str, name: str, known: Collection[str], inner: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Yield what may have been meant, the likeliest first."""
    others = _OTHER_NAMES[driver]
    names = [name.lower().replace("-", "_").replace(".", "_")]
    names += [names[0].removeprefix(cloud) for cloud in _CLOUDS if names[0].startswith(cloud)]
    close = difflib.get_close_matches(names[-1], [*known, *others], n=1)
    for each in [*(others.get(each, each) for each in reversed(names)), *(others.get(each, each) for each in close)]:
        if each in known:
            yield repr(each)
        yield from (f"{group}={{{each!r}: …}}" for group, inside in inner.items() if each in inside)
