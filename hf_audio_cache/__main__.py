"""The command line, as ``python -m hf_audio_cache``."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="hf-audio-cache")
