"""Packers killed, beside others and on full disks; packs and indexes damaged: nothing lost, wrong or raised."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import resource
import shutil
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import xxhash
from children import in_child, start_child
from entry_tools import Outcomes
from pack_tools import age, indexes, open_packed, packs, singles, without_waiting

from hf_audio_cache import AudioCache, AudioCacheKey, CacheRoot, pack, prune, verify
from hf_audio_cache.errors import StoreError
from hf_audio_cache.stores.packs import catalog
from hf_audio_cache.stores.packs.index import ROW, encode_index, sort_rows
from hf_audio_cache.stores.packs.names import entry_key

PROCESSOR = "7d865e95" * 8
N = 60


def key_of(number: int) -> AudioCacheKey:
    return AudioCacheKey(f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" * 4, PROCESSOR, 16_000, 0)


def outputs_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(50 + number % 50, dtype=np.float32)


def put(root: Path, numbers: range) -> None:
    cache = AudioCache(CacheRoot(root / "features", compression=None))
    assert cache.put_many({key_of(number): {"input_features": outputs_of(number)} for number in numbers})


def wrong_of(cache: AudioCache, numbers: list[int]) -> tuple[int, int]:
    """Return how many of these entries are other than they should be, and how many are missing."""
    found = cache.get_all_many([key_of(number) for number in numbers])
    missing = sum(one is None for one in found)
    wrong = sum(
        one is not None and not np.array_equal(one["input_features"], outputs_of(number))
        for one, number in zip(found, numbers, strict=True)
    )
    return wrong, missing


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "root", range(N))
    return tmp_path / "root"


@pytest.fixture
def all_are_quick(monkeypatch):
    """A process lists packs again 0.1 s after a miss. A packer waits that long before it deletes."""
    monkeypatch.setattr(catalog, "_LOCAL_SECONDS", (0.1, 1.0))


# Processes ------------------------------------------------------------------------------------------------------------


def read_for_ever(sender: int, root: Path, seed: int) -> None:
    """Read batches of the first entries, and say what was wrong, missing or raised."""
    order = random.Random(seed)
    cache = AudioCache(root / "features")
    while True:
        if order.random() < 0.1:
            cache = AudioCache(root / "features")
        try:
            said = "{} {} 0".format(*wrong_of(cache, [order.randrange(N) for _ in range(order.choice([1, 32]))]))
        except Exception as exc:  # noqa: BLE001 - what may not happen
            said = f"0 0 1 {exc!r}"
        os.write(sender, f"{said}\n".encode())


def write_for_ever(sender: int, root: Path, first: int) -> None:
    """Put new entries, and now and then old ones again; say which are there."""
    for number in range(first, first + 1_000_000, 10):
        put(root, range(number, number + 10))
        put(root, range(number % N // 10 * 10, number % N // 10 * 10 + 2))
        os.write(sender, f"{number}\n".encode())
        time.sleep(0.01)


def pack_for_ever(root: Path, seed: int, *, is_alone: bool) -> None:
    """Pack, delete entries that nobody reads, and tidy; packs seem old, where no other packer may be at work."""
    order = random.Random(seed)
    victims = range(5_000, 5_100)
    while True:
        put(root, victims)
        pack(root, pack_bytes=order.choice([3_000, 30_000, 300_000]))
        cache = AudioCache(root / "features")
        cache._store.delete([key_of(number).name() for number in victims])
        if is_alone:
            age(root)
        cache._store.tidy()


class Beside:
    """Processes that read and write beside what is tried."""

    def __init__(self, root: Path) -> None:
        self._said, sender = os.pipe()
        self._written, writer = os.pipe()
        self._processes = [start_child(read_for_ever, sender, root, seed) for seed in range(2)]
        self._processes.append(start_child(write_for_ever, writer, root, 10_000))
        os.close(sender)
        os.close(writer)
        os.set_blocking(self._said, False)
        self.reads: list[str] = []

    def look(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while text := os.read(self._said, 1 << 16):
                self.reads += text.decode().splitlines()

    def end(self) -> list[int]:
        """End them; return the numbers of the entries that were written."""
        for process in self._processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        self.look()
        with open(self._written, encoding="ascii") as written:
            return [int(line) + step for line in written if line.endswith("\n") for step in range(10)]


def check(root: Path, beside: Beside, faults, fault: str, tried: int) -> None:
    """Enter a line into the table of faults: nothing is lost, wrong or raised, beside it and afterwards."""
    written = beside.end()
    for path in root.rglob("*.tmp"):
        os.utime(path, (0, 0))
    with without_waiting():
        pack(root)
        age(root)
        pack(root)
    prune(root)
    everything = [*range(N), *written]
    wrong, missing = wrong_of(AudioCache(root / "features"), everything)
    lines = [line.split() for line in beside.reads]
    whole = [line for line in lines if len(line) >= 3]
    assert len(whole) > 20
    assert written
    assert verify(root).is_clean
    assert not list(root.rglob("*.tmp"))
    packed = open_packed(root).catalog
    names = [entry.name for pack in packed.state().packs for entry in packed.alive_in(pack, with_doubles=True)]
    assert len(names) == len(set(names))  # the doubles of packers that were there at once are gone
    assert singles(root) == {}
    faults.survived(
        fault,
        tried,
        wrong_values=wrong + sum(int(line[0]) for line in whole),
        exceptions=sum(int(line[2]) for line in whole),
        bytes_lost=missing + sum(int(line[1]) for line in whole),
    )


def test_a_packer_is_killed_at_any_moment(root, faults, all_are_quick):
    kills = faults.times(6, 200)
    moments = random.Random(0)
    beside = Beside(root)
    for seed in range(kills):
        packer = start_child(functools.partial(pack_for_ever, is_alone=True), root, seed)
        time.sleep(moments.uniform(0.05, 1.0))
        assert packer.is_alive()
        os.kill(packer.pid, signal.SIGKILL)
        packer.join()
        beside.look()
    check(root, beside, faults, "a packer killed beside readers and a writer", kills)


def test_packers_work_at_once(root, faults, all_are_quick):
    rounds = faults.times(1, 20)
    beside = Beside(root)
    for seed in range(rounds):
        packers = [start_child(functools.partial(pack_for_ever, is_alone=False), root, 2 * seed + n) for n in range(2)]
        time.sleep(2.5)
        for packer in packers:
            assert packer.is_alive()
            os.kill(packer.pid, signal.SIGKILL)
            packer.join()
        beside.look()
    check(root, beside, faults, "two packers at once", rounds)


# A disk that takes no more --------------------------------------------------------------------------------------------


def pack_on(root: Path) -> str:
    """Return what `pack` raises, and the names of unfinished files."""
    with without_waiting():
        try:
            pack(root)
        except StoreError as exc:
            return f"{exc.errno} {[path.name for path in root.rglob('*.tmp')]}"
    return "nothing"


def pack_small_files(root: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return pack_on(root)


def test_files_may_not_grow(root, faults):
    before = singles(root)
    assert in_child(pack_small_files, root) == "27 []"
    assert singles(root) == before
    assert pack_on(root) == "nothing"
    wrong, missing = wrong_of(AudioCache(root / "features"), list(range(N)))
    faults.survived("a pack that may not be written", N, wrong_values=wrong, bytes_lost=missing)


# Damage ---------------------------------------------------------------------------------------------------------------


def flip(rng: random.Random, root: Path) -> None:
    path = rng.choice([*packs(root), *indexes(root), *(root / "packs").glob("*.deleted")])
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 100])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(rng: random.Random, root: Path) -> None:
    path = rng.choice([*packs(root), *indexes(root)])
    os.truncate(path, rng.randrange(path.stat().st_size))


def zero(rng: random.Random, root: Path) -> None:
    path = rng.choice([*packs(root), *indexes(root)])
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(rng.randrange(size))
        file.write(bytes(min(4096, size - file.tell())))


def swap_files(rng: random.Random, root: Path) -> None:
    paths = rng.choice([packs(root), [*packs(root), *indexes(root)]])
    one, other = rng.sample(paths, 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def foreign(rng: random.Random, root: Path) -> None:
    kind = rng.choice(["tar", "index", "deleted", "txt"])
    path = root / "packs" / f"{rng.randrange(1 << 128):032x}.{kind}"
    path.write_bytes(rng.choice([b"", b"x", rng.randbytes(5000), packs(root)[0].read_bytes()[:700]]))
    other = root / "packs" / f"{rng.randrange(1 << 128):032x}.{kind}"
    rng.choice([lambda: other.mkdir(), lambda: other.symlink_to("/etc/passwd"), lambda: os.mkfifo(other)])()


def lose(rng: random.Random, root: Path) -> None:
    rng.choice([*packs(root), *indexes(root)]).unlink()


def hostile(rng: random.Random, root: Path) -> None:
    """Write an index that has right checksums, and lies."""
    pack_ids = [path.stem for path in packs(root)]
    count = rng.choice([1, 100, N])
    rows = np.zeros(count, ROW)
    pairs = [struct.unpack("<QQ", entry_key(f"features/{key_of(n).name()}")) for n in range(count)]
    rows["clip"], rows["name"] = np.array(pairs, np.uint64).T
    rows["offset"] = rng.choice([0, 512, 1 << 40, (1 << 64) - 1, 700])
    rows["length"] = rng.choice([0, 1, 700, (1 << 32) - 1])
    rows["pack"] = rng.choice([0, 1, (1 << 32) - 1])
    content = encode_index(sort_rows(rows), pack_ids if rng.random() < 0.7 else [], is_gone=rng.random() < 0.2)
    if rng.random() < 0.5:
        at = rng.choice([12, 16, 20, 24, 28])
        content = content[:at] + rng.randbytes(4) + content[at + 4 :]
        head = content[:32]
        content = head + xxhash.xxh3_64_digest(head + content[40:-32])[::-1] + content[40:]
    kind = rng.choice(["index", "index", "deleted"])
    (root / "packs" / f"{'0' * 32 if rng.random() < 0.5 else 'f' * 32}.{kind}").write_bytes(content)
    if rng.random() < 0.5:
        for path in indexes(root)[1:]:
            path.unlink()


@pytest.fixture(scope="module")
def packed_root(tmp_path_factory):
    """A root with five packs. Some of their entries are deleted."""
    folder = tmp_path_factory.mktemp("packed") / "root"
    put(folder, range(N + 20))
    with without_waiting():
        pack(folder, pack_bytes=20_000)
    AudioCache(folder / "features")._store.delete([key_of(number).name() for number in range(N, N + 20)])
    assert len(packs(folder)) >= 3
    assert list((folder / "packs").glob("*.deleted"))
    return folder


@pytest.mark.parametrize("damage", [flip, cut, zero, swap_files, foreign, lose, hostile])
def test_packs_are_damaged(damage, packed_root, tmp_path, faults):
    outcomes = Outcomes()
    for seed in range(faults.times(4, 400)):
        rng = random.Random(seed)
        root = tmp_path / str(seed)
        shutil.copytree(packed_root, root)
        cache = AudioCache(CacheRoot(root / "features", compression=None))
        if rng.random() < 0.5:  # a process that has read before
            wrong_of(cache, list(range(N)))
        damage(rng, root)
        outcomes.tried += 1
        try:
            numbers = list(range(N))
            wrong, _ = wrong_of(cache, numbers)
            wrong += wrong_of(AudioCache(root / "features"), numbers)[0]
            wrong += sum(wrong_of(cache, numbers[start : start + 1])[0] for start in range(0, N, 50))
            verify(root, repair=True)
            with without_waiting():
                pack(root)
            # `cache` may believe for some milliseconds that an entry is there which the repair has deleted.
            after = AudioCache(CacheRoot(root / "features", compression=None))
            missing = [number for number in numbers if not after.exists(key_of(number))]
            after.put_many({key_of(number): {"input_features": outputs_of(number)} for number in missing})
            again = AudioCache(root / "features")
            wrong_again, missing_again = wrong_of(again, numbers)
            is_clean = verify(root).is_clean
        except Exception as exc:  # noqa: BLE001 - what may not happen, counted
            outcomes.raised.append(f"{seed}: {exc!r}")
            continue
        finally:
            shutil.rmtree(root)
        if wrong or wrong_again or missing_again or not is_clean:
            outcomes.wrong.append(f"{seed}: {wrong} wrong, {wrong_again} and {missing_again} again, clean: {is_clean}")
    outcomes.report(faults, f"packs: {damage.__name__}")
