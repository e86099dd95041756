"""What every test has: a home of its own, the installed package, real speech and real processors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import configs
import fault_tally
import pytest
import servers
import speech
from groups import LONGEST, group_of, pytest_xdist_make_scheduler  # noqa: F401 - the last is a hook

CHECKOUT = Path(__file__).resolve().parent.parent

# For the tests of the benchmarks. At the end, so that the package is the one that is installed.
sys.path.append(str(CHECKOUT))

# The libraries read these when they are imported, so they are set before any test module is.
_SESSION_HOME = Path(tempfile.mkdtemp(prefix="hf-audio-cache-tests-"))
_ENVIRONMENT = {
    # Where a user's caches would be. No test can reach the real ones.
    "HOME": _SESSION_HOME,
    "XDG_CACHE_HOME": _SESSION_HOME / "xdg",
    "HF_HOME": _SESSION_HOME / "huggingface",
    "HF_AUDIO_CACHE": _SESSION_HOME / "audio_cache",
    # No test needs the Hub; one that asks for it fails at once instead of trying again.
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Where the speech is, also after a change of the working directory.
    "HF_AUDIO_CACHE_SPEECH": speech.directory().absolute(),
    # The servers that tests start are not behind a proxy.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    # Quiet: no progress bars, no warning by tokenizers after a fork.
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads of torch that wait leave the cores to other tests.
    "OMP_WAIT_POLICY": "PASSIVE",
}
# A user's setting of these would win over HF_HOME, or name a secret.
_UNSET = (
    *("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN"),
    *("HF_AUDIO_CACHE_SIGNING_KEY", "HF_AUDIO_CACHE_SIGNING_KEY_FILE"),
)

os.environ.update({name: str(value) for name, value in _ENVIRONMENT.items()})
for _name in _UNSET:
    os.environ.pop(_name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run what `make test-all` alone runs, and long forms")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest; leave out what is long."""
    order = {group: place for place, group in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.nodeid), len(LONGEST)))
    if not config.getoption("--long"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker's tests of the fault suite tried to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["faults"] = [dataclasses.asdict(line) for line in fault_tally.LINES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker hands over."""
    fault_tally.LINES += [fault_tally.Line(**line) for line in getattr(node, "workeroutput", {}).get("faults", ())]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """End with what the fault suite tried, and what came of it."""
    lines = fault_tally.table()
    if lines:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> fault_tally.Faults:
    """Where a test of the fault suite says what it tried, and asks how often it is to try it."""
    return fault_tally.Faults(request.node.nodeid, is_long=request.config.getoption("--long"))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user can reach and write, other than those that tests of several processes share."""
    folder = Path(tempfile.mkdtemp(prefix="hf-audio-cache-public-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def pytest_configure() -> None:
    """Refuse to test the source folder in the place of the installed wheel."""
    spec = importlib.util.find_spec("hf_audio_cache")
    if spec is None or spec.origin is None:
        raise pytest.UsageError("hf_audio_cache is not installed here: `make test` builds its wheel and installs it.")
    is_source = Path(spec.origin).resolve().is_relative_to(CHECKOUT / "hf_audio_cache")
    if is_source and not os.environ.get("HF_AUDIO_CACHE_TEST_SOURCE"):
        raise pytest.UsageError(
            f"hf_audio_cache is imported from the source folder ({spec.origin}), not from the installed wheel, "
            "so what is missing from the wheel would not be seen. `make test` runs the wheel, `make check` this."
        )


def pytest_unconfigure() -> None:
    shutil.rmtree(_SESSION_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _features_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``features="auto"`` stores follows from how fast this machine is just now, which no test may depend on."""
    monkeypatch.setattr(
        "hf_audio_cache.pipeline.storage_policy.FeatureStoragePolicy.is_undecided", lambda self, processor_sha: False
    )


@pytest.fixture(autouse=True)
def _unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test know the outputs of processors from the tests before it."""
    monkeypatch.setattr("hf_audio_cache.pipeline.store._PROBED", {})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], dict[str, bool]]:
    """``at_once(True)``: compute two clips at once; with None it is measured. By default one at a time.

    Returns what is decided later on, by the processor's identity.
    """

    def decide(is_faster: bool | None) -> dict[str, bool]:
        class Decided(dict[str, bool]):
            def get(self, key: Any, default: Any = None) -> Any:
                return super().get(key, is_faster)

        decided = Decided()
        monkeypatch.setattr("hf_audio_cache.pipeline.at_once._decided", types.SimpleNamespace(get=lambda make: decided))
        monkeypatch.setattr("hf_audio_cache.pipeline.missing_clips.thread_count", lambda: 2)
        return decided

    decide(False)
    return decide


@pytest.fixture(scope="session", autouse=True)
def session_home() -> Iterator[Path]:
    """The home directory of this run, and its working directory: a new, empty one.

    A child started with ``python -c`` looks for modules in its working directory first: in the checkout it would
    import the source folder.
    """
    before = Path.cwd()
    os.chdir(_SESSION_HOME)
    yield _SESSION_HOME
    os.chdir(before)


def _clips(name: str) -> list[Path]:
    found = speech.clips(name)
    if not found:
        pytest.fail(
            f"no {name} in {speech.directory()}: `make test` fetches them first; by hand, `python3 tests/speech.py`",
            pytrace=False,
        )
    return found


@pytest.fixture(scope="session")
def prompts() -> list[Path]:
    """554 spoken prompts of 0.2 to 73 s, 24.5 minutes together: 16-bit mono WAV at 8 kHz, no two alike."""
    return _clips("prompts")


@pytest.fixture(scope="module")
def clips(request: pytest.FixtureRequest, prompts: list[Path]) -> list[Path]:
    """The shortest prompts, at 8 kHz: as many as the module's `N_CLIPS` says, or eight."""
    import audio_datasets  # not before the environment is set, which `datasets` reads

    return audio_datasets.shortest(prompts, getattr(request.module, "N_CLIPS", 8))


@pytest.fixture(scope="session")
def letters() -> list[Path]:
    """Spoken letters and syllables: OGG Vorbis, mono and stereo, at 22.05, 44.1, 48 and 128 kHz."""
    return _clips("letters")


@pytest.fixture(scope="session")
def sentences() -> list[Path]:
    """Ten read sentences and commands: mono WAV at 16 kHz."""
    return _clips("sentences")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    """SeaweedFS, which honours conditional puts."""
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.GcsServer]:
    """fake-gcs-server, on a folder."""
    with servers.fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        yield server


