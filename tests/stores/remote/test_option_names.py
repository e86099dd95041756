"""Storage options that no driver knows are an error when a root is made; nothing is contacted for it."""

from __future__ import annotations

import inspect
import socket

import fsspec
import pytest

from hf_audio_cache import CacheRoot
from hf_audio_cache.errors import InvalidRootError

pytestmark = pytest.mark.servers

KEY = "c2VjcmV0"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("url", "options", "suggestion"),
    [
        ("s3://b/x", {"aws_access_key_id": KEY}, "'key'"),
        ("s3://b/x", {"AWS_SECRET_ACCESS_KEY": KEY}, "'secret'"),
        ("s3://b/x", {"aws_session_token": KEY}, "'token'"),
        ("s3://b/x", {"access_key_id": KEY}, "'key'"),
        ("s3://b/x", {"endpoint": "http://x"}, "'endpoint_url'"),
        ("s3://b/x", {"endpoint_ulr": "http://x"}, "'endpoint_url'"),
        ("s3://b/x", {"region": "eu-west-1"}, "client_kwargs={'region_name': …}"),
        ("s3://b/x", {"verify": False}, "client_kwargs={'verify': …}"),
        ("s3://b/x", {"signature_version": "s3v4"}, "config_kwargs={'signature_version': …}"),
        ("s3://b/x", {"profile_name": "lab"}, "'profile'"),
        ("s3://b/x", {"client_kwarg": {}}, "'client_kwargs'"),
        ("s3://b/x", {"client_kwargs": {"region": "x"}}, "'region_name'"),
        ("s3://b/x", {"client_kwargs": {"endpoint": "x"}}, "'endpoint_url'"),
        ("s3://b/x", {"config_kwargs": {"signature_versoin": "x"}}, "'signature_version'"),
        ("s3://b/x", {"s3": {"acces_key": KEY}}, "'key'"),
        ("s3a://b/x", {"batch_size": 3}, ""),
        ("s3://b/x", {"gs": {"token": KEY}}, ""),
        ("gs://b/x", {"credentials": KEY}, "'token'"),
        ("gs://b/x", {"google_application_credentials": KEY}, "'token'"),
        ("gs://b/x", {"projekt": "x"}, "'project'"),
        ("gcs://b/x", {"key": KEY, "secret": KEY}, "'token'"),
        ("az://b/x", {"azure_storage_account_name": "x"}, "'account_name'"),
        ("abfs://b/x", {"sas": KEY}, "'sas_token'"),
        ("az://b/x", {"connection_str": KEY}, "'connection_string'"),
        ("hf://buckets/a/b", {"hf_token": KEY}, "'token'"),
    ],
)
def test_an_unknown_option_is_named_with_the_right_one(url, options, suggestion):
    with pytest.raises(InvalidRootError, match=r"has no storage option .*nothing was opened") as caught:
        CacheRoot(url, storage_options=options)
    said = str(caught.value)
    assert (f"did you mean {suggestion}" if suggestion else "; it has ") in said
    assert KEY not in said


@pytest.mark.parametrize("protocol", ["s3", "gs", "az", "hf"])
def test_what_a_driver_takes_is_taken(protocol):
    system = fsspec.get_filesystem_class(protocol)
    named = {
        name: None
        for name, each in inspect.signature(system.__init__).parameters.items()
        if name != "self" and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    own = {"use_listings_cache": False, "listings_expiry_time": 1, "max_paths": 1, "skip_instance_cache": True}
    CacheRoot(f"{protocol}://buckets/a/b", storage_options={**named, **own})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (
            "s3://b/x",
            {"profile": "lab", "client_kwargs": {"region_name": "x", "verify": False, "aws_session_token": "x"}},
        ),
        ("s3://b/x", {"config_kwargs": {"s3": {}, "retries": {}, "response_checksum_validation": "when_required"}}),
        ("sftp://host/x", {"username": "me", "look_for_keys": False}),  # for paramiko, which has names of its own
        ("memory://x", {"whatever": 1}),
        ("s3://b/x", {}),
    ],
)
def test_other_options_are_left_to_the_driver(url, options):
    CacheRoot(url, storage_options=options)


def test_a_file_system_that_is_handed_over_is_left_alone():
    system = fsspec.filesystem("memory", key="x", whatever=2)
    CacheRoot("s3:/bucket/x", filesystem=system, near=None)
