"""The folder of a root's near tier: one for each place, and never one for two."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import fsspec
import pytest

from hf_audio_cache import CacheRoot
from hf_audio_cache.errors import InvalidRootError
from hf_audio_cache.stores import near_folder, near_limit


@pytest.fixture(autouse=True)
def no_settings(tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "STORAGE_EMULATOR", "HF_ENDPOINT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", str(tmp_path / "near"))


def s3(**options):
    return "s3://bucket/cache", options, {}


# (URL, storage options, environment) of places that are all different, though bucket and folder have the same names.
PLACES = [
    s3(),
    s3(endpoint_url="http://one:8333"),
    s3(endpoint_url="http://two:8333"),
    s3(client_kwargs={"endpoint_url": "http://three:8333"}),
    s3(client_kwargs={"region_name": "cn-north-1"}),
    ("s3://bucket/cache", {}, {"AWS_ENDPOINT_URL": "http://four:8333"}),
    ("s3://bucket/cache", {}, {"AWS_ENDPOINT_URL_S3": "http://five:8333"}),
    ("s3://bucket/cache", {}, {"AWS_REGION": "us-gov-east-1"}),
    ("s3://bucket/cache", {"profile": "lab"}, {"files": "[profile lab]\nendpoint_url = http://six:8333\n"}),
    ("s3://bucket/cache", {"profile": "lab"}, {"files": "[profile lab]\nregion = cn-north-1\n"}),
    ("s3://bucket/cache", {}, {"files": "[services lab]\ns3 =\n  endpoint_url = http://seven:8333\n"}),
    ("s3://bucket/caches", {}, {}),
    ("gs://bucket/cache", {}, {}),
    ("gs://bucket/cache", {"endpoint_url": "http://one:4443"}, {}),
    ("gs://bucket/cache", {}, {"STORAGE_EMULATOR_HOST": "http://two:4443"}),
    ("az://bucket/cache", {"account_name": "one"}, {}),
    ("az://bucket/cache", {"account_name": "two"}, {}),
    ("az://bucket/cache", {"connection_string": "AccountName=three;AccountKey=secret1"}, {}),
    ("az://bucket/cache", {}, {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=four;AccountKey=secret1"}),
    ("az://bucket/cache", {}, {"AZURE_STORAGE_ACCOUNT_NAME": "five"}),
    ("hf://buckets/bucket/cache", {}, {}),
    ("hf://buckets/bucket/cache", {"endpoint": "https://hub.example"}, {}),
    ("sftp:///bucket/cache", {"host": "one"}, {}),
    ("sftp:///bucket/cache", {"host": "two", "port": 22}, {}),
    ("sftp:///bucket/cache", {"host": "two", "port": 23}, {}),
    ("/bucket/cache", {}, {}),
]

# Of one place each: what does not say where it is.
SAME = [
    [s3(), s3(key="k", secret="s"), s3(anon=True), s3(client_kwargs={"region_name": "eu-west-1"})],
    [s3(), ("s3://bucket/cache/", {}, {"files": "[default]\nregion = eu-west-1\n"})],
    [s3(endpoint_url="http://one"), ("s3://bucket/cache", {}, {"AWS_ENDPOINT_URL": "http://one"})],
    [s3(endpoint_url="http://one"), ("s3://bucket/cache", {"s3": {"endpoint_url": "http://one"}}, {})],
    [
        ("az://bucket/cache", {"connection_string": f"AccountName=x;AccountKey={key};SharedAccessSignature={key}"}, {})
        for key in ("secret1", "secret2")
    ],
    [("ftp://host/cache", {"password": password, "token": password}, {}) for password in ("secret1", "secret2")],
]


def folder_of(place, monkeypatch, tmp_path, near):
    url, options, settings = place
    with monkeypatch.context() as patch:
        for name, value in settings.items():
            if name == "files":
                (tmp_path / "config").write_text(value)
                patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
            else:
                patch.setenv(name, value)
        return near_folder(url, near=near, storage_options=options)


@pytest.mark.parametrize("near", ["auto", "given"])
def test_no_two_places_share_a_folder(near, monkeypatch, tmp_path):
    near = near if near == "auto" else str(tmp_path / "given")
    found = [folder_of(place, monkeypatch, tmp_path, near) for place in PLACES]
    if near == "auto":
        assert found.pop() is None  # the local disk needs none
    assert None not in found
    for one, other in itertools.combinations(found, 2):
        assert one != other
    above = Path(tmp_path / "near" if near == "auto" else near)
    assert all(Path(folder).is_relative_to(above) for folder in found)


@pytest.mark.parametrize("places", SAME)
def test_one_place_has_one_folder(places, monkeypatch, tmp_path):
    assert len({folder_of(place, monkeypatch, tmp_path, "auto") for place in places}) == 1


def test_no_root_leads_out_of_the_near_tier(tmp_path):
    for url in ("s3://bucket/../../../x", "s3://../x", "s3://./x", "s3://bucket//x/./y"):
        folder = Path(near_folder(url, near=str(tmp_path / "near")))
        assert folder.resolve().is_relative_to(tmp_path / "near")
    assert near_folder("s3://../x", near="/n") != near_folder("s3://./x", near="/n") != near_folder("s3://x", near="/n")


def test_file_systems_that_are_given_have_folders_of_their_own(tmp_path):
    memory = fsspec.filesystem("memory")
    systems = [
        memory,
        *(fsspec.filesystem("dir", path=f"/{name}", fs=memory) for name in ("a", "b")),
        *(fsspec.filesystem("http", client_kwargs={"host": name}) for name in ("one", "two")),
    ]
    found = {
        CacheRoot("bucket/cache", filesystem=system, near=tmp_path).open_near_tier().location() for system in systems
    }
    assert len(found) == 5
    assert CacheRoot("bucket/cache", filesystem=memory).open_near_tier() is None  # whether it is far, nobody knows


def test_a_root_knows_its_near_tier(tmp_path):
    root = CacheRoot("s3://bucket/cache", near=tmp_path)
    assert root.open_near_tier().location() == tmp_path / "s3" / "bucket" / "cache"
    for settings in ({"near": None}, {"read_only": True}):
        assert CacheRoot("s3://bucket/cache", **settings).open_near_tier() is None
    assert CacheRoot("s3://bucket/cache").open_near_tier().location() == tmp_path / "near" / "s3" / "bucket" / "cache"


def test_a_user_without_a_home_has_near_folders_too(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # whom the system does not know
    assert near_folder("s3://bucket/cache", near="auto", storage_options={})


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_AUDIO_CACHE_NEAR"])
def test_a_folder_of_near_tiers_may_be_given_relative_to_where_one_is(variable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_AUDIO_CACHE_NEAR")
    monkeypatch.setenv(variable, "some/folder")
    folder = CacheRoot("s3://bucket/cache").near_path
    assert Path(folder).is_relative_to(tmp_path / "some/folder")
    assert near_limit(folder) > 0
    assert CacheRoot("s3://bucket/cache").open_store().copies.location() == Path(folder)


def test_a_url_is_no_folder_of_near_tiers(monkeypatch):
    monkeypatch.setenv("HF_AUDIO_CACHE_NEAR", "s3://bucket/near")
    with pytest.raises(InvalidRootError, match="HF_AUDIO_CACHE_NEAR must be a folder, not 's3://bucket/near'; nothing"):
        CacheRoot("s3://bucket/cache").open_store()
