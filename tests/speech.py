"""Real speech for the tests and the demo, from three Debian packages: ``python tests/speech.py [DIR]``.

Nothing of it is committed. `DIR` is `$HF_AUDIO_CACHE_SPEECH`, else `.speech/` in the checkout, and gets

=================== ======================================================= ============================ ==============
folder              what                                                    Debian package               licence
=================== ======================================================= ============================ ==============
``prompts/``        554 spoken telephone prompts, 24.5 min, 8 kHz mono WAV  asterisk-core-sounds-en-wav  CC-BY-SA-3.0
``letters/``        1836 letters and syllables, 22.05 to 128 kHz, OGG       klettres-data                GPL-2+
``sentences/``      10 read sentences and commands, 16 kHz mono WAV         pocketsphinx-testdata        BSD-2
=================== ======================================================= ============================ ==============

each with its package's ``copyright`` file. A `DIR` that exists is complete, as it is put in place by one rename.
Downloading needs `apt-get` and `dpkg-deb`, and no root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DIRECTORY = Path(__file__).resolve().parent.parent / ".speech"

# Beside the spoken prompts, the package has these tones, and a folder of silences.
TONES = {"ascending-2tone.wav", "beep.wav", "beeperr.wav", "descending-2tone.wav"}


@dataclass(frozen=True)
class Corpus:
    """One folder of `DIR`: the audio files of one Debian package."""

    name: str
    package: str
    source: str
    suffix: str

    def select(self, unpacked: Path) -> list[Path]:
        """Return the package's speech, sorted, without its tones and silences."""
        return sorted(
            path
            for path in (unpacked / self.source).rglob(f"*{self.suffix}")
            if path.parent.name != "silence" and path.name not in TONES
        )


CORPORA = (
    Corpus("prompts", "asterisk-core-sounds-en-wav", "usr/share/asterisk/sounds", ".wav"),
    Corpus("letters", "klettres-data", "usr/share/klettres", ".ogg"),
    Corpus("sentences", "pocketsphinx-testdata", "usr/share/pocketsphinx/test/data", ".wav"),
)


def directory() -> Path:
    """Return where the speech is, or would be."""
    return Path(os.environ.get("HF_AUDIO_CACHE_SPEECH") or DEFAULT_DIRECTORY)


def clips(name: str) -> list[Path]:
    """Return the clips of a corpus by its folder's name, sorted."""
    suffix = next(corpus.suffix for corpus in CORPORA if corpus.name == name)
    return sorted((directory() / name).rglob(f"*{suffix}"))


def fetch(target: Path) -> None:
    """Put the three corpora into `target`, unless it is there."""
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        debs, unpacked, ready = (Path(scratch, name) for name in ("debs", "unpacked", "ready"))
        debs.mkdir()
        _download([corpus.package for corpus in CORPORA], debs)
        for deb in debs.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
        for corpus in CORPORA:
            _arrange(corpus, unpacked, ready / corpus.name)
        try:
            ready.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first, with the same content
                raise


def _download(packages: list[str], debs: Path) -> None:
    """Download `packages` into `debs`; where apt has no lists of packages, by lists of our own beside them."""
    # apt as root would hand the download to a user who cannot write here, and warn of it.
    apt = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else ["apt-get", "-qq"]
    if subprocess.run([*apt, "download", *packages], cwd=debs, stderr=subprocess.PIPE, check=False).returncode:
        for folder in ("lists/partial", "cache/archives/partial"):
            (debs / folder).mkdir(parents=True)
        apt += ["-o", f"Dir::State::Lists={debs / 'lists'}", "-o", f"Dir::Cache={debs / 'cache'}"]
        subprocess.run([*apt, "update"], cwd=debs, check=True)
        subprocess.run([*apt, "download", *packages], cwd=debs, check=True)


def _arrange(corpus: Corpus, unpacked: Path, folder: Path) -> None:
    """Move the speech of `corpus` out of the unpacked package into `folder`, with its copyright file."""
    for path in corpus.select(unpacked):
        moved = folder / path.relative_to(unpacked / corpus.source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    shutil.copy(unpacked / "usr/share/doc" / corpus.package / "copyright", folder / "copyright")


def main(arguments: list[str]) -> int:
    """Fetch the speech and say where it is."""
    target = Path(arguments[0]) if arguments else directory()
    try:
        fetch(target.absolute())
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"speech: {target} was not made: {error}\n"
            "speech: this needs Debian's or Ubuntu's apt-get and dpkg-deb, and their package archive. Elsewhere, copy "
            f"the folders {', '.join(corpus.name for corpus in CORPORA)} from such a machine, "
            "and name their parent in HF_AUDIO_CACHE_SPEECH.",
            file=sys.stderr,
        )
        return 1
    print(f"speech: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
