"""A far root behind a bad network: runs end with the right features, in time, and with counts that add up."""

from __future__ import annotations

import logging
import time

import audio_datasets as data
import numpy as np
import pytest
import servers
from assertions import is_same
from fault_proxy import Fault, FaultProxy
from remote_stores import new_bucket

from hf_audio_cache import CachedFeatures, CacheRoot, verify

pytestmark = pytest.mark.servers

N_CLIPS = 16
TIMEOUTS = (0.5, 1.0)


def mel_energies(waveform, sampling_rate):
    """Return something of a clip that is cheap to compute and differs from clip to clip."""
    frames = waveform[: len(waveform) // 160 * 160].reshape(-1, 160)
    return np.abs(np.fft.rfft(frames)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(clips, tmp_path_factory):
    attached = CachedFeatures(mel_energies, tmp_path_factory.mktemp("local"), **FRONT_END).attach(data.in_memory(clips))
    return attached[:]["input_features"]


FRONT_END = {"identity": "mel-energies", "sampling_rate": 8000, "auto_resample": True, "waveforms": "always"}


@pytest.fixture
def bucket(s3_server):
    return new_bucket(s3_server)


@pytest.fixture
def open_through(s3_server, bucket):
    """``open_through(proxy, **settings)``: the features of this test's bucket, behind a proxy."""

    def open_it(proxy, **settings):
        return CachedFeatures(
            mel_energies,
            CacheRoot(
                s3_server.url(bucket, "cache"),
                storage_options=s3_server.storage_options_at(proxy.port),
                **{"near": None, "timeouts": TIMEOUTS, **settings},
            ),
            **FRONT_END,
        )

    return open_it


def features_of(cached_features, clips):
    attached = cached_features.attach(data.in_memory(clips))
    return [array for start in range(0, N_CLIPS, 4) for array in attached[start : start + 4]["input_features"]]


def wrong_among(found, expected):
    return sum(not is_same(array, right) for array, right in zip(found, expected, strict=True))


NETWORKS = {
    "answers are late": [Fault("delay", 0.5, seconds=0.05)],
    "connections are reset": [Fault("reset", 0.2)],
    "answers are lost": [Fault("lose", 0.2)],
    "503 SlowDown": [Fault("status", 0.3, status=503)],
    "429": [Fault("status", 0.3, status=429)],
    "500": [Fault("status", 0.2, status=500)],
    "403": [Fault("status", 0.2, status=403)],
    "bodies are cut short": [Fault("truncate", 0.3)],
    "bits are flipped": [Fault("flip", 0.3)],
    "no answer comes": [Fault("hang", 0.05, times=2)],
    "all of it": [
        Fault("delay", 0.2, seconds=0.03),
        Fault("reset", 0.05),
        Fault("lose", 0.05),
        Fault("status", 0.1, status=503),
        Fault("status", 0.05, status=500),
        Fault("truncate", 0.1),
        Fault("flip", 0.1),
        Fault("hang", 0.01, times=2),
    ],
}


# What a client makes of each status is shown in test_both_clients.
ALIKE = {"429", "500"}


@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=pytest.mark.long if name in ALIKE else ()) for name in NETWORKS]
)
def test_a_bad_network_costs_hits_and_nothing_else(network, faults, s3_server, bucket, open_through, clips, expected):
    wrong = inflicted = bytes_lost = 0
    for seed in range(faults.times(1, 10)):
        with FaultProxy(s3_server.port, seed=seed) as proxy:
            for _ in range(faults.times(2, 3)):  # cold, and what was stored meanwhile
                cached_features = open_through(proxy)
                stored = s3_server.read_all(bucket)
                proxy.faults = NETWORKS[network]
                started = time.monotonic()
                wrong += wrong_among(features_of(cached_features, clips), expected)
                assert time.monotonic() - started < 60
                stats = cached_features.stats
                assert stats.hits + stats.misses == N_CLIPS
                assert stats.computed == stats.misses
                proxy.faults = []
                names = set(s3_server.names(bucket))
                bytes_lost += sum(len(content) for name, content in stored.items() if name not in names)
            inflicted += sum(proxy.inflicted.values())
            last = open_through(proxy)
            wrong += wrong_among(features_of(last, clips), expected)
            assert last.stats.read_errors == last.stats.write_errors == 0
        url, options = s3_server.url(bucket, "cache"), s3_server.storage_options
        assert verify(CacheRoot(url, storage_options=options)).is_clean
        s3_server.delete_all(bucket)
    faults.survived(f"S3: {network}", inflicted, wrong_values=wrong, bytes_lost=bytes_lost)


