"""Signed roots: where keys come from, what they sign, who may read, and that nothing shows them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import importlib
import importlib.util
import io
import itertools
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import stat
import tempfile
import traceback
import zipfile
from pathlib import Path
from typing import Any

import audio_datasets as data
import datasets
import entry_tools
import numpy as np
import pytest
import soundfile
from assertions import rows_of
from children import become_nobody, in_child
from datasets.fingerprint import Hasher

from hf_audio_cache import AudioCache, AudioCacheKey, CachedFeatures, CacheRoot, verify
from hf_audio_cache.cache.entry import encode_entry
from hf_audio_cache.cache.signing import FILE_VARIABLE, KEY_VARIABLE, SigningKeys, signing_keys
from hf_audio_cache.errors import MissingEntryError, SigningKeyError

RATE = 8000
MARKER = "never-to-be-seen-7a6b5c4d3e2f"  # a key of which no trace may be found
OLD, NEW = "the-old-key-of-the-root", "the-new-key-of-the-root"
KEY = AudioCacheKey("c0535e4b" * 8, "7d865e95" * 8, 16000, 0)
FEATURES = np.linspace(-1, 1, 2400, dtype=np.float32).reshape(80, 30)


def signature_by(key: str | bytes, content: bytes) -> bytes:
    """Return what the format says a signature is, without the package."""
    return hmac.new(key if isinstance(key, bytes) else key.encode(), content, hashlib.sha256).hexdigest().encode()


def is_signed_by(key: str | bytes, content: bytes) -> bool:
    return content[-64:] == signature_by(key, entry_tools.signed_text(content))


def loud(waveform, sampling_rate):
    """A front end: the first samples, and those above a tenth of full scale."""
    return {"start": waveform[:500].copy(), "loud": (np.abs(waveform) > 0.1)[:500]}


def evil(waveform, sampling_rate):
    """What somebody else puts into the root, under the same identity."""
    return {"start": np.full(500, 7, np.float32), "loud": np.zeros(500, bool)}


def make(
    root: Path | str,
    signing_key: Any = MARKER,
    *,
    function: Any = loud,
    compression: str | None = "blosc",
    **settings: Any,
) -> CachedFeatures:
    # Of clips that are plain PCM at this rate waveforms would not be stored, and they are to be signed too.
    settings = {"identity": "loud", "sampling_rate": RATE, "waveforms": "always", **settings}
    return CachedFeatures(function, CacheRoot(root, signing_key=signing_key, compression=compression), **settings)


N_CLIPS = 6


@pytest.fixture(scope="module")
def batch(clips):
    return {"audio": data.columns(clips)["audio"]}


@pytest.fixture(scope="module")
def expected(clips):
    """What each clip gives, without the package."""
    return [loud(soundfile.read(clip, dtype="float32")[0], RATE) for clip in clips]


def npz_files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.npz"))


def contents(root: Path) -> dict[str, bytes]:
    """Return all files under a root but the records of use, which appear at times of their own."""
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("access/", "runs/"))}


# Where keys come from -------------------------------------------------------------------------------------------------


class PathOfMine:
    """What has a path, and is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "signing.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


