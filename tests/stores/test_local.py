"""What every store promises (`StoreContract`), and what a local one adds."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
from children import become_nobody, in_child, no_more_open_files
from store_contract import StoreContract, files_under

from hf_audio_cache.errors import InvalidRootError, StoreError
from hf_audio_cache.stores import LocalStore, StoredObject, is_temporary, local, open_store
from hf_audio_cache.support.paths import default_root


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return LocalStore(tmp_path / "root")

    def open_again(self, store):
        return LocalStore(store.location())


# Roots ----------------------------------------------------------------------------------------------------------------


def test_a_location_is_a_path(tmp_path):
    store = LocalStore(tmp_path / "root")
    assert store.location() == tmp_path / "root"
    assert store.location("ab/name") == tmp_path / "root" / "ab" / "name"
    assert isinstance(store.location("ab/name"), Path)


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore("root")
    monkeypatch.chdir("/")
    store.put("name", b"content")
    assert files_under(tmp_path) == {"root/name": b"content"}


def test_every_form_of_a_local_root_opens_the_same_place(tmp_path):
    for number, form in enumerate((str, Path, lambda path: f"file://{path}")):
        open_store(form(tmp_path / "root")).put(f"{number}", b"content")
    assert files_under(tmp_path).keys() == {"root/0", "root/1", "root/2"}


def test_a_tilde_is_the_home_directory(session_home):
    assert open_store("~/cache").location() == session_home / "cache"


def test_a_root_that_no_store_can_serve_is_named():
    for root in ("nosuch://bucket/x", "://x", "simplecache::s3://x/y", "", None, 5, b"/tmp/x", ["/tmp/x"], object()):
        with pytest.raises(InvalidRootError, match="nothing was opened") as caught:
            open_store(root)
        assert caught.value.root == str(root)


def test_the_default_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("HF_AUDIO_CACHE", "/a")
    monkeypatch.setenv("HF_HOME", "/b")
    assert default_root() == "/a"
    monkeypatch.delenv("HF_AUDIO_CACHE")
    assert default_root() == "/b/audio_cache"
    monkeypatch.delenv("HF_HOME")
    assert default_root() == "~/.cache/huggingface/audio_cache"


def test_a_root_that_is_a_file_loses_writes_and_is_empty(tmp_path):
    (tmp_path / "root").write_bytes(b"precious")
    store = LocalStore(tmp_path / "root")
    [error] = store.put_many({"ab/name": b"content"}).values()
    assert isinstance(error, StoreError)
    assert error.name == "ab/name"
    assert isinstance(error.__cause__, OSError)
    assert store.get("ab/name") is None
    assert not store.exists("ab/name")
    assert list(store.names()) == []
    assert store.delete(["ab/name"]) == {}
    assert files_under(tmp_path) == {"root": b"precious"}


def test_a_file_in_the_place_of_a_folder_loses_that_write_only(tmp_path):
    (tmp_path / "ab").write_bytes(b"precious")
    failed = LocalStore(tmp_path).put_many({"ab/name": b"content", "cd/name": b"content"})
    assert list(failed) == ["ab/name"]
    assert files_under(tmp_path) == {"ab": b"precious", "cd/name": b"content"}


def test_a_folder_in_the_place_of_an_object_is_an_error_that_names_it(tmp_path):
    store = LocalStore(tmp_path)
    (tmp_path / "ab/name/kept").mkdir(parents=True)
    [found] = store.get_many(["ab/name"])
    assert isinstance(found, StoreError)
    assert str(found) == f"could not read {tmp_path}/ab/name: it is not a regular file"
    with pytest.raises(StoreError, match="could not read"):
        store.get("ab/name")
    with pytest.raises(StoreError, match="could not write"):
        store.put("ab/name", b"content")
    assert list(store.delete(["ab/name"])) == ["ab/name"]
    assert (tmp_path / "ab/name/kept").is_dir()
    assert files_under(tmp_path) == {}


def test_a_name_longer_than_the_file_system_allows_is_a_lost_write(tmp_path):
    store = LocalStore(tmp_path)
    name = f"ab/{'x' * 300}"
    assert list(store.put_many({name: b"content", "ab/name": b"content"})) == [name]
    assert files_under(tmp_path) == {"ab/name": b"content"}


def test_symbolic_links_are_not_listed_and_never_deleted_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(outside)
    (root / "link").symlink_to(outside / "precious")
    (root / "dangling").symlink_to(outside / "missing")
    (root / "loop").symlink_to(root)
    (root / "real").write_bytes(b"content")
    store = LocalStore(root)
    assert list(store.names()) == ["real"]
    assert store.delete(["link", "dangling"]) == {}
    assert (outside / "precious").read_bytes() == b"precious"
    assert (root / "folder").is_symlink()


def test_nothing_is_read_written_or_deleted_through_a_link_under_the_root(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "name").write_bytes(b"precious")
    root = tmp_path / "root"
    (root / "features").mkdir(parents=True)
    (root / "features/ab").symlink_to(outside)
    (root / "waveforms").symlink_to(outside)
    (root / "link").symlink_to(outside / "name")
    store = LocalStore(root)
    features, waveforms = store.child("features"), store.child("waveforms")
    answers = [
        *store.get_many(["link"]),
        *features.get_many(["ab/name"]),
        *waveforms.get_many(["name"]),
        *features.put_many({"ab/name": b"new", "ab/new": b"new"}).values(),
        *waveforms.put_many({"name": b"new", "cd/new": b"new"}).values(),
        *features.delete(["ab/name"]).values(),
        *waveforms.delete(["name"]).values(),
    ]
    assert [answer.errno for answer in answers] == [errno.ELOOP] * 9
    assert "is a symbolic link, and links under a root are not followed" in str(answers[1])
    assert not features.exists("ab/name")
    assert not store.exists("link")
    assert list(features.names()) == []
    with pytest.raises(StoreError, match="could not list"):
        list(waveforms.names())
    assert files_under(outside) == {"name": b"precious"}


def test_a_root_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    LocalStore(tmp_path / "root").put("ab/name", b"content")
    assert files_under(tmp_path / "disk") == {"ab/name": b"content"}
    assert LocalStore(tmp_path / "root").get("ab/name") == b"content"


def test_a_root_that_is_a_link_to_nothing_says_so_and_works_once_it_is_there(tmp_path):
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "root")
    [error] = store.put_many({"name": b"content"}).values()
    assert f"the root is a link to {tmp_path / 'disk'}, which is not there" in str(error)
    (tmp_path / "disk").mkdir()
    assert store.put_many({"name": b"content"}) == {}
    assert (tmp_path / "disk/name").read_bytes() == b"content"


@pytest.mark.parametrize("kept_in", ["root", "root/features"])
def test_a_folder_that_was_moved_away_gets_nothing_more(tmp_path, kept_in):
    store = LocalStore(tmp_path / "root").child("features")
    store.put("ab/old", b"old")
    (tmp_path / kept_in).rename(tmp_path / "away")
    assert store.get("ab/old") is None
    assert not store.exists("ab/old")
    assert store.delete(["ab/old"]) == {}
    store.put("ab/new", b"new")
    assert files_under(tmp_path / "root") == {"features/ab/new": b"new"}
    assert list(files_under(tmp_path / "away").values()) == [b"old"]
    assert store.get("ab/new") == b"new"


def test_a_folder_that_became_a_link_is_followed_no_more(tmp_path):
    (tmp_path / "outside").mkdir()
    store = LocalStore(tmp_path / "root").child("features")
    store.put("ab/name", b"content")
    (tmp_path / "root/features").rename(tmp_path / "away")
    (tmp_path / "root/features").symlink_to(tmp_path / "outside")
    [error] = store.put_many({"ab/name": b"new"}).values()
    assert error.errno == errno.ELOOP
    assert files_under(tmp_path / "outside") == {}


def test_a_descriptor_that_a_program_gave_to_another_folder_is_not_used(tmp_path):
    (tmp_path / "other").mkdir()
    store = LocalStore(tmp_path / "root")
    store.put("ab/name", b"content")
    reused, other = store._kept.descriptor, os.open(tmp_path / "other", os.O_RDONLY)
    os.dup2(other, reused)  # as in a program that became a daemon, which closes all that is open
    os.close(other)
    store.put("ab/new", b"new")
    assert store.get("ab/name") == b"content"
    assert files_under(tmp_path) == {"root/ab/name": b"content", "root/ab/new": b"new"}
    del store
    os.close(reused)  # nobody closed it


def open_folders(below):
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed by now: that of the listing, or another thread's
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [path for path in found if path.startswith(str(below))]


def test_a_folder_that_a_program_closed_is_opened_for_good(tmp_path):
    store = LocalStore(tmp_path / "root")
    store.put("ab/name", b"content")
    os.close(store._kept.descriptor)  # as a daemon does; the next folder gets its number
    for _ in range(3):
        assert store.get("ab/name") == b"content"
    assert open_folders(tmp_path) == [str(tmp_path / "root")]


def test_of_many_stores_few_keep_their_folder_open(tmp_path):
    stores = [LocalStore(tmp_path / f"{number}") for number in range(40)]
    for _ in range(2):
        for store in stores:
            store.put("ab/name", b"content")
            assert store.get("ab/name") == b"content"
        assert len(open_folders(tmp_path)) == 16


def test_a_store_keeps_one_folder_open_and_closes_it_at_its_end(tmp_path):
    store = LocalStore(tmp_path / "root")
    names = [f"{number:02x}/name" for number in range(50)]
    assert store.put_many(dict.fromkeys(names, b"content")) == {}
    assert store.get_many(names) == [b"content"] * 50
    assert open_folders(tmp_path) == [str(tmp_path / "root")]
    del store
    assert open_folders(tmp_path) == []


def test_a_pipe_in_an_objects_place_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / "name")
    store = LocalStore(tmp_path)
    [found] = store.get_many(["name"])
    assert str(found) == f"could not read {tmp_path}/name: it is not a regular file"
    assert not store.exists("name")
    store.put("name", b"content")
    assert store.get("name") == b"content"


def test_a_put_replaces_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/name").symlink_to(tmp_path / "precious")
    LocalStore(tmp_path / "root").put("name", b"content")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "root/name").read_bytes() == b"content"
    assert not (tmp_path / "root/name").is_symlink()


# Publishing -----------------------------------------------------------------------------------------------------------


def put_under_umask(root, umask):
    os.umask(umask)
    LocalStore(root).put("ab/name", b"content")


@pytest.mark.parametrize(
    ("umask", "file_mode", "folder_mode"),
    [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775), (0o057, 0o620, 0o720)],
)
def test_modes_are_those_of_the_umask(tmp_path, umask, file_mode, folder_mode):
    in_child(put_under_umask, tmp_path / "root", umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"name": file_mode, "ab": folder_mode, "root": folder_mode}


class StopWritingError(BaseException):
    pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), StopWritingError()])
def test_an_interrupted_put_leaves_nothing_and_keeps_the_old_object(tmp_path, monkeypatch, error):
    store = LocalStore(tmp_path)
    store.put("ab/name", b"old")
    before_publishing = []

    def replace(source, target, **folders):
        before_publishing.append({**files_under(tmp_path)})
        raise error

    monkeypatch.setattr(os, "replace", replace)
    if isinstance(error, OSError):
        assert list(store.put_many({"ab/name": b"new"})) == ["ab/name"]
    else:
        with pytest.raises(type(error)):
            store.put("ab/name", b"new")
    [seen] = before_publishing
    assert seen.pop("ab/name") == b"old"
    [(temporary, content)] = seen.items()
    assert content == b"new"
    assert is_temporary(temporary)
    assert files_under(tmp_path) == {"ab/name": b"old"}


def test_a_temporary_name_is_told_from_others():
    names = ["ab/.name.npz.123-0a1b2c3d.tmp", ".name.1-0.tmp", "ab/name.npz", "ab/name.tmp", ".hidden", ".x.tmp/name"]
    assert [is_temporary(name) for name in names] == [True, True, False, False, False, False]


def put_on_a_full_disk(root):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error then
    import resource  # which is not everywhere

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    failed = LocalStore(root).put_many({"ab/small": b"x" * 1000, "ab/big": b"x" * 300_000, "cd/small": b"y" * 1000})
    return {name: error.errno for name, error in failed.items()}


def test_a_write_that_does_not_fit_is_lost_alone_and_leaves_nothing(tmp_path):
    assert in_child(put_on_a_full_disk, tmp_path) == {"ab/big": errno.EFBIG}
    assert files_under(tmp_path) == {"ab/small": b"x" * 1000, "cd/small": b"y" * 1000}


def use_up_all_files(root):
    store = LocalStore(root)
    with no_more_open_files():
        [read] = store.get_many(["ab/name"])
        [(name, written)] = store.put_many({"ab/new": b"content"}).items()
        try:
            listed = list(store.names())
        except StoreError as error:
            listed = error.errno
        known = store.exists("ab/name")
    return read.errno, name, written.errno, known, listed, store.get("ab/name")


def test_no_more_open_files_is_an_error_of_one_call(tmp_path):
    LocalStore(tmp_path).put("ab/name", b"content")
    results = in_child(use_up_all_files, tmp_path)
    assert results == (errno.EMFILE, "ab/new", errno.EMFILE, False, errno.EMFILE, b"content")
    assert files_under(tmp_path) == {"ab/name": b"content"}


def use_read_only(root):
    become_nobody()
    store = LocalStore(root)
    failed = [
        *store.put_many({"ab/name": b"new", "ab/x": b"new", "cd/x": b"new"}).values(),
        *store.delete(["ab/name", "ab/missing"]).values(),
    ]
    return store.get("ab/name"), list(store.names()), [error.errno for error in failed]


def test_a_read_only_root_is_read_and_loses_writes(public_folder):
    root = public_folder / "root"
    LocalStore(root).put("ab/name", b"content")
    for folder in (root / "ab", root):
        folder.chmod(0o555)
    assert in_child(use_read_only, root) == (b"content", ["ab/name"], [errno.EACCES] * 4)
    assert files_under(root) == {"ab/name": b"content"}
    for folder in (root, root / "ab"):
        folder.chmod(0o755)


def read_unreadable(root):
    become_nobody()
    store = LocalStore(root)
    [found] = store.get_many(["ab/name"])
    with pytest.raises(StoreError, match="could not list") as caught:
        list(store.names())
    return found.errno, store.exists("ab/name"), caught.value.name


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(public_folder):
    root = public_folder / "root"
    LocalStore(root).put("ab/name", b"content")
    (root / "ab").chmod(0)
    assert in_child(read_unreadable, root) == (errno.EACCES, False, "ab/")
    (root / "ab").chmod(0o755)


def test_a_folder_that_somebody_deletes_meanwhile_is_made_again(tmp_path, monkeypatch):
    replace = os.replace

    def replace_too_late(*paths, **folders):
        monkeypatch.setattr(os, "replace", replace)
        shutil.rmtree(tmp_path / "root" / "ab")
        replace(*paths, **folders)

    monkeypatch.setattr(os, "replace", replace_too_late)
    store = LocalStore(tmp_path / "root")
    store.put("ab/name", b"content")
    assert store.get("ab/name") == b"content"


class ShortWrites(io.FileIO):
    """A file that takes less than it is given, as Linux does beyond 2 GiB."""

    def write(self, content):
        return super().write(content[:1000])


def test_an_object_is_whole_though_the_system_takes_less_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "open", lambda file, mode, buffering: ShortWrites(file, mode), raising=False)
    LocalStore(tmp_path).put("ab/name", bytes(range(256)) * 40)
    monkeypatch.undo()
    assert files_under(tmp_path) == {"ab/name": bytes(range(256)) * 40}


def test_what_was_replaced_since_it_was_listed_is_not_deleted(tmp_path):
    store = LocalStore(tmp_path)
    assert store.put_many({"ab/old": b"old", "ab/replaced": b"old"}) == {}
    listed = list(store.scan())
    os.utime(tmp_path / "ab/replaced", (1, 1))
    assert store.delete_unchanged([*listed, StoredObject("ab/gone", 1, 1.0)]) == {}
    assert files_under(tmp_path) == {"ab/replaced": b"old"}
