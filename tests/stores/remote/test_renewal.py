"""Credentials that expire in mid-run: the server refuses what is signed with the old ones."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import audio_datasets as data
import datasets
import pytest
from crossed import crossed
from fault_proxy import Fault, FaultProxy
from remote_stores import new_bucket, open_fast, open_plain
from scripted_store import kinds

from hf_audio_cache import CachedFeatures, CacheRoot
from hf_audio_cache.stores import circuit_breaker, resilient
from hf_audio_cache.stores.resilient import ResilientStore

pytestmark = pytest.mark.servers


N_CLIPS = 24


class S3Keys:
    """Two keys, in the environment."""

    server_name = "seaweedfs"
    refusal = Fault("status", status=400)  # "ExpiredToken"

    def __init__(self, server, monkeypatch, _):
        self.server, self.environment = server, monkeypatch
        self.old = {"signed": server.credentials["key"]}

    def options(self, port):
        return {"endpoint_url": self.server.endpoint_at(port), "client_kwargs": {"region_name": "us-east-1"}}

    def use(self, number):
        prefix = ("", "second_")[number]
        self.environment.setenv("AWS_ACCESS_KEY_ID", self.server.credentials[f"{prefix}key"])
        self.environment.setenv("AWS_SECRET_ACCESS_KEY", self.server.credentials[f"{prefix}secret"])


class AzureSignatures:
    """Two shared access signatures, in the environment."""

    server_name = "azurite"
    refusal = Fault("status", status=403)

    def __init__(self, server, monkeypatch, _):
        self.server, self.environment = server, monkeypatch
        self.old = {"containing": "se=2101"}

    def options(self, port):
        self.port = port
        return {}

    def use(self, number):
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

        name, key = (self.server.credentials[each] for each in ("account_name", "account_key"))
        until = datetime(2101 + number, 1, 1, tzinfo=timezone.utc)
        sas = generate_account_sas(
            name,
            key,
            ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions(read=True, write=True, delete=True, list=True, add=True, create=True),
            until,
        )
        endpoint = self.server.endpoint_at(self.port)
        self.environment.setenv(
            "AZURE_STORAGE_CONNECTION_STRING", f"BlobEndpoint={endpoint};AccountName={name};SharedAccessSignature={sas}"
        )


class _Tokens(BaseHTTPRequestHandler):
    """Gives a service account the token ``of-`` and its mail address."""

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        claims = asked["assertion"][0].split(".")[1]
        account = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["iss"]
        answer = json.dumps({"access_token": f"of-{account}", "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class GcsAccounts:
    """Two service accounts, in the file that the options name."""

    server_name = "fake_gcs"
    refusal = Fault("status", status=401)

    def __init__(self, server, _, folder):
        self.server, self.file = server, folder / "account.json"
        self.old = {"signed": "of-account-0@"}

    def options(self, port):
        return {"token": str(self.file), "project": "test", "endpoint_url": self.server.endpoint_at(port)}

    @contextlib.contextmanager
    def running(self):
        with ThreadingHTTPServer(("127.0.0.1", 0), _Tokens) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.tokens = f"http://127.0.0.1:{server.server_port}/token"
            yield
            server.shutdown()

    def use(self, number):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        account = {"type": "service_account", "client_email": f"account-{number}@tests", "private_key": key.decode()}
        self.file.write_text(json.dumps({**account, "private_key_id": "1", "token_uri": self.tokens}))


WAYS = [(S3Keys, open_plain), (S3Keys, open_fast), (GcsAccounts, open_plain), (AzureSignatures, open_plain)]
WAYS += [(AzureSignatures, open_fast)]


@pytest.mark.parametrize(
    ("credentials", "opened"), WAYS, ids=[f"{each.__name__}-{opened.__name__}" for each, opened in WAYS]
)
def test_credentials_that_expire_are_renewed(started, monkeypatch, tmp_path, caplog, credentials, opened):
    server = started(credentials.server_name)
    bucket = new_bucket(server)
    own = credentials(server, monkeypatch, tmp_path)
    now = [1000.0]

    def told():
        return [record for record in caplog.records if record.name.startswith("hf_audio_cache")]

    with FaultProxy(server.port) as proxy, getattr(own, "running", contextlib.nullcontext)():
        options = own.options(proxy.port)
        own.use(0)
        remote = opened(server.url(bucket, "root"), options, timeouts=(30.0, 60.0))
        store = ResilientStore(remote, clock=lambda: now[0], sleep=lambda _: None).child("features")
        assert store.put_many({"a": b"A"}) == {}
        assert store.get_many(["a", "b"]) == [b"A", None]
        refused = own.refusal.__class__(**{**vars(own.refusal), **own.old})
        with proxy.inflicting(refused):
            # Nobody has renewed them yet.
            assert kinds(store.get_many(["a"]))[0] in ("denied", "unauthenticated")
            assert kinds(store.get_many(["a"])) == ["circuit open"]
            assert [record.levelname for record in told()] == ["WARNING"]
            assert "redentials" in told()[0].getMessage()
            own.use(1)
            now[0] += 31  # one pause
            assert store.get_many(["a"]) == [b"A"]
            n_refused = proxy.inflicted[refused.name]
            assert store.put_many({"c": b"C"}) == {}
            assert store.exists_many(["a", "b", "c"]) == [True, False, True]
            assert {found.name for found in store.scan()} == {"a", "c"}
            if (credentials, opened) != (AzureSignatures, open_fast):  # Azurite takes no signature for a bulk deletion
                assert store.delete(["c"]) == {}
            assert proxy.inflicted[refused.name] == n_refused > 0, "nothing is signed with the old ones"
        # The other way round: new ones are there before the old ones are refused, and no request is lost.
        own.use(0)
        now[0] += 31
        newer = {name: value.replace("-0@", "-1@").replace("2101", "2102") for name, value in own.old.items()}
        if credentials is S3Keys:
            newer = {"signed": server.credentials["second_key"]}
        with proxy.inflicting(own.refusal.__class__(**{**vars(own.refusal), **newer})):
            assert store.exists_many(["a"]) == [True]
            assert store.get_many(["a"]) == [b"A"]
    assert len(told()) == 1


@pytest.mark.parametrize(("credentials", "form"), crossed([S3Keys, GcsAccounts], ["map", "stream"]))
def test_a_run_whose_credentials_expire_hits_again_within_a_pause(
    started, monkeypatch, tmp_path, caplog, clips, make_processor, credentials, form
):
    for name in ("_FIRST_PAUSE", "_LONGEST_PAUSE"):
        monkeypatch.setattr(circuit_breaker, name, 1.0)
    monkeypatch.setattr(resilient, "_RENEWAL_LASTS", 1.0)
    server = started(credentials.server_name)
    bucket = new_bucket(server)
    own = credentials(server, monkeypatch, tmp_path)
    extractor, dataset = make_processor("wav2vec2"), data.in_memory(clips)
    expected = [data.expected_features(extractor, clip, auto_resample=True) for clip in clips]
    refused = own.refusal.__class__(**{**vars(own.refusal), **own.old})
    n_refused, hits = [0], {}

    with FaultProxy(server.port) as proxy, getattr(own, "running", contextlib.nullcontext)():
        options = own.options(proxy.port)
        own.use(0)
        root = CacheRoot(server.url(bucket, "root"), storage_options=options, near=None)
        CachedFeatures(extractor, root, auto_resample=True).map(dataset)
        cached_features = CachedFeatures(extractor, root, auto_resample=True)

        def prepare(batch, indices):
            if indices[0] == 8:
                proxy.faults = [refused]
            elif indices[0] == 16:
                n_refused[0] = proxy.inflicted[refused.name]
                own.use(1)
                time.sleep(1.1)  # one pause
            before = cached_features.stats.hits
            result = cached_features(batch)
            hits[indices[0]] = cached_features.stats.hits - before
            return result

        arguments = {"batched": True, "batch_size": 4, "with_indices": True, "remove_columns": dataset.column_names}
        if form == "map":
            features = cached_features.features(datasets.Features())
            rows = dataset.map(prepare, features=features, new_fingerprint="renewal", **arguments)
            data.assert_stored(rows, expected)
        else:
            data.assert_rows(list(dataset.to_iterable_dataset().map(prepare, **arguments)), expected)
        assert proxy.inflicted[refused.name] == n_refused[0] > 0, "nothing is signed with the old key"
        proxy.faults = []
    assert hits == {0: 4, 4: 4, 8: 0, 12: 0, 16: 4, 20: 4}
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("redentials" in message for message in warned)