FORMS = {
    "text": lambda folder: NEW,
    "bytes": lambda folder: NEW.encode(),
    "a list": lambda folder: [NEW],
    "a tuple of bytes": lambda folder: (NEW.encode(),),
    "a file": lambda folder: key_file(folder, NEW.encode()),
    "a file with a line's end": lambda folder: key_file(folder, f"{NEW}\n".encode()),
    "a file from Windows, with empty lines": lambda folder: key_file(folder, f"\r\n{NEW}\r\n\r\n".encode()),
    "a file that may only be read": lambda folder: key_file(folder, NEW.encode(), 0o400),
    "another kind of path": lambda folder: PathOfMine(key_file(folder, NEW.encode())),
    "keys": lambda folder: SigningKeys([NEW.encode()]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_key_is_taken_in_every_form(form, tmp_path):
    keys = signing_keys(FORMS[form](tmp_path))
    assert keys.sign(b"content") == signature_by(NEW, b"content")
    assert keys.accept(b"content", signature_by(NEW, b"content"))
    assert not keys.accept(b"content", signature_by(OLD, b"content"))


SEVERAL = {
    "a list": lambda folder, monkeypatch: [NEW, OLD.encode()],
    "a file": lambda folder, monkeypatch: key_file(folder, f"{NEW}\n{OLD}\n".encode()),
    "a variable": lambda folder, monkeypatch: monkeypatch.setenv(KEY_VARIABLE, f" {NEW}\t{OLD} "),
    "a variable that names a file": lambda folder, monkeypatch: monkeypatch.setenv(
        FILE_VARIABLE, str(key_file(folder, f"{NEW}\n{OLD}".encode()))
    ),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_of_several_keys_the_first_signs_and_all_are_accepted(form, tmp_path, monkeypatch):
    keys = signing_keys(SEVERAL[form](tmp_path, monkeypatch))
    assert keys.sign(b"content") == signature_by(NEW, b"content")
    for key in (OLD, NEW):
        assert keys.accept(b"content", signature_by(key, b"content"))
    assert not keys.accept(b"content", signature_by(NEW + "!", b"content"))


def test_without_a_key_no_root_is_signed(tmp_path, batch):
    assert signing_keys(None) is None
    cached_features = make(tmp_path, None)
    cached_features(batch)
    assert not any(re.fullmatch(rb"[0-9a-f]{64}", path.read_bytes()[-64:]) for path in npz_files(tmp_path))


@pytest.mark.parametrize("variable", [KEY_VARIABLE, FILE_VARIABLE])
def test_a_root_is_signed_by_the_key_of_a_variable(variable, tmp_path, batch, monkeypatch):
    value = NEW if variable == KEY_VARIABLE else str(key_file(tmp_path, NEW.encode()))
    monkeypatch.setenv(variable, value)
    make(tmp_path / "root", None)(batch)
    assert all(is_signed_by(NEW, path.read_bytes()) for path in npz_files(tmp_path / "root"))
    assert len(npz_files(tmp_path / "root")) == 12


def test_the_file_of_a_variable_may_be_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    key_file(tmp_path, NEW.encode())
    monkeypatch.setenv(FILE_VARIABLE, "~/signing.key")
    assert signing_keys(None).sign(b"") == signature_by(NEW, b"")


def test_two_variables_at_once_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, NEW)
    monkeypatch.setenv(FILE_VARIABLE, str(key_file(tmp_path, NEW.encode())))
    with pytest.raises(SigningKeyError, match=f"^Both {KEY_VARIABLE} and {FILE_VARIABLE} are set"):
        make(tmp_path / "root", None)
    with pytest.raises(SigningKeyError, match="are set: unset one"):
        verify(tmp_path / "root")
    assert make(tmp_path / "root", OLD).pipeline.root.signing_keys.sign(b"") == signature_by(OLD, b"")
    assert not (tmp_path / "root").exists()


def test_a_variable_that_is_empty_is_none(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "")
    monkeypatch.setenv(FILE_VARIABLE, "")
    assert signing_keys(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "  ")
    with pytest.raises(SigningKeyError, match="found none"):
        signing_keys(None)


SHORT = ["", b"", "x" * 15, b"x" * 15, ["long enough for a key", "x" * 15], [], (), "ä" * 7]
SHORT_IN_A_FILE = [b"", b"\n\n", b"x" * 15, b"long enough for a key\n" + b"y" * 3]
NO_KEYS = [[None], [NEW, 3], bytearray(b"x" * 20), memoryview(b"x" * 20), [[NEW]], 5, 1.5, True, object(), {NEW: "x"}]


def test_a_short_key_is_refused_with_how_to_make_one(tmp_path):
    for short in itertools.chain(SHORT, (key_file(tmp_path, content) for content in SHORT_IN_A_FILE)):
        with pytest.raises(SigningKeyError, match=r"^A signing key has at least 16 bytes; found") as caught:
            make(tmp_path / "root", short)
        assert "secrets.token_hex(32)" in str(caught.value)
        assert "long enough" not in str(caught.value)
    assert not (tmp_path / "root").exists()
    for key in ("x" * 16, b"\0" * 16, "ä" * 8):
        assert len(signing_keys(key).sign(b"")) == 64


def test_what_is_or_holds_no_key_is_refused(tmp_path):
    for wrong in NO_KEYS:
        with pytest.raises(SigningKeyError, match="Pass text, bytes, a list of them") as caught:
            make(tmp_path / "root", wrong)
        assert NEW not in str(caught.value)


def test_a_file_that_others_may_use_is_refused(tmp_path):
    for mode in (0o644, 0o640, 0o604, 0o660, 0o620, 0o610, 0o601, 0o602, 0o777, 0o444):
        path = key_file(tmp_path, NEW.encode(), mode)
        with pytest.raises(SigningKeyError, match=r"^Others can read the signing keys in") as caught:
            make(tmp_path / "root", path)
        assert caught.value.path == str(path)
        assert f"mode {mode:04o}" in str(caught.value)
        assert "chmod 600" in str(caught.value)
        assert NEW not in str(caught.value)


def test_a_file_of_another_user_is_refused(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to have a file of another user")
    path = key_file(tmp_path, NEW.encode())
    os.chown(path, 65534, 65534)
    with pytest.raises(SigningKeyError, match="belongs to user 65534, with mode 0600") as caught:
        signing_keys(path)
    assert caught.value.path == str(path)
    os.chown(path, 0, 0)
    assert signing_keys(path).sign(b"") == signature_by(NEW, b"")


def keys_as_nobody(path: Path) -> str:
    become_nobody()
    try:
        return signing_keys(path).sign(b"").decode()
    except SigningKeyError as exc:
        return f"{exc.path} {exc}"


def test_a_file_of_roots_cannot_be_read_by_others_and_that_is_said(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    path = key_file(tmp_path, NEW.encode())
    assert in_child(keys_as_nobody, path).startswith(f"{path} The file of signing keys {path} could not")
    with tempfile.TemporaryDirectory() as folder:  # which another user reaches
        Path(folder).chmod(0o755)
        own = key_file(Path(folder), NEW.encode())
        os.chown(own, 65534, 65534)
        assert in_child(keys_as_nobody, own) == signature_by(NEW, b"").decode()


@pytest.mark.parametrize("kind", ["missing", "a folder", "below a file"])
def test_a_file_that_cannot_be_read_is_named(kind, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    path = {"missing": tmp_path / "none", "a folder": tmp_path / "folder", "below a file": tmp_path / "file" / "key"}[
        kind
    ]
    with pytest.raises(SigningKeyError, match=r"The file of signing keys .* could not be read") as caught:
        make(tmp_path / "root", path)
    assert caught.value.path == str(path)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    with pytest.raises(SigningKeyError) as caught:
        make(tmp_path / "root", None)
    assert caught.value.path == str(path)
    assert pickle.loads(pickle.dumps(caught.value)).path == str(path)


# What is signed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "blosc"])
def test_all_that_is_stored_is_signed(compression, tmp_path, batch, expected):
    cached_features = make(tmp_path, NEW, compression=compression)
    data.assert_rows(rows_of(cached_features(batch)), expected)
    entries = npz_files(tmp_path)
    assert len(entries) == 12
    assert all(is_signed_by(NEW, path.read_bytes()) for path in entries)

    [path] = (tmp_path / "processors").iterdir()
    manifest = json.loads(path.read_bytes())
    signature = manifest.pop("signature")
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    assert signature.encode() == signature_by(NEW, text.encode())
    assert {name for name in contents(tmp_path) if not name.endswith((".npz", ".json"))} == {"CACHEDIR.TAG"}


def test_a_signed_entry_is_an_ordinary_npz(tmp_path):
    cache = AudioCache(CacheRoot(tmp_path, signing_key=NEW, compression=None))
    path = cache.put(KEY, {"input_features": FEATURES, "mask": np.ones(30, np.int32)})
    with np.load(path, allow_pickle=False) as arrays:
        data.assert_same_bits(arrays["input_features"], FEATURES)
        data.assert_same_bits(arrays["mask"], np.ones(30, np.int32))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.endswith(signature_by(NEW, entry_tools.signed_text(path.read_bytes())))
    plain = encode_entry(KEY, {"input_features": FEATURES, "mask": np.ones(30, np.int32)})
    assert len(path.read_bytes()) == len(plain) + 64


@pytest.mark.parametrize("compression", [None, "blosc"])
def test_who_has_no_key_reads_a_signed_root_as_any_other(compression, tmp_path, batch, expected):
    make(tmp_path, NEW, compression=compression)(batch)
    before = contents(tmp_path)
    reader = make(tmp_path, None)
    data.assert_rows(rows_of(reader(batch)), expected)
    assert (reader.stats.hits, reader.stats.computed, reader.stats.bad_entries) == (6, 0, 0)
    assert reader.explain(batch["audio"][0]).status == "hit"
    assert verify(tmp_path).is_clean
    assert contents(tmp_path) == before


def test_a_signature_is_checked_before_anything_is_parsed(tmp_path):
    cache = AudioCache(CacheRoot(tmp_path, signing_key=NEW))
    path = Path(cache.put(KEY, FEATURES))
    for content in (b"", b"x", b"x" * 63, b"x" * 64, b"x" * 1000, signature_by(NEW, b"")[:-1], signature_by(NEW, b"")):
        path.write_bytes(content)
        assert cache.get(KEY) is None
        assert path.read_bytes() == content
    assert (cache.stats.unsigned_entries, cache.stats.bad_entries) == (7, 0)
    # What is signed and no entry is a bad one.
    path.write_bytes(signature_by(NEW, KEY.name().encode() + b"\0"))
    assert cache.get(KEY) is None
    assert (cache.stats.unsigned_entries, cache.stats.bad_entries) == (7, 1)
    assert not path.exists()


def test_an_entry_is_there_only_if_it_is_signed(tmp_path):
    signed, unsigned = AudioCache(CacheRoot(tmp_path, signing_key=NEW)), AudioCache(tmp_path)
    unsigned.put(KEY, FEATURES)
    assert unsigned.exists(KEY)
    assert not signed.exists(KEY)
    signed.put(KEY, FEATURES)
    assert signed.exists(KEY)
    assert not AudioCache(CacheRoot(tmp_path, signing_key=OLD)).exists(KEY)
    data.assert_same_bits(signed.get(KEY), FEATURES)
    data.assert_same_bits(unsigned.get(KEY), FEATURES)
    assert AudioCache(CacheRoot(tmp_path, signing_key=OLD)).get(KEY) is None


# Somebody else filled the root ----------------------------------------------------------------------------------------

STRANGERS = {"without a key": None, "with another key": OLD}


@pytest.fixture(params=STRANGERS)
def strange_root(request, tmp_path, batch):
    """A root that somebody else filled, with wrong features under our names."""
    root = tmp_path / "root"
    make(root, STRANGERS[request.param], function=evil)(batch)
    return root


def test_what_a_stranger_put_there_is_a_miss_that_stays_until_it_is_replaced(strange_root, batch, expected, clips):
    before = contents(strange_root)
    cached_features = make(strange_root, NEW)
    keys = [AudioCacheKey(data.sha256(clip), cached_features.processor_sha, RATE, 0) for clip in clips]
    assert cached_features.audio_cache.get_all_many(keys) == [None] * 6
    assert cached_features.waveform_cache.get_many([key.waveform_key() for key in keys]) == [None] * 6
    assert contents(strange_root) == before
    stats = cached_features.stats
    assert (stats.unsigned_entries, stats.misses, stats.waveform_misses, stats.bad_entries) == (12, 6, 6, 0)

    data.assert_rows(rows_of(cached_features(batch)), expected)
    after = cached_features.stats - stats
    assert (after.unsigned_entries, after.computed, after.decodes, after.bad_entries) == (12, 6, 6, 0)
    assert all(is_signed_by(NEW, path.read_bytes()) for path in npz_files(strange_root))
    assert contents(strange_root).keys() == before.keys()

    again = make(strange_root, NEW)
    data.assert_rows(rows_of(again(batch)), expected)
    assert (again.stats.hits, again.stats.computed, again.stats.unsigned_entries) == (6, 0, 0)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_a_map_computes_what_a_stranger_put_there_and_its_references_are_read(num_proc, strange_root, clips, expected):
    cached_features = make(strange_root, NEW)
    mapped = cached_features.map(data.in_memory(clips), num_proc=num_proc)
    data.assert_rows(list(mapped), expected)
    data.assert_rows(list(cached_features.attach(mapped)), expected)
    data.assert_rows(list(cached_features.materialize(mapped).with_format("numpy")), expected)
    assert cached_features.stats.computed == 6
    assert make(strange_root, NEW).map(data.in_memory(clips))[:]["loud"] is not None
    assert all(is_signed_by(NEW, path.read_bytes()) for path in npz_files(strange_root))


def test_references_to_what_a_stranger_put_there_are_an_error(tmp_path, clips, expected):
    root = tmp_path / "root"
    cached_features = make(root, NEW)
    mapped = cached_features.map(data.in_memory(clips), remove_columns="audio")
    data.assert_rows(list(mapped), expected)
    shutil.rmtree(root)
    make(root, None, function=evil).map(data.in_memory(clips))
    cached_features = make(root, NEW)
    before = contents(root)
    for read in (
        lambda: mapped[0],
        lambda: mapped[:],
        lambda: mapped["start"][0],
        lambda: cached_features.attach(mapped)[:]["start"],
        lambda: cached_features.materialize(mapped),
        lambda: list(mapped.to_iterable_dataset()),
    ):
        with pytest.raises(MissingEntryError):
            read()
    assert contents(root) == before
    # And where datasets kept the references, they are made again.
    data.assert_rows(list(make(root, NEW).map(data.in_memory(clips))), expected)


def test_explain_says_that_an_entry_is_unsigned(strange_root, batch):
    cached_features = make(strange_root, NEW)
    before = contents(strange_root)
    explanation = cached_features.explain(batch["audio"][0])
    assert explanation.status == "unsigned entry"
    assert explanation.reasons == (
        "The entry is there, but it has no signature that one of the signing keys made for it. It is replaced.",
    )
    assert cached_features.explain({"audio": batch["audio"][0]}) == explanation
    assert contents(strange_root) == before
    cached_features(batch)
    assert cached_features.explain(batch["audio"][0]).status == "hit"


def test_the_log_warns_of_the_first_unsigned_entry(strange_root, batch, caplog):
    caplog.set_level(logging.DEBUG, logger="hf_audio_cache")
    make(strange_root, NEW)(batch)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2  # by the cache of features, and by that of waveforms
    for warning in warnings:
        assert str(strange_root) in warning
        assert "counts as a miss: it has no signature that one of the signing keys made" in warning


def test_a_strangers_manifest_is_not_believed(tmp_path, batch):
    root = tmp_path / "root"
    sha = make(root, NEW).processor_sha
    make(root, None)(batch)
    path = root / "processors" / f"{sha}.json"
    manifest = json.loads(path.read_bytes())
    for spec in manifest["outputs"]:
        spec["dtype"] = "int8"
    path.write_text(json.dumps(manifest))

    unsigned, signed = make(root, None), make(root, NEW)
    assert unsigned.features(datasets.Features())["start"] == datasets.List(datasets.Value("int8"))
    assert signed.features(datasets.Features())["start"] == datasets.List(datasets.Value("float32"))
    signed(batch)
    again = json.loads(path.read_bytes())
    assert {spec["name"]: spec["dtype"] for spec in again["outputs"]} == {"start": "float32", "loud": "bool"}
    assert "signature" in again


@pytest.mark.parametrize("wrong", [None, 5, [], {}, "", "0" * 64, "ä" * 64, "\ud800" * 64])
def test_a_manifest_with_any_other_signature_is_not_believed(wrong, tmp_path, batch):
    make(tmp_path, NEW)(batch)
    [path] = (tmp_path / "processors").iterdir()
    right = path.read_bytes()
    path.write_text(json.dumps({**json.loads(right), "signature": wrong}))
    cached_features = make(tmp_path, NEW)
    assert cached_features.features(datasets.Features())["loud"] == datasets.List(datasets.Value("bool"))
    report = verify(CacheRoot(tmp_path, signing_key=NEW))
    assert [*report.unsigned, *report.bad] == [f"processors/{path.name}"]
    clip = {
        "bytes": batch["audio"][0]["bytes"] + b"\0\0",
        "path": "another.wav",
    }  # a miss, so that something is written
    cached_features({"audio": [clip]})
    assert json.loads(path.read_bytes()) == json.loads(right)


# Another key ----------------------------------------------------------------------------------------------------------


def test_a_key_is_changed_by_passing_both(tmp_path, batch, expected):
    old = make(tmp_path, OLD)
    old({"audio": batch["audio"][:3]})
    both = make(tmp_path, [NEW, OLD])
    data.assert_rows(rows_of(both(batch)), expected)
    assert (both.stats.hits, both.stats.computed, both.stats.unsigned_entries) == (3, 3, 0)
    assert sum(is_signed_by(NEW, path.read_bytes()) for path in npz_files(tmp_path)) == 6
    assert sum(is_signed_by(OLD, path.read_bytes()) for path in npz_files(tmp_path)) == 6

    for key, accepted in ((OLD, 3), (NEW, 3), ([OLD, NEW], 6), ([NEW, OLD], 6)):
        one = make(tmp_path, key)
        keys = [AudioCacheKey(_sha(cell), one.processor_sha, RATE, 0) for cell in batch["audio"]]
        assert sum(found is not None for found in one.audio_cache.get_all_many(keys)) == accepted
        assert one.stats.unsigned_entries == 6 - accepted

    new = make(tmp_path, NEW)
    data.assert_rows(rows_of(new(batch)), expected)
    assert (new.stats.hits, new.stats.computed) == (3, 3)
    assert all(is_signed_by(NEW, path.read_bytes()) for path in npz_files(tmp_path))
    assert verify(CacheRoot(tmp_path, signing_key=OLD)).n_entries == 12
    assert len(verify(CacheRoot(tmp_path, signing_key=OLD)).unsigned) >= 12


def _sha(cell: dict[str, Any]) -> str:
    return hashlib.sha256(cell["bytes"]).hexdigest()


# Other processes ------------------------------------------------------------------------------------------------------


def compute(cached_features: CachedFeatures, batch: Any) -> Any:
    return rows_of(cached_features(batch)), cached_features.stats


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_is_started_here_has_the_key(method, tmp_path, batch, expected):
    make(tmp_path)({"audio": batch["audio"][:3]})
    rows, stats = in_child(compute, make(tmp_path), batch, method=method)
    data.assert_rows(rows, expected)
    assert (stats.hits, stats.computed, stats.unsigned_entries) == (3, 3, 0)
    assert len(npz_files(tmp_path)) > 6
    assert all(is_signed_by(MARKER, path.read_bytes()) for path in npz_files(tmp_path))


def read_rows(dataset: Any) -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("start", "loud")} for row in dataset]


@pytest.mark.parametrize(
    ("form", "method"),
    [
        ("references", "fork"),
        pytest.param("attached references", "fork", marks=pytest.mark.long),
        ("attached audio", "fork"),
        pytest.param("references", "spawn", marks=pytest.mark.long),
        ("attached references", "spawn"),
    ],
)
def test_rows_are_read_through_the_key_in_a_process_that_is_started_here(
    form, method, tmp_path, clips, expected, request
):
    if (form, method) == ("references", "spawn"):
        request.applymarker(
            pytest.mark.xfail(reason="nothing brings the key to a spawned process that gets references alone")
        )
    ours, theirs = (rows_in_form(form, tmp_path / name, clips) for name in ("ours", "theirs"))
    replace_by_evil(tmp_path / "theirs", clips, None)
    make(tmp_path / "theirs")
    rows, of_theirs = in_child(read_both, ours, theirs, method=method)
    data.assert_rows(rows, expected)
    if form == "attached audio":
        data.assert_rows(of_theirs, expected)
    else:
        assert of_theirs == "MissingEntryError"


def rows_in_form(form: str, root: Path, clips: list[Path]) -> Any:
    cached_features = make(root)
    mapped = cached_features.map(data.in_memory(clips), remove_columns="audio")
    return {
        "references": mapped,
        "attached references": cached_features.attach(mapped),
        "attached audio": cached_features.attach(data.in_memory(clips), remove_columns="audio"),
    }[form]


def replace_by_evil(root: Path, clips: list[Path], signing_key: str | None) -> None:
    shutil.rmtree(root)
    make(root, signing_key, function=evil).map(data.in_memory(clips))


def read_both(ours: Any, theirs: Any) -> Any:
    """Return the rows of a root, and those of one that somebody else filled, or the error."""
    try:
        return read_rows(ours), read_rows(theirs)
    except MissingEntryError as exc:
        return read_rows(ours), type(exc).__name__


def test_a_spawned_process_reads_references_through_the_key_of_a_variable(tmp_path, clips, expected, monkeypatch):
    ours, theirs = (rows_in_form("references", tmp_path / name, clips) for name in ("ours", "theirs"))
    replace_by_evil(tmp_path / "theirs", clips, OLD)
    monkeypatch.setenv(KEY_VARIABLE, MARKER)
    rows, of_theirs = in_child(read_both, ours, theirs, method="spawn")
    data.assert_rows(rows, expected)
    assert of_theirs == "MissingEntryError"


ELSEWHERE = """
import json, pickle, sys
import audio_datasets
from pathlib import Path
from hf_audio_cache.errors import SigningKeyError

pickled, *clips = sys.argv[1:]
cached_features = pickle.loads(Path(pickled).read_bytes())
batch = {"audio": clips}
said = []
for use in (
    lambda: cached_features(batch),
    lambda: cached_features.map(audio_datasets.of_paths([Path(clip) for clip in clips])),
    lambda: cached_features.explain({"audio": clips[0]}),
):
    try:
        use()
        said.append("")
    except SigningKeyError as exc:
        said.append(str(exc))
print(json.dumps([said, cached_features.stats.to_dict()]))
"""

NOT_GIVEN = (
    "This process does not have the signing key of the root: keys are never pickled. "
    f"Set {KEY_VARIABLE} or {FILE_VARIABLE} where the workers run. Nothing was read or written."
)


def use_elsewhere(cached_features: CachedFeatures, clips: list[Path], folder: Path, **environment: str) -> Any:
    pickled = folder / "cached-features.pickle"
    pickled.write_bytes(pickle.dumps(cached_features))
    return data.run_program(ELSEWHERE, pickled, *clips, **environment)


def test_an_unrelated_process_without_the_key_says_so_and_changes_nothing(tmp_path, batch, clips):
    cached_features = make(tmp_path / "root")
    cached_features(batch)
    before = contents(tmp_path / "root")
    said, stats = use_elsewhere(cached_features, clips, tmp_path)
    assert said == [NOT_GIVEN] * 3
    assert contents(tmp_path / "root") == before
    assert stats["bad_entries"] == stats["unsigned_entries"] == 0


@pytest.mark.parametrize("variable", [pytest.param(KEY_VARIABLE, marks=pytest.mark.long), FILE_VARIABLE])
def test_an_unrelated_process_has_the_key_of_a_variable(variable, tmp_path, batch, clips):
    cached_features = make(tmp_path / "root")
    cached_features({"audio": batch["audio"][:4]})
    before = contents(tmp_path / "root")
    value = MARKER if variable == KEY_VARIABLE else str(key_file(tmp_path, MARKER.encode()))
    said, stats = use_elsewhere(cached_features, clips, tmp_path, **{variable: value})
    assert said == ["", "", ""]
    # They count together: four were computed here, two there, where the map then found all.
    assert (stats["computed"], stats["hits"]) == (4 + 2, 4 + 6)
    assert (stats["unsigned_entries"], stats["bad_entries"]) == (0, 0)
    after = contents(tmp_path / "root")
    assert {name: after[name] for name in before} == before
    assert all(is_signed_by(MARKER, path.read_bytes()) for path in npz_files(tmp_path / "root"))


def apply(pickled: bytes, batch: Any) -> str:
    try:
        pickle.loads(pickled)(batch)
    except SigningKeyError as exc:
        return str(exc)
    return "it was used"


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_a_worker_of_a_pool_that_was_started_before_says_so_and_changes_nothing(method, tmp_path, batch):
    with multiprocessing.get_context(method).Pool(1) as pool:
        pool.apply(abs, (1,))
        cached_features = make(tmp_path, "a-key-that-is-younger-than-the-pool")
        cached_features(batch)
        before = contents(tmp_path)
        said = pool.apply(apply, (pickle.dumps(cached_features), batch))
    assert said == NOT_GIVEN
    assert contents(tmp_path) == before


# Nothing shows a key --------------------------------------------------------------------------------------------------


def shows(content: bytes | str) -> bool:
    """Return whether `MARKER` is to be found, as it is or in another coding."""
    found = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    marker = MARKER.encode()
    forms = [marker, marker.hex().encode(), base64.b64encode(marker)[:-4], MARKER.encode("utf-16-le"), marker[4:]]
    return any(form in found for form in forms)


@pytest.mark.parametrize("pickler", ["pickle", "dill", "cloudpickle"])
def test_no_pickle_has_the_key(pickler, tmp_path, clips, batch):
    if importlib.util.find_spec(pickler) is None:
        pytest.skip(f"{pickler} is not installed")
    module = importlib.import_module(pickler)
    cached_features = make(tmp_path)
    cached_features(batch)
    mapped = cached_features.map(data.in_memory(clips))
    streamed = cached_features.attach(data.in_memory(clips).to_iterable_dataset())
    pickled = [
        cached_features,
        cached_features.pipeline.root.signing_keys,
        cached_features.bad_clips,
        cached_features.explain(batch["audio"][0]),
        cached_features.attach(data.in_memory(clips)),
        mapped,
        mapped.features,
        cached_features.attach(mapped),
        streamed,
        lambda: cached_features,
    ]
    for one in pickled:
        if pickler == "pickle" and callable(one) and not isinstance(one, CachedFeatures):
            continue
        assert not shows(module.dumps(one))
    assert module.loads(module.dumps(cached_features))(batch)["start"][0].shape == (500,)


def test_what_datasets_hashes_has_no_key(tmp_path, clips, monkeypatch):
    seen: list[bytes] = []
    hash_bytes = Hasher.hash_bytes.__func__

    def watch(cls: Any, value: Any) -> Any:
        seen.extend([value] if isinstance(value, bytes) else value)
        return hash_bytes(cls, value)

    monkeypatch.setattr(Hasher, "hash_bytes", classmethod(watch))
    signed = make(tmp_path / "root")
    signed.map(data.in_memory(clips))
    data.in_memory(clips).map(signed, batched=True)
    signed.attach(data.in_memory(clips))
    assert Hasher.hash(signed) == Hasher.hash(make(tmp_path / "root", OLD)) == Hasher.hash(make(tmp_path / "x", None))
    assert len(seen) > 5
    assert not any(shows(content) for content in seen)


def test_no_text_has_the_key(tmp_path, batch):
    cached_features = make(tmp_path)
    cached_features(batch)
    pipeline = cached_features.pipeline
    texts = [
        repr(one)
        for one in (
            cached_features,
            pipeline,
            pipeline.root.signing_keys,
            vars(cached_features),
            vars(pipeline),
            vars(pipeline.root.signing_keys),
            vars(cached_features.audio_cache),
            cached_features.__getstate__(),
            cached_features.__reduce_ex__(2),
            cached_features.stats,
            cached_features.explain(batch["audio"][0]),
            cached_features.features(datasets.Features()),
            verify(CacheRoot(tmp_path, signing_key=MARKER)),
        )
    ]
    texts += [str(cached_features), str(pipeline), f"{pipeline.root.signing_keys}"]
    assert not any(shows(text) for text in texts)


def missing(folder: Path) -> datasets.Dataset:
    """Return a dataset of a clip that is not there."""
    return datasets.Dataset.from_dict({"audio": [{"bytes": None, "path": str(folder / "missing.wav")}]})


def everything_that_goes_wrong(root: Path, folder: Path, batch: Any) -> list[BaseException]:
    """Run into every error of a signed root, with `MARKER` as the key or in the place of one."""
    caught = []
    path = key_file(folder, MARKER.encode(), 0o644)
    short = folder / "short"
    short.write_bytes(f"{MARKER}\nshort".encode())
    short.chmod(0o600)
    signed = make(root)
    blocked = root / "features"
    for use in (
        lambda: make(root, path),
        lambda: make(root, short),
        lambda: make(root, [MARKER, "short"]),
        lambda: make(root, [MARKER, 3]),
        lambda: make(root, {MARKER: 3, "short": 4}),
        lambda: make(root, bytearray(MARKER.encode())),
        lambda: make(root, on_error="skip")({"audio": batch["audio"]}),
        lambda: make(root)({"audio": [b"no audio"]}),
        lambda: make(root)({"audio": None}),
        lambda: make(root)({"sound": batch["audio"]}),
        lambda: signed.map(missing(folder)),
        lambda: signed.audio_cache.put(KEY, {"x": object()}),
        lambda: signed.attach(signed.map(data.in_memory([])).cast_column("start", datasets.Value("binary"))),
        lambda: blocked.write_bytes(b"") and signed.map(datasets.Dataset.from_dict(batch)),
    ):
        try:
            use()
        except Exception as exc:  # noqa: BLE001 - whatever it is
            caught.append(exc)
    blocked.unlink()
    return caught


def test_no_error_and_no_log_has_the_key(tmp_path, batch, caplog):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "root").mkdir()
    caught = everything_that_goes_wrong(tmp_path / "root", tmp_path, batch)
    make(tmp_path / "root", OLD)(batch)
    make(tmp_path / "root")(batch)
    assert len(caught) >= 12
    for exc in caught:
        said = "".join(traceback.TracebackException.from_exception(exc).format())
        assert not shows(said), type(exc)
        assert not shows(repr(vars(exc)))
        with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
            assert not shows(pickle.dumps(exc))
    records = [record.getMessage() for record in caplog.records]
    assert any("no signature that one of the signing keys made" in said for said in records)
    assert not any(shows(said) for said in records)


def test_no_file_has_the_key(tmp_path, clips, monkeypatch):
    for name in ("scratch", "data"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    dataset = data.saved([*clips], tmp_path / "data" / "saved")
    cached_features = make(tmp_path / "root", on_error="null", reason_column="why")
    mapped = cached_features.map(dataset, num_proc=2)
    mapped.save_to_disk(tmp_path / "data" / "references")
    dataset.map(cached_features, num_proc=2).to_parquet(tmp_path / "data" / "arrays.parquet")
    cached_features.map(missing(tmp_path))
    cached_features.materialize(mapped).save_to_disk(tmp_path / "data" / "arrays")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".npz", ".json", ".arrow", ".parquet", ".bad-clips", ".TAG"} <= kinds
    assert [path for path in files if shows(path.read_bytes())] == []
    assert stat.S_IMODE((tmp_path / "scratch").stat().st_mode) & 0o700
    buffer = io.BytesIO()
    np.savez(buffer, marker=np.frombuffer(MARKER.encode(), np.uint8))
    assert shows(buffer.getvalue())  # else this test would show nothing
