"""Translation of fsspec's storage options for S3, GCS and Azure to obstore's, if each of them has an equivalent."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .urls import flat_options

# Options that change nothing about what is stored, or about the requests made here.
_IDLE = {
    *("asynchronous", "skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths"),
    *("default_block_size", "default_fill_cache", "default_cache_type", "block_size", "blocksize", "cache_regions"),
    *("max_concurrency", "cache_timeout", "check_connection", "project", "default_location"),
    *("assume_container_exists", "fixed_upload_size"),
}
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.\-=]+(/[A-Za-z0-9_.\-=]+)*")


class NoEquivalentError(Exception):
    """Obstore has no equivalent for an option; the message names the option, never its value."""


@dataclass(frozen=True)
class Target:
    """What an obstore store is made with."""

    kind: str
    bucket: str
    prefix: str
    config: Mapping[str, Any] = field(repr=False)
    client_options: Mapping[str, Any] = field(repr=False)


def translate(
    root: str, storage_options: Mapping[str, Any] | None, environment: Mapping[str, str] | None = None
) -> Target:
    """Return what obstore needs for a root; NoEquivalentError if obstore would not do the same as fsspec."""
    protocol, _, path = root.partition("://")
    if protocol not in _TRANSLATIONS:
        raise NoEquivalentError(f"obstore is not used for {protocol}://")
    options = {name: value for name, value in flat_options(root, storage_options).items() if value is not None}
    bucket, _, prefix = path.strip("/").partition("/")
    if prefix and not _PLAIN_PATH.fullmatch(prefix):  # obstore would escape it differently
        raise NoEquivalentError("the folder has characters besides letters, digits, '.', '_', '-' and '='")
    kind, translate_options = _TRANSLATIONS[protocol]
    if "@" in bucket:
        bucket, _, host = bucket.partition("@")
        account = re.fullmatch(r"(\w+)\.(dfs|blob)\.core\.windows\.net", host)
        if kind != "AzureStore" or account is None:
            raise NoEquivalentError("the URL has a user")
        options.setdefault("account_name", account[1])
    config, endpoint = translate_options(options, os.environ if environment is None else environment)
    if unknown := sorted(set(options) - _IDLE):
        raise NoEquivalentError(f"obstore has no equivalent for the option {', '.join(unknown)}")
    return Target(kind, bucket, prefix, config, {"allow_http": True} if str(endpoint).startswith("http://") else {})


def _s3(options: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """Remove the options that S3Store has an equivalent for; return obstore's configuration and the endpoint."""
    client = dict(options.pop("client_kwargs", {}))
    config: dict[str, Any] = {}
    endpoint = options.pop("endpoint_url", None) or client.pop("endpoint_url", None) or _s3_endpoint(environment)
    region = client.pop("region_name", None) or environment.get("AWS_DEFAULT_REGION") or environment.get("AWS_REGION")
    anonymous, uses_ssl = options.pop("anon", False), options.pop("use_ssl", True)
    key = {"access_key_id": options.pop("key", None), "secret_access_key": options.pop("secret", None)}
    token = options.pop("token", None)
    _take_s3_config(options)
    if client:
        raise NoEquivalentError(f"obstore has no equivalent for the client option {', '.join(sorted(client))}")
    if not endpoint and not (region and uses_ssl):
        raise NoEquivalentError("neither an endpoint nor a region is given")
    if environment.get("AWS_ENDPOINT"):
        raise NoEquivalentError("AWS_ENDPOINT is read by obstore alone")
    if environment.get("AWS_CA_BUNDLE") and not str(endpoint).startswith("http://"):
        raise NoEquivalentError("obstore does not read AWS_CA_BUNDLE")
    if anonymous:
        config["skip_signature"] = True
    elif all(key.values()):
        if token is None and (environment.get("AWS_SESSION_TOKEN") or environment.get("AWS_TOKEN")):
            raise NoEquivalentError("obstore would add the session token of the environment to the key of the options")
        config |= key if token is None else {**key, "session_token": token}
    elif any(key.values()) or token is not None:
        raise NoEquivalentError("the options have only part of a key")
    elif not (environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")):
        _needs_no_file(environment, "credentials")
    if not endpoint:
        _needs_no_file(environment, "endpoint")
    if environment.get("AWS_PROFILE"):
        raise NoEquivalentError("obstore reads no profiles, and AWS_PROFILE names one")
    config |= {"region": region or "us-east-1", "virtual_hosted_style_request": False}
    if endpoint:
        config |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint}
    return config, endpoint