_CLUSTER: list[Any] = []
_AFTER_RAY = contextlib.ExitStack()


@pytest.fixture(scope="session")
def count_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the extractor of `counting` writes what it has processed on the cluster."""
    return tmp_path_factory.mktemp("counted") / "clips"


@pytest.fixture
def cluster(count_file: Path) -> Any:
    """A Ray cluster, at first of one node, for all tests of Ray: its workers take long to import everything."""
    if not _CLUSTER:
        import clusters  # not before the environment is set

        _CLUSTER.append(_AFTER_RAY.enter_context(clusters.cluster(has_torch=False, COUNTED=str(count_file))))
    return _CLUSTER[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """End the cluster after the last test of Ray, not with the session: Ray takes over signals."""
    if nextitem is None or not nextitem.get_closest_marker("ray"):
        _CLUSTER.clear()
        _AFTER_RAY.close()


@pytest.fixture
def processor_config() -> Callable[[str], dict[str, Any]]:
    """``processor_config(name)``: a published configuration, to be changed freely; names in `configs.CONFIGS`."""
    return lambda name: copy.deepcopy(configs.CONFIGS[name])


@pytest.fixture
def make_processor() -> Callable[..., Any]:
    """``make_processor(name, **changes)``: a new feature extractor of a published configuration."""
    return configs.make_processor


@pytest.fixture
def processor_directory(tmp_path: Path) -> Callable[[str], Path]:
    """``processor_directory(name)``: a directory that ``from_pretrained`` loads."""
    return lambda name: configs.write_config(name, tmp_path / name)


@pytest.fixture
def warnings_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """``warnings_logged()``: what the package has warned of since it was last asked."""
    caplog.set_level("INFO", logger="hf_audio_cache")

    def take() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return found

    return take


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The batches of names that were asked of the stores, features alone, in this process."""
    from hf_audio_cache.stores import LocalStore  # not before it was seen which package this is

    batches: list[list[str]] = []
    read = LocalStore.get_many

    def get_many(store: Any, names: Any) -> Any:
        wanted = list(names)
        if wanted and str(store.location()).endswith("features"):
            batches.append(wanted)
        return read(store, wanted)

    monkeypatch.setattr(LocalStore, "get_many", get_many)
    return batches
