"""Audio at URLs: read at once, and not at all where its hash is known."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import audio_datasets as data
import fsspec
import pytest
from fault_proxy import Fault, FaultProxy
from remote_stores import new_bucket

from hf_audio_cache import CachedFeatures
from hf_audio_cache.errors import AudioSourceError
from hf_audio_cache.pipeline.audio_reader import AudioReader
from hf_audio_cache.stores.remote import far_files

N_CLIPS = 12  # more than are asked for one by one


@pytest.fixture(scope="module")
def clips(prompts):
    return data.shortest(prompts, N_CLIPS + 1)


@pytest.fixture
def wav2vec2(make_processor):
    return make_processor("wav2vec2")


def rows_of(urls):
    cells = [{"path": url, "bytes": None} for url in urls]
    return data.of_cells(cells)


def features_of(cached_features, urls):
    return cached_features.attach(rows_of(urls))[:]["input_values"]


def assert_features(found, wav2vec2, clips):
    for row, clip in zip(found, clips, strict=True):
        data.assert_same_bits(row, data.expected_features(wav2vec2, clip, auto_resample=True)["input_values"])


@pytest.mark.servers
@pytest.mark.parametrize("name", ["s3_server", "gcs_server"])
@pytest.mark.parametrize("n_clips", [3, N_CLIPS], ids=["asked for each", "listed"])
def test_a_warm_epoch_reads_no_far_audio(request, tmp_path, monkeypatch, wav2vec2, clips, name, n_clips):
    server = request.getfixturevalue(name)
    bucket = new_bucket(server)
    names = [f"audio/clip {number}.wav" for number in range(n_clips)]  # which no entry may be called
    for each, clip in zip(names, clips, strict=False):
        server.write(bucket, each, clip.read_bytes())
    urls = [server.url(bucket, each) for each in names]
    with FaultProxy(server.port) as proxy:

        def anew():
            options = server.storage_options_at(proxy.port)
            return CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, audio_storage_options=options)

        content = {"s3": ".wav", "gs": "alt=media"}[server.protocol]  # not a listing, and not what is said of a file
        proxy.faults = [Fault("delay", methods=("GET",), containing=content)]
        assert_features(features_of(anew(), urls), wav2vec2, clips[:n_clips])
        n_read = proxy.inflicted["delay"]
        assert n_clips <= n_read
        warm = anew()
        assert_features(features_of(warm, urls), wav2vec2, clips[:n_clips])
        assert warm.coverage(rows_of(urls)).n_cached == n_clips
        assert proxy.inflicted["delay"] == n_read, "no audio was read"
        assert warm.stats.hits == n_clips
        server.write(bucket, names[1], clips[-1].read_bytes())
        monkeypatch.setattr(far_files, "_LISTING_COUNTS", 0.0)
        now = [clips[0], clips[-1], *clips[2:n_clips]]
        assert_features(features_of(warm, urls), wav2vec2, now)
        assert proxy.inflicted["delay"] == n_read + 1, "the one that changed was read"


@pytest.mark.servers
def test_what_is_wrong_with_far_audio_is_said(s3_server, tmp_path, wav2vec2, clips, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    secret = "c2VjcmV0/+that+nobody+may+see=="
    s3_server.make_bucket("wrong-audio")
    s3_server.write("wrong-audio", "a.wav", clips[0].read_bytes())
    url, options = s3_server.url("wrong-audio", "a.wav"), s3_server.storage_options
    no_key = {name: value for name, value in options.items() if name not in ("key", "secret")}
    for given, said in [
        ({**options, "secret": secret}, "audio_storage_options"),
        (no_key, "Check the credentials"),
        ({**options, "endpoint_url": "http://127.0.0.1:1"}, "Check the network"),
    ]:
        cached_features = CachedFeatures(wav2vec2, tmp_path / "root", audio_storage_options={"s3": given})
        assert secret.encode() not in pickle.dumps(cached_features)
        with pytest.raises(AudioSourceError, match=said) as caught:
            cached_features({"audio": url})
        assert "where the dataset says" not in str(caught.value)
        assert secret not in str(caught.value) + repr(cached_features) + repr(cached_features.settings)
    cached_features = CachedFeatures(wav2vec2, tmp_path / "root", audio_storage_options=options)
    with pytest.raises(AudioSourceError, match="where the dataset says"):
        cached_features({"audio": s3_server.url("wrong-audio", "b.wav")})
    with pytest.raises(AudioSourceError, match="Check the bucket's name"):
        cached_features({"audio": s3_server.url("no-such-bucket", "b.wav")})


class _Hub(BaseHTTPRequestHandler):
    """What of the Hub's API lists a dataset's files and gives them."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def give(self, content, **headers):
        self.send_response(200)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith("/api/datasets/team/speech/tree/"):
            entries = [
                {
                    **{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()},
                    "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130},
                }
                for name, content in self.server.files.items()
            ]
            self.give(json.dumps(entries).encode(), Content_Type="application/json")
        elif path.startswith("/api/datasets/team/speech"):
            about = {"_id": "1", "id": "team/speech", "sha": "a" * 40, "siblings": [], "tags": [], "private": False}
            self.give(json.dumps(about).encode(), Content_Type="application/json")
        else:
            content = self.server.files[path.partition("/resolve/main/")[2]]
            self.server.n_downloads += self.command == "GET"
            self.give(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit="a" * 40)

    def do_HEAD(self):
        self.do_GET()


