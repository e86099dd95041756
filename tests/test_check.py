"""Which tests `make check` runs for a file."""

from __future__ import annotations

from pathlib import Path

import check
import pytest


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("hf_audio_cache/cache/keys.py", ["tests/cache/test_keys.py"]),
        ("hf_audio_cache/errors.py", ["tests/test_errors.py"]),
        ("hf_audio_cache/audio/__init__.py", ["tests/audio"]),
        ("hf_audio_cache/cache/codecs/__init__.py", ["tests/cache/test_codecs.py"]),
        ("hf_audio_cache/cache/codecs/blosc.py", ["tests/cache/test_codecs.py"]),
        ("hf_audio_cache/support/torch_module.py", ["tests/pipeline/test_at_once.py"]),
        ("hf_audio_cache/processors/description/values.py", ["tests/processors/test_identity.py"]),
        ("hf_audio_cache/stores/packs/index.py", ["tests/stores/packs/test_pack_index.py"]),
        ("hf_audio_cache/pipeline/missing_clips.py", ["tests/pipeline/test_at_once.py"]),
        ("hf_audio_cache/cache/presence.py", ["tests/cache/test_caches.py"]),
        ("hf_audio_cache/stores/location.py", ["tests/stores"]),
        ("hf_audio_cache/__init__.py", []),
        ("tests/cache/test_keys.py", ["tests/cache/test_keys.py"]),
        ("tests/cache/test_of_a_module_that_is_gone.py", []),
        ("tests/check.py", ["tests/test_check.py"]),
        ("README.md", []),
    ],
)
def test_a_file_has_the_tests_that_mirror_it_name_it_or_import_it(path, tests):
    assert check.tests_of(Path(path)) == [Path(one) for one in tests]


def test_every_module_in_a_room_has_tests():
    for path in (check.CHECKOUT / "hf_audio_cache").glob("*/**/*.py"):
        assert check.tests_of(path.relative_to(check.CHECKOUT)), path


def test_a_file_that_is_not_there_is_named(capsys):
    assert check.main(["hf_audio_cache/cache/no_such.py"]) == 2
    assert "no such file: hf_audio_cache/cache/no_such.py" in capsys.readouterr().err
