"""fsspec's options as obstore's, or why there is no equivalent."""

from __future__ import annotations

import pytest
from remote_stores import HERE, KEY

from hf_audio_cache.stores.remote.obstore_options import NoEquivalentError, translate

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(
    ("root", "options", "environment", "kind", "config", "client"),
    [
        ("s3://b/x/y", {**KEY, **HERE}, {}, "S3Store", {"access_key_id": "k", "endpoint": HERE["endpoint_url"]}, True),
        ("s3://b", {**KEY, "client_kwargs": {**HERE, "region_name": "r"}}, {}, "S3Store", {"region": "r"}, True),
        ("s3a://b", {**KEY, "token": "t"}, {"AWS_DEFAULT_REGION": "r"}, "S3Store", {"session_token": "t"}, False),
        ("s3://b", {"anon": True, **HERE}, {}, "S3Store", {"skip_signature": True, "region": "us-east-1"}, True),
        ("s3://b", {"anon": False}, {"AWS_REGION": "r"}, "S3Store", {"region": "r"}, False),
        ("s3://b", None, {"AWS_ENDPOINT_URL": "https://h"}, "S3Store", {"endpoint": "https://h"}, False),
        (
            "s3://b",
            {**KEY, **HERE, "use_ssl": False, "config_kwargs": {"s3": {"addressing_style": "path"}}},
            {"AWS_CA_BUNDLE": "/x"},
            "S3Store",
            {"virtual_hosted_style_request": False},
            True,
        ),
        ("gs://b/x", {"token": "anon", "project": "p", **HERE}, {}, "GCSStore", {"skip_signature": True}, True),
        ("gcs://b", {"token": {"type": "service_account", "private_key": "p"}}, {}, "GCSStore", {}, False),
        ("az://b", {"account_name": "a", "account_key": "k"}, {}, "AzureStore", {"account_key": "k"}, False),
        ("abfs://b", {"account_name": "a", "sas_token": "?sig=s"}, {}, "AzureStore", {"sas_key": "sig=s"}, False),
        ("az://b", {"account_name": "a", "anon": True}, {}, "AzureStore", {"skip_signature": True}, False),
        ("abfss://b@a.dfs.core.windows.net/x", {"account_key": "k"}, {}, "AzureStore", {"account_name": "a"}, False),
        (
            "az://b",
            None,
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey=k==;EndpointSuffix=core.x.cn"},
            "AzureStore",
            {"account_name": "a", "account_key": "k==", "endpoint": "https://a.blob.core.x.cn"},
            False,
        ),
    ],
)
def test_options_in_the_words_of_obstore(tmp_path, root, options, environment, kind, config, client):
    target = translate(root, options, {"HOME": str(tmp_path), **environment})
    assert (target.kind, target.bucket, target.prefix) == (kind, "b", root.partition("://")[2].partition("/")[2])
    assert config.items() <= target.config.items()
    assert target.client_options == ({"allow_http": True} if client else {})
    assert "secret_access_key" not in repr(target)


@pytest.mark.parametrize(
    ("root", "options", "environment", "said"),
    [
        ("hf://datasets/a/b", {}, {}, "not used for hf://"),
        ("s3://b", {**KEY, **HERE, "profile": "p"}, {}, "option profile"),
        ("s3://b", {**KEY, **HERE, "requester_pays": True, "zzz": 1}, {}, "option requester_pays, zzz"),
        ("s3://b", {**KEY, "client_kwargs": {**HERE, "verify": False}}, {}, "client option verify"),
        ("s3://b", {**KEY, **HERE, "config_kwargs": {"proxies": {}}}, {}, "proxies in config_kwargs"),
        ("s3://b", {**HERE, "key": "k"}, {}, "only part of a key"),
        ("s3://b", {**HERE, "token": "t"}, {}, "only part of a key"),
        ("s3://b", KEY, {}, "neither an endpoint nor a region"),
        ("s3://b", HERE, {"AWS_PROFILE": "p"}, "AWS_PROFILE"),
        ("s3://b", {**KEY, **HERE}, {"AWS_SESSION_TOKEN": "t"}, "session token of the environment"),
        ("s3://b", {**KEY, **HERE}, {"AWS_ENDPOINT": "h"}, "AWS_ENDPOINT"),
        ("s3://b", {**KEY}, {"AWS_CA_BUNDLE": "/x", "AWS_REGION": "r"}, "AWS_CA_BUNDLE"),
        ("s3://b", None, {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"),
        ("s3://b/a b", {**KEY, **HERE}, {}, "characters besides letters"),
        ("s3://u@b/x", {**KEY, **HERE}, {}, "has a user"),
        ("gs://b", {}, {}, "no token is given"),
        ("gs://b", {"token": "google_default"}, {}, "no token is given"),
        ("gs://b", {"token": {"type": "authorized_user"}}, {}, "not one of a service account"),
        ("gs://b", {"token": "anon"}, {"STORAGE_EMULATOR_HOST": "http://x"}, "STORAGE_EMULATOR_HOST"),
        ("az://b", {"account_name": "a"}, {}, "neither a key nor a signature"),
        ("az://b", {}, {}, "no account"),
        ("az://b", {"account_name": "a", "account_key": "k", "client_id": "c"}, {}, "option client_id"),
        ("az://b", {"connection_string": "AccountName=a;AccountKey=k;QueueEndpoint=q"}, {}, "QueueEndpoint"),
    ],
)
def test_options_without_an_equal_are_named(tmp_path, root, options, environment, said):
    with pytest.raises(NoEquivalentError, match=said):
        translate(root, options, {"HOME": str(tmp_path), **environment})


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_files_of_the_aws_tools_are_left_to_s3fs(tmp_path, name):
    environment = {"HOME": str(tmp_path), "AWS_REGION": "r"}
    translate("s3://b", None, environment)
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text("")
    with pytest.raises(NoEquivalentError, match="no files of the AWS tools"):
        translate("s3://b", None, environment)
    translate("s3://b", {**KEY, **HERE}, environment)