def test_the_hub_says_the_hash_of_a_file(tmp_path, wav2vec2, clips, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # this Hub is on this machine
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Hub))
        hub.files = {f"audio/{number}.wav": clip.read_bytes() for number, clip in enumerate(clips)}
        hub.n_downloads = 0
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        stack.callback(hub.shutdown)
        options = {"hf": {"endpoint": f"http://127.0.0.1:{hub.server_port}", "token": False}}
        urls = [f"hf://datasets/team/speech@main/{name}" for name in hub.files]
        # The same files were cached by somebody who has them on the disk.
        CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True).map(data.of_paths(clips[:-1]))
        warm = CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True, audio_storage_options=options)
        assert_features(features_of(warm, urls), wav2vec2, clips)
        assert hub.n_downloads == 1, "only what was not cached is downloaded"
        assert (warm.stats.hits, warm.stats.computed) == (N_CLIPS, 1)


def test_a_driver_that_is_not_installed_is_told_how_to_be():
    [error] = AudioReader().read(["gdrive://speech/one.wav"])
    assert isinstance(error, AudioSourceError)
    assert error.clip == "gdrive://speech/one.wav"
    assert "Please install gdrive_fs" in str(error)
    assert 'pip install "hf_audio_cache[s3]"' in str(error)
    assert "where the dataset says" not in str(error)


class _Web(BaseHTTPRequestHandler):
    """Files by their path, which a function of the test gives."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        with contextlib.suppress(ConnectionError):  # a reader that has given up
            self.server.give(self)

    def do_HEAD(self):
        self.do_GET()

    def answer(self, parts, n_bytes, status=200):
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()
        for part in parts if self.command == "GET" else ():
            self.wfile.write(part)


@pytest.fixture
def web():
    """Start a server that answers by a function of the request; return its URL."""
    with contextlib.ExitStack() as stack:

        def start(give):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Web))
            server.give, server.daemon_threads = give, True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def impatient(monkeypatch):
    """Let far files time out within tests."""

    def limit(**seconds):
        store = far_files.FsspecStore
        monkeypatch.setattr(far_files, "FsspecStore", lambda *a, **k: store(*a, **{**k, **seconds}))

    return limit


def test_a_far_file_that_fails_late_does_not_take_larger_ones_with_it(web, impatient):
    def give(request):
        is_bad = request.path == "/bad.wav"
        time.sleep(0.5 if is_bad else 1.0)
        request.answer([] if is_bad else [b"content"], 0 if is_bad else 7, 503 if is_bad else 200)

    impatient(timeouts=(0.2, 60.0))
    url = web(give)
    names = ["a.wav", "bad.wav", "b.wav", "c.wav"]
    found = far_files.FarFiles(url, None).read_many([f"{url}/{name}" for name in names])
    assert [found[row] for row in (0, 2, 3)] == [b"content"] * 3
    assert "503" in str(found[1])


def test_far_files_that_are_read_one_by_one_do_not_wait_for_one_that_fails(monkeypatch):
    memory = fsspec.filesystem("memory")
    names = [f"memory://clips/{name}.wav" for name in ("bad", "a", "b", "worse", "c")]
    for name in names:
        memory.pipe(name, name.encode())
    real = type(memory).cat_file

    def cat_file(self, path, *arguments, **keywords):
        if "bad" in path or "worse" in path:
            raise ConnectionResetError(path)
        return real(self, path, *arguments, **keywords)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    found = far_files.FarFiles(names[0], None).read_many(names)
    memory.rm("clips", recursive=True)
    assert [found[row] for row in (1, 2, 4)] == [names[row].encode() for row in (1, 2, 4)]
    assert ["ConnectionResetError" in str(found[row]) for row in (0, 3)] == [True, True]


def test_of_a_server_that_takes_few_at_a_time_all_far_files_are_read(web):
    lock, at_work = threading.Lock(), []

    def give(request):
        with lock:
            at_work.append(request)
            is_too_many = len(at_work) > 2
        time.sleep(0.02)
        with lock:
            at_work.remove(request)
        request.answer([] if is_too_many else [b"content"], 0 if is_too_many else 7, 503 if is_too_many else 200)

    url = web(give)
    urls = [f"{url}/{number}.wav" for number in range(32)]
    assert far_files.FarFiles(url, None).read_many(urls) == [b"content"] * 32


def test_the_hash_of_a_far_file_that_came_short_is_not_remembered(web, tmp_path, wav2vec2, clips):
    # Without a length in the answer, nothing but the HEAD before it tells that the connection ended early.
    whole = clips[0].read_bytes()
    short = (whole[:4] + b"\xff" * 4 + whole[8:40] + b"\xff" * 4 + whole[44:])[: len(whole) // 2]
    answers = [short, whole]

    def give(request):
        content = whole if request.command == "HEAD" else answers.pop(0)
        request.answer([content], len(whole) if request.command == "HEAD" else len(content))

    url = web(give) + "/a.wav"
    for _ in range(2):
        [found] = features_of(CachedFeatures(wav2vec2, tmp_path / "root", auto_resample=True), [url])
    assert not answers
    assert_features([found], wav2vec2, clips[:1])
