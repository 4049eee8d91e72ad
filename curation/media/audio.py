"""The sound of a clip: the source's packets where mp4 can hold the codec, AAC otherwise; aligned by the edit list."""

from __future__ import annotations

from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.error import FFmpegError

# A lossy decoder needs packets before the first sample that counts (AAC one, Opus 80 ms). They are put in with negative
# time, which the edit list hides.
PREROLL = Fraction(1, 10)  # seconds


class AudioDecoder:
    """Decodes each packet of a source once, however many clips ask for it. Damaged packets give no frames."""

    def __init__(self) -> None:
        self.packet: av.Packet | None = None
        self.frames: list[av.AudioFrame] = []

    def __call__(self, packet: av.Packet) -> list[av.AudioFrame]:
        if packet is not self.packet:
            self.packet = packet
            try:
                self.frames = packet.decode()  # type: ignore[assignment]
            except FFmpegError:
                self.frames = []
        return self.frames


class AudioTrack:
    """Takes a source's audio packets and puts those of one clip into its file; times are in seconds of the source."""

    def __init__(self, output: OutputContainer, source: AudioStream, start: Fraction, end: Fraction):
        self.output, self.source, self.start, self.end = output, source, start, end
        self.ended = False

    def add(self, packet: av.Packet) -> None:
        if packet.pts is None:
            return
        begin = packet.pts * packet.time_base
        self.ended |= begin >= self.end
        if begin < self.end and begin + (packet.duration or 0) * packet.time_base > self.start - PREROLL:
            self._put(packet)

    def finish(self) -> None:
        """Nothing more will come."""

    def _put(self, packet: av.Packet) -> None:
        raise NotImplementedError


class CopiedAudio(AudioTrack):
    def __init__(self, output: OutputContainer, source: AudioStream, start: Fraction, end: Fraction):
        super().__init__(output, source, start, end)
        self.stream = output.add_stream_from_template(source, opaque=True)
        self.zero = round(start / (source.time_base or 1))
        self.last: int | None = None

    def _put(self, packet: av.Packet) -> None:
        time = packet.pts - self.zero  # type: ignore[operator]
        if self.last is not None and time <= self.last:
            return  # damaged or overlapping sound: mp4 wants ascending times
        self.last = time
        copy = av.Packet(packet)  # type: ignore[arg-type]  # shares the bytes
        copy.stream = self.stream
        copy.time_base = packet.time_base
        copy.pts = copy.dts = time
        copy.duration = packet.duration or 0
        copy.is_keyframe = packet.is_keyframe
        self.output.mux_one(copy)


class EncodedAudio(AudioTrack):
    RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)

    def __init__(
        self, output: OutputContainer, source: AudioStream, start: Fraction, end: Fraction, decode: AudioDecoder
    ):
        super().__init__(output, source, start, end)
        self.decode = decode
        self.rate = source.rate if source.rate in self.RATES else 48000
        layout = "mono" if source.channels == 1 else "stereo"
        self.stream = output.add_stream("aac", rate=self.rate, options={"flags": "+bitexact"})
        self.stream.bit_rate = 96000 if layout == "mono" else 192000
        self.stream.layout = layout
        self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=self.rate)
        self.position: int | None = None  # in samples from the clip's start

    def _put(self, packet: av.Packet) -> None:
        for frame in self.decode(packet):
            if self.position is None:
                begin = (frame.pts if frame.pts is not None else packet.pts) * packet.time_base  # type: ignore[operator]
                self.position = round((begin - self.start) * self.rate)
            # The resampler numbers what it returns itself, from whatever the shared frame says.
            for piece in self.resampler.resample(frame):
                piece.pts = self.position
                piece.time_base = Fraction(1, self.rate)
                self.position += piece.samples
                self.output.mux(self.stream.encode(piece))

    def finish(self) -> None:
        self.output.mux(self.stream.encode(None))


def open_audio(
    output: OutputContainer, source: AudioStream, start: Fraction, end: Fraction, decode: AudioDecoder
) -> AudioTrack:
    """Add a track to `output` for the sound of `[start, end)`, in seconds of the source's clock."""
    try:
        return CopiedAudio(output, source, start, end)
    except ValueError:  # mp4 does not know the codec
        return EncodedAudio(output, source, start, end, decode)