@pytest.fixture
def own_server(tmp_path):
    """A server that may be killed."""
    with servers.seaweedfs(tmp_path / "own") as server:
        server.make_bucket("mine")
        yield server


def test_a_server_that_is_killed_is_noticed_and_then_costs_nothing(faults, own_server, clips, expected, caplog):
    caplog.set_level(logging.WARNING, "hf_audio_cache")
    cached_features = CachedFeatures(
        mel_energies,
        CacheRoot(own_server.url("mine", "cache"), storage_options=own_server.storage_options, near=None),
        **FRONT_END,
    )
    attached = cached_features.attach(data.in_memory(clips))
    found = list(attached[:4]["input_features"])
    own_server.kill()
    started = time.monotonic()
    found += attached[4:8]["input_features"]
    noticed_in = time.monotonic() - started
    started = time.monotonic()
    found += attached[8:]["input_features"]
    rest_took = time.monotonic() - started
    assert noticed_in < 30
    assert rest_took < 15  # eight short clips, and no time-out of the store
    stats = cached_features.stats
    assert (stats.hits, stats.computed) == (0, N_CLIPS)
    assert stats.read_errors > 0 < stats.write_errors
    warned = [record.getMessage() for record in caplog.records if record.name.startswith("hf_audio_cache")]
    assert sum("does not answer" in message for message in warned) >= 1
    assert len(warned) <= 4
    assert len(warned) == len(set(warned))
    faults.survived("the S3 server is killed in the middle of a run", 1, wrong_values=wrong_among(found, expected))


def test_a_server_that_hangs_is_noticed_and_then_costs_nothing(faults, s3_server, open_through, clips, expected):
    with FaultProxy(s3_server.port) as proxy:
        cached_features = open_through(proxy, timeouts=(2.0, 5.0))
        proxy.faults = [Fault("hang")]
        started = time.monotonic()
        found = features_of(cached_features, clips)
        took = time.monotonic() - started
        proxy.faults = []
    assert took < 50  # one time-out, not one for each clip
    faults.survived("the S3 server hangs", 1, wrong_values=wrong_among(found, expected))


def test_strict_raises_at_once(s3_server, open_through, clips):
    from hf_audio_cache.errors import StoreError

    with FaultProxy(s3_server.port) as proxy:
        cached_features = open_through(proxy, strict=True)
        proxy.refuse()
        with pytest.raises(StoreError, match=r"could not (read|write)") as caught:
            features_of(cached_features, clips)
        assert caught.value.kind == "unreachable"


def test_a_wrong_bucket_and_wrong_credentials_are_told_once_in_words(s3_server, clips, expected, caplog):
    caplog.set_level(logging.WARNING, "hf_audio_cache")
    wrong_key = {**s3_server.storage_options, "secret": "wrong"}
    for url, options, words in (
        ("s3://no-such-bucket/cache", s3_server.storage_options, "is in no bucket"),
        (f"{s3_server.make_bucket('theirs')}/cache", wrong_key, "denied"),
    ):
        caplog.clear()
        cached_features = CachedFeatures(mel_energies, CacheRoot(url, storage_options=options, near=None), **FRONT_END)
        assert wrong_among(features_of(cached_features, clips), expected) == 0
        assert cached_features.stats.computed == N_CLIPS
        warned = [record.getMessage() for record in caplog.records]
        assert sum(words in message and "Check" in message for message in warned) >= 1, warned
        assert len(warned) <= 4
