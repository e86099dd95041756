"""Drivers' exceptions: which kind of failure they are, without the secrets they quote."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import traceback
from types import SimpleNamespace

import pytest
from remote_stores import SECRET

from hf_audio_cache.stores.remote.errors import Redactor, is_missing, kind_of, store_error

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"could not sign with {SECRET}", "could not sign with …"),
        ("GET https://host/b/x?X-Amz-Signature=abc&y=1 failed", "GET https://host/b/x?… failed"),
        ("ftp://someone:word@host/x", "ftp://host/x"),
        ("header Bearer ya29.abc here", "header … here"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=AKIA/2026, Signature=abc", "Authorization: … …"),
        ("sv=2021&sig=abc%3D&se=1", "sv=2021&…&se=1"),
        ("key aGVsbG8gd29ybGQ= of the connection string", "key … of the connection string"),
        ("http://127.0.0.1:1 in us-east-1 does not answer", "http://127.0.0.1:1 in us-east-1 does not answer"),
        ("the token of the environment: from-the-environment", "the token of the environment: …"),
    ],
)
def test_what_is_secret_is_cut_out(monkeypatch, text, clean):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "from-the-environment")
    redact = Redactor(
        {
            "secret": SECRET,
            "client_kwargs": {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"},
            "connection_string": "AccountName=account;AccountKey=aGVsbG8gd29ybGQ=;BlobEndpoint=http://127.0.0.1:1",
        }
    )
    assert redact(text) == clean


def test_an_error_that_quotes_a_secret_is_not_kept_as_the_cause():
    inner = ValueError(f"no {SECRET}")
    outer = RuntimeError("failed")
    outer.__cause__ = inner
    error = store_error("read", "s3://b/x", "x", outer, Redactor({"secret": SECRET}))
    assert SECRET not in "".join(traceback.format_exception(error))
    assert str(error) == "could not read s3://b/x: RuntimeError: failed"
    assert store_error("read", "s3://b/x", "x", outer, Redactor({})).__cause__ is outer


def made(name, bases=(Exception,), module="x", **fields):
    error = type(name, bases, {"__module__": module})("said")
    for field, value in fields.items():
        setattr(error, field, value)
    return error


def aws(code, status):
    return made("ClientError", response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (aws("NoSuchBucket", 404), "no bucket"),
        (aws("SlowDown", 503), "throttled"),
        (aws("503", 503), "unreachable"),  # the answer to a HEAD: nothing says that it is for asking too much
        (aws("403", 403), "denied"),
        (aws("ExpiredToken", 400), "unauthenticated"),
        (aws("NoSuchKey", 404), None),
        (made("HttpError", code=429), "throttled"),
        (made("HttpError", code=503), "unreachable"),
        (made("HttpError", code="401"), "unauthenticated"),
        (made("HttpResponseError", status_code=404, error_code="ContainerNotFound"), "no bucket"),
        (made("HttpResponseError", status_code=503, error_code="ServerBusy"), "throttled"),
        (made("ClientResponseError", status=500), "unreachable"),
        (made("HfHubHTTPError", response=SimpleNamespace(status_code=429)), "throttled"),
        (
            made("RepositoryNotFoundError", module="huggingface_hub.errors", response=SimpleNamespace(status_code=401)),
            "no bucket",
        ),
        (OSError("Forbidden: b/x\nsaid"), "denied"),  # gcsfs
        (ConnectionResetError(), "unreachable"),
        (TimeoutError(), "unreachable"),
        (asyncio.TimeoutError(), "unreachable"),
        (concurrent.futures.TimeoutError(), "unreachable" if sys.version_info >= (3, 11) else ""),
        (PermissionError(), "denied"),
        (FileNotFoundError("x"), None),
        (ValueError("x"), ""),
        (OSError(28, "No space left"), ""),
        (NotImplementedError(), ""),
    ],
    ids=lambda value: f"{type(value).__name__}-{value}" if isinstance(value, Exception) else str(value),
)
def test_what_drivers_raise_has_a_kind(error, kind):
    assert kind_of(error) == (kind or "")
    assert is_missing(error) is (kind is None)
    wrapped = OSError("said")
    wrapped.__cause__ = error
    assert kind_of(wrapped) == (kind or "")


def test_the_classes_that_are_known_by_name_are_there():
    import importlib

    from hf_audio_cache.stores.remote import errors

    absent = []
    for path in errors._CLASSES:
        module, _, name = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            absent.append(path)
        else:
            assert issubclass(found, BaseException)
            assert f"{found.__module__}.{found.__qualname__}" in (path, "builtins.TimeoutError")
    assert set(absent) <= {"httpx.TransportError", "huggingface_hub.errors.BucketNotFoundError"}  # of the latest Hub
