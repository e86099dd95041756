"""A batch of hits in a root on an object store, against the same objects fetched bare."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import http.client
import queue
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import servers

from benchmarks.clips import cells, joined
from benchmarks.contenders import cached_features, main_output
from benchmarks.harness import BenchmarkError, Contender, Pass, Worker, compare
from benchmarks.hit import keys
from benchmarks.options import Options
from benchmarks.report import Section

PROCESSOR = "seamless_m4t"
BUCKET = "benchmarks"
BATCH = 64
THREADS = 16
S3FS = "ours, by s3fs"
OBSTORE = "ours, by obstore"
BARE_OBSTORE = "floor: obstore alone, 16 threads"
BARE_HTTP = "floor: HTTP alone, 16 connections"


def run(options: Options) -> Section:
    """Compare drivers, and what they cost beyond the server."""
    encoded = joined(options.some(256, quick=3), 10.0)
    section = Section(
        "10. Roots on an object store",
        [
            f"SeaweedFS on the same machine, which takes a part of it for itself; {len(encoded)} entries of "
            f"{PROCESSOR}, clips of 10 s, read in batches of {BATCH} without a near tier. The floors fetch the same "
            "objects, and neither check nor decode them.",
        ],
    )
    folder = options.scratch / "remote"
    folder.mkdir(parents=True)
    with servers.seaweedfs(folder) as server:
        measure(section, options, server, encoded)
    return section


def measure(section: Section, options: Options, server: servers.S3Server, encoded: Sequence[bytes]) -> None:
    """Store the features of clips on a server, and compare the ways to read them."""
    server.make_bucket(BUCKET)
    root = {"url": server.url(BUCKET, "root"), "storage_options": dict(server.storage_options)}
    with Worker(in_process=options.in_processes) as worker:
        names = worker.call(fill, root, encoded)
    bare = {"storage_options": root["storage_options"], "names": names}
    contenders = [
        Contender(OBSTORE, batches, {"root": root, "encoded": encoded}, needs=("obstore",)),
        Contender(S3FS, batches, {"root": root, "encoded": encoded, "is_fsspec": True}, needs=("s3fs",)),
        Contender(BARE_OBSTORE, bare_obstore, bare, is_checked=False, needs=("obstore",)),
        Contender(BARE_HTTP, bare_http, {"urls": [_signed_url(server, name) for name in names]}, is_checked=False),
    ]
    comparison = compare(contenders, options.rounds, in_processes=options.in_processes)
    section.add(f"{len(encoded)} objects", comparison, beside=BARE_HTTP)


def _at(root: Mapping[str, Any], folder: str = "") -> Any:
    from hf_audio_cache import CacheRoot

    return CacheRoot(root["url"] + folder, storage_options=root["storage_options"], near=None)


def fill(root: Mapping[str, Any], encoded: Sequence[bytes]) -> list[str]:
    """Store the features of clips, and return the names of their objects in the bucket."""
    cached = cached_features(PROCESSOR, _at(root))
    for start in range(0, len(encoded), BATCH):
        cached({"audio": cells(encoded[start : start + BATCH])})
    places = [str(cached.audio_cache.path_for(key)) for key in keys(cached, encoded)]
    return [urllib.parse.urlsplit(place).path.removeprefix("/") for place in places]


def _signed_url(server: servers.S3Server, name: str) -> str:
    url: str = server.client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": name})
    return url


def batches(root: Mapping[str, Any], encoded: Sequence[bytes], is_fsspec: bool = False) -> Pass:
    """Read the entries by their keys."""
    from hf_audio_cache import AudioCache, CacheRoot

    output = main_output(PROCESSOR)
    wanted = keys(cached_features(PROCESSOR, _at(root)), encoded)
    if is_fsspec:  # a file system that is given is used as it is
        import s3fs

        system = s3fs.S3FileSystem(**root["storage_options"])
        place = urllib.parse.urlsplit(root["url"])
        cache = AudioCache(CacheRoot(f"{place.netloc}{place.path}/features", filesystem=system, near=None))
    else:
        cache = AudioCache(_at(root, "/features"))
        cache.get(wanted[0])
        if "obstore" not in sys.modules:
            raise BenchmarkError("expected a root that is read by obstore, and it is read by another driver")

    def read() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(wanted), BATCH):
            found = cache.get_all_many(wanted[start : start + BATCH])
            yield [outputs[output] for outputs in found if outputs is not None]

    return Pass(len(wanted), read)


def bare_obstore(storage_options: Mapping[str, Any], names: Sequence[str]) -> Pass:
    """Fetch the objects by obstore."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=storage_options["endpoint_url"],
        access_key_id=storage_options["key"],
        secret_access_key=storage_options["secret"],
        region="us-east-1",
        client_options={"allow_http": True},
    )
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    return Pass(
        len(names), lambda: pool.map(lambda name: np.frombuffer(obstore.get(store, name).bytes(), np.uint8), names)
    )


def bare_http(urls: Sequence[str]) -> Pass:
    """Fetch the objects by URLs that were signed before, over connections that stay open for a pass."""
    address = urllib.parse.urlsplit(urls[0]).netloc

    def read() -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
            for _ in range(THREADS):
                idle.put(stack.enter_context(contextlib.closing(http.client.HTTPConnection(address, timeout=30))))
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(THREADS))
            yield from pool.map(functools.partial(_fetch, idle), urls)

    return Pass(len(urls), read)


def _fetch(idle: queue.SimpleQueue[http.client.HTTPConnection], url: str) -> np.ndarray:
    parts = urllib.parse.urlsplit(url)
    connection = idle.get()
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    content = answer.read()
    idle.put(connection)
    if answer.status != 200:
        raise OSError(f"expected an object, and the server answered {answer.status}")
    return np.frombuffer(content, np.uint8)