def _s3_endpoint(environment: Mapping[str, str]) -> str | None:
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        raise NoEquivalentError("obstore reads AWS_IGNORE_CONFIGURED_ENDPOINT_URLS differently")
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")


def _take_s3_config(options: dict[str, Any]) -> None:
    """Remove `config_kwargs`, if obstore does what it says."""
    config = dict(options.pop("config_kwargs", {}))
    # Whether to add and check CRCs: entries have a checksum of their own.
    for name in ("request_checksum_calculation", "response_checksum_validation", "max_pool_connections"):
        config.pop(name, None)
    for name, value in (("signature_version", "s3v4"), ("s3", {"addressing_style": "path"})):
        if config.get(name) == value:
            del config[name]
    if config:
        raise NoEquivalentError(f"obstore has no equivalent for {', '.join(sorted(config))} in config_kwargs")


def _needs_no_file(environment: Mapping[str, str], what: str) -> None:
    """Raise if botocore would read a file of the AWS tools, which obstore does not."""
    home = Path(environment.get("HOME") or Path.home(), ".aws")
    files = {
        environment.get("AWS_CONFIG_FILE") or home / "config",
        environment.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials",
    }
    if any(Path(file).exists() for file in files):
        raise NoEquivalentError(f"obstore reads no files of the AWS tools, and the {what} may be in one")


def _gcs(options: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """Do what `_s3` does for GCS."""
    endpoint = options.pop("endpoint_url", None)
    if not endpoint and environment.get("STORAGE_EMULATOR_HOST"):
        raise NoEquivalentError("obstore does not read STORAGE_EMULATOR_HOST")
    token = options.pop("token", None) or environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    if token == "anon":
        # Otherwise obstore asks the machine's metadata for a token before each write.
        names = ("client_email", "private_key", "private_key_id")
        account: Any = {**dict.fromkeys(names, ""), "disable_oauth": True}
        config = {"skip_signature": True}
    else:
        account = token if isinstance(token, Mapping) else _read_account(token)
        config = {}
        if account.get("type") != "service_account":
            raise NoEquivalentError("the token is not one of a service account")
    if endpoint:
        account = {**account, "gcs_base_url": endpoint}
    return {**config, "service_account_key": json.dumps(account)}, endpoint


def _read_account(token: object) -> Mapping[str, Any]:
    try:
        read = json.loads(Path(str(token)).read_text()) if token else None
    except (OSError, ValueError):
        read = None
    if not isinstance(read, Mapping):
        raise NoEquivalentError("no token is given that obstore can read; gcsfs looks in more places")
    return read


def _azure(options: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    """Do what `_s3` does for Azure."""

    def take(name: str) -> Any:
        return options.pop(name, None) or environment.get(f"AZURE_STORAGE_{name.upper()}")

    endpoint = None
    account, key, sas, said = map(take, ("account_name", "account_key", "sas_token", "connection_string"))
    host, is_anonymous = options.pop("account_host", None), take("anon")
    if said:
        parts = dict(part.partition("=")[::2] for part in str(said).strip(";").split(";"))
        account, key, sas = (parts.pop(n, None) for n in ("AccountName", "AccountKey", "SharedAccessSignature"))
        protocol, suffix = parts.pop("DefaultEndpointsProtocol", "https"), parts.pop("EndpointSuffix", None)
        endpoint = parts.pop("BlobEndpoint", None) or f"{protocol}://{account}.blob.{suffix or 'core.windows.net'}"
        if parts:
            raise NoEquivalentError(
                f"obstore has no equivalent for {', '.join(sorted(parts))} in the connection string"
            )
    elif host:
        endpoint = f"https://{host}"
    if not account:
        raise NoEquivalentError("no account is given")
    config: dict[str, Any] = {"account_name": account}
    if key:
        config["account_key"] = key
    elif sas:
        config["sas_key"] = str(sas).removeprefix("?")
    elif is_anonymous is True:
        config["skip_signature"] = True
    else:
        raise NoEquivalentError("neither a key nor a signature is given; adlfs looks in more places")
    if endpoint:
        config["endpoint"] = endpoint.rstrip("/")
    return config, endpoint


_Translation = Callable[[dict[str, Any], Mapping[str, str]], tuple[dict[str, Any], "str | None"]]
_TRANSLATIONS: dict[str, tuple[str, _Translation]] = {
    **dict.fromkeys(("s3", "s3a"), ("S3Store", _s3)),
    **dict.fromkeys(("gs", "gcs"), ("GCSStore", _gcs)),
    **dict.fromkeys(("az", "abfs", "abfss"), ("AzureStore", _azure)),
}
