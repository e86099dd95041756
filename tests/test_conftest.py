from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import configs
import numpy as np
import pytest
import soundfile


def test_the_suite_cannot_reach_the_users_caches(session_home):
    from huggingface_hub import constants

    assert Path.home() == session_home
    for path in (constants.HF_HOME, constants.HF_HUB_CACHE, os.environ["HF_AUDIO_CACHE"], os.environ["XDG_CACHE_HOME"]):
        assert Path(path).is_relative_to(session_home)


def test_datasets_writes_into_the_home_of_the_run_only(session_home):
    import datasets

    assert Path(datasets.config.HF_DATASETS_CACHE).is_relative_to(session_home)
    assert datasets.are_progress_bars_disabled()


def test_the_hub_is_not_asked():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE


@pytest.mark.skipif(bool(os.environ.get("HF_AUDIO_CACHE_TEST_SOURCE")), reason="`make check` runs the source folder")
def test_a_child_process_imports_the_installed_package_too():
    program = "import hf_audio_cache; print(hf_audio_cache.__file__)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    installed = importlib.metadata.distribution("hf_audio_cache").locate_file("hf_audio_cache/__init__.py")
    assert Path(child.stdout.strip()) == Path(installed)
    assert not Path(installed).is_relative_to(Path(__file__).resolve().parents[1] / "hf_audio_cache")


def test_a_module_stays_on_one_worker_and_all_clusters_of_rays_too(tmp_path):
    module = """
        import os, pathlib, pytest, time

        class TestOne:
            @pytest.mark.parametrize("number", ["a::b", "c", "d"])
            def test_it(self, number):
                with open("log", "a") as file:
                    file.write(f"{pathlib.Path(__file__).stem} {os.environ['PYTEST_XDIST_WORKER']}\\n")
                time.sleep(0.02)

        class TestTwo(TestOne):
            pass
    """
    for name in ("test_one", "test_two", "test_ray_one", "test_ray_two"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(module), "utf-8")
    options = "-p xdist -p groups -p no:cacheprovider -n 2 --dist loadscope --no-loadscope-reorder"
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_ADDOPTS": options, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "."],
        cwd=tmp_path,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert len(lines) == 4 * 3 * 2
    workers = [
        {worker for name, worker in lines if name.startswith(group)} for group in ("test_one", "test_two", "test_ray")
    ]
    assert [len(each) for each in workers] == [1, 1, 1]


def test_the_prompts_are_554_different_ones(prompts):
    assert len(prompts) == 554
    assert prompts == sorted(prompts)
    assert len({path.read_bytes() for path in prompts}) == 554
    infos = [soundfile.info(str(path)) for path in prompts]
    assert {(info.samplerate, info.channels, info.subtype) for info in infos} == {(8000, 1, "PCM_16")}


def test_the_letters_are_of_several_rates_and_channels(letters):
    infos = [soundfile.info(str(path)) for path in letters]
    assert {info.samplerate for info in infos} >= {22050, 44100, 48000, 128000}
    assert {info.channels for info in infos} == {1, 2}


def test_the_sentences_are_at_16_khz(sentences):
    assert len(sentences) == 10
    assert {soundfile.info(str(path)).samplerate for path in sentences} == {16000}


@pytest.mark.parametrize("name", configs.parameters())
def test_each_configuration_gives_the_extractor_that_from_pretrained_loads(name, make_processor, processor_directory):
    if name.startswith("clap") and importlib.metadata.version("transformers").startswith("4."):
        pytest.importorskip("torch", reason="transformers 4 has no CLAP without torch")
    built = make_processor(name)
    loaded = type(built).from_pretrained(processor_directory(name))
    # transformers 4 shows the class of the processor that the configuration was saved with.
    assert {**loaded.to_dict(), "_processor_class": None} == {**built.to_dict(), "_processor_class": None}

    clip = np.sin(np.arange(built.sampling_rate) / 20, dtype=np.float32)
    from_built, from_loaded = (p(clip, sampling_rate=p.sampling_rate, return_tensors="np") for p in (built, loaded))
    assert from_built.keys() == from_loaded.keys() != set()
    for output in from_built:
        assert np.array_equal(from_built[output], from_loaded[output])


def test_a_configuration_can_be_changed_without_a_trace(processor_config, make_processor):
    processor_config("whisper_tiny")["feature_size"] = 1
    assert configs.CONFIGS["whisper_tiny"]["feature_size"] == 80
    assert make_processor("whisper_tiny", feature_size=128).feature_size == 128


@pytest.mark.torchcodec
def test_torchcodec_decodes_with_the_ffmpeg_that_is_here(prompts):
    from torchcodec.decoders import AudioDecoder

    decoded = AudioDecoder(prompts[0].read_bytes()).get_all_samples()
    expected, rate = soundfile.read(prompts[0], dtype="float32")
    assert decoded.sample_rate == rate
    assert np.array_equal(decoded.data.numpy(), expected[np.newaxis])
