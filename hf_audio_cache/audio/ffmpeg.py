"""The decoder for what libsndfile cannot open, such as M4A, AAC and WebM: FFmpeg, through torchcodec."""

from __future__ import annotations

from .channels import Mixer
from .request import Decoded, NotForThisDecoderError, Request, reason_of

_TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r"


def decode_with_ffmpeg(encoded: memoryview, request: Request) -> Decoded:
    """Decode a clip, as a `Decoder` does; torchcodec is imported here alone, as it brings torch."""
    beginning = bytes(encoded[:64])
    if not beginning.translate(None, _TEXT):
        # Text is never handed to FFmpeg, which would follow a playlist to other files and hosts.
        raise request.refusal(f"text that begins {beginning[:40].decode()!r}")
    try:
        from torchcodec.decoders import AudioDecoder
    except Exception as exc:
        raise NotForThisDecoderError(
            f"for M4A, AAC and WebM, but it cannot be imported ({reason_of(exc)})",
            "Install torchcodec (`pip install torchcodec`) and FFmpeg, or convert the clip to FLAC or WAV.",
        ) from exc
    with request.refusing("torchcodec"):
        decoder = AudioDecoder(bytes(encoded))
        source_rate = int(decoder.metadata.sample_rate)
        request.check_rate(source_rate)
        needed = request.n_source_frames(source_rate)
        begin = decoder.metadata.begin_stream_seconds or 0.0
        stop = None if needed is None else begin + needed / source_rate + 1.0
        channels_first = decoder.get_samples_played_in_range(stop_seconds=stop).data.numpy()
        if needed is not None and channels_first.shape[1] < needed:  # its time stamps have gaps, or it is as short
            # Of a new decoder: the first samples of one that has been read depend on what it read.
            channels_first = AudioDecoder(bytes(encoded)).get_all_samples().data.numpy()
        mix = Mixer(request.channels, request.refusal)
        samples = mix(channels_first.T)
    return Decoded(
        samples,
        source_rate,
        header_seconds=decoder.metadata.duration_seconds_from_header,
        cancels=mix.cancels,
    )
