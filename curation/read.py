"""Reading clips: the only way anything downstream gets a clip's pictures."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.stream import VideoStream
from fsspec.implementations.local import LocalFileSystem

from curation.container import MAX_PIXELS, NotVideo, frame_hash, open_video
from curation.fetch import FINAL, open_source
from curation.media.packets import NONE, PacketTable, decode_packets, linear_frames, packet_table
from curation.media.pixels import View
from curation.media.still import read_still
from orchestration.storage import Storage

Take = Callable[[int, av.VideoFrame], None]  # a frame's number in the clip, and the frame
Beat = Callable[[], None]  # called often while something is read
# Columns of a clip's row, joined with its video's, that are looked at here.
FIELDS = (
    *("clip_id", "media", "cut", "uri", "start_frame", "end_frame", "start_pts", "end_pts", "first_hash"),
    *("crop_x", "crop_y", "crop_w", "crop_h", "width", "height", "rotation", "pixel_aspect"),
    *("hdr", "interlaced", "pix_fmt"),
)
NARROW = 64  # pixels; of pictures less wide decord takes the padding of lines for pixels
FEWEST = 4  # frames that key frames are filled up to
STEP_BACK_S = 10.0  # where a seek lands too late for the first frame, it is tried again so much earlier


class ClipUnreadable(ValueError):
    """A clip cannot be read. The message names it and says what to do."""

    def __init__(self, reason: str, retryable: bool = False):
        """`retryable`: the disk failed, not the clip, so that trying again makes sense."""
        super().__init__(reason)
        self.reason = reason
        self.retryable = retryable


def read_clip(
    row: Mapping[str, Any],
    frames: int | Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    *,
    root: str = "",
    beat: Beat = lambda: None,
) -> np.ndarray:
    """A clip's pictures: [T, H, W, 3] uint8 RGB, upright, square pixels, cropped to `crop_*`, progressive, SDR.

    `row`: a clips row joined with its video's columns. `frames`: None for all, a number for so many evenly spaced ones
    from first to last, or indices within the clip. `size`: (height, width) to cover; the rest is cut off around the
    centre. `root`: the dataset that `media` is relative to, a folder or a bucket address; without `media` the span is
    read from the video's `uri`. `beat` is called for all that is decoded. Raises ClipUnreadable, and ValueError for
    frames that the clip does not have.
    """
    length = int(row["end_frame"]) - int(row["start_frame"])
    chosen = choose_frames(length, frames)
    view = _view(row, size)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(chosen):
        places.setdefault(index, []).append(place)
    pictures: list[np.ndarray | None] = [None] * len(chosen)

    def take(index: int, frame: av.VideoFrame) -> None:
        for place in places.get(index, ()):
            pictures[place] = view.render(frame)

    with _located(row, root) as file:
        _read(row, file, sorted(places), length, take, beat)
    if any(picture is None for picture in pictures):
        missing = [index for index, picture in zip(chosen, pictures, strict=True) if picture is None]
        raise ClipUnreadable(_complaint(row, root, f"frames {missing[:5]} of {length} are not there"))
    return np.stack(pictures)  # type: ignore[arg-type]


def key_frames(row: Mapping[str, Any], *, root: str = "") -> list[int]:
    """Indices within a clip of the frames that the codec stored whole, ascending: what they show costs least to decode.

    Found from the packets, without decoding; empty where those do not tell the frames apart. Arguments and errors as of
    read_clip.
    """
    length = int(row["end_frame"]) - int(row["start_frame"])
    with _located(row, root) as file:
        if read_still(file) is not None:
            return [0]
        container, stream = open_video(file, _max_pixels(row))
        with container:
            if row.get("media"):
                return _keys(list(container.demux(stream)), None, length)
            if row.get("start_pts") is None or row.get("end_pts") is None:
                return []
            span = int(row["start_pts"]), int(row["end_pts"])
            packets = (_span_packets(container, stream, span, back) for back in (0.0, STEP_BACK_S))
            return next(filter(None, (_keys(found, span, length) for found in packets)), [])


def _keys(packets: list[av.Packet], span: tuple[int, int] | None, length: int) -> list[int]:
    table = packet_table(packets)
    numbers = _in_order(table, span, length)
    return [] if numbers is None else np.flatnonzero(table.key[numbers]).tolist()


def choose_key_frames(keys: Sequence[int], length: int, most: int) -> list[int]:
    """Of a clip's key frames at most `most`, evenly thinned; where they are few, also the frames farthest from them."""
    chosen = [keys[place] for place in choose_frames(len(keys), min(most, len(keys)))]
    while len(chosen) < min(FEWEST, length, most):
        candidates = {0, length - 1} | {(a + b) // 2 for a, b in itertools.pairwise(sorted(chosen))}
        chosen.append(max(sorted(candidates), key=lambda index: min(abs(index - other) for other in chosen)))
    return sorted(chosen)


def choose_frames(length: int, frames: int | Sequence[int] | None) -> list[int]:
    """Indices within a clip of `length` frames, see read_clip. Raises ValueError."""
    if frames is None:
        return list(range(length))
    if isinstance(frames, int | np.integer):
        if not 0 < frames <= length:
            raise ValueError(f"{frames} frames asked of a clip that has {length}")
        return [round(i) for i in np.linspace(0, length - 1, int(frames))]
    chosen = [int(index) for index in frames]
    if not chosen or min(chosen) < 0 or max(chosen) >= length:
        raise ValueError(f"frames {chosen} asked of a clip that has 0 to {length - 1}")
    return chosen


def shown_size(row: Mapping[str, Any]) -> tuple[float, float]:
    """(height, width) in square pixels of what read_clip shows of a clip. Raises ValueError where its row is odd."""
    view = _view(row, None)
    width, height = view.crop[2:] if view.crop else (row.get("width"), row.get("height"))
    if not (width and height and min(width, height) > 0):
        raise ValueError(f"clip {row.get('clip_id')}: its pictures are {width} x {height}")
    return view.upright(int(height), int(width))


def _view(row: Mapping[str, Any], size: tuple[int, int] | None) -> View:
    box = tuple(row.get(f"crop_{side}") for side in "xywh")
    crop = None if any(value is None for value in box) else tuple(int(value) for value in box)  # type: ignore[arg-type]
    aspect = row.get("pixel_aspect") or 1.0
    aspect = aspect if math.isfinite(aspect) and aspect > 0 else 1.0
    return View(int(row.get("rotation") or 0), float(aspect), crop, size, row.get("hdr") or "")  # type: ignore[arg-type]


@contextlib.contextmanager
def _located(row: Mapping[str, Any], root: str) -> Iterator[str | IO[bytes]]:
    """The clip's file: a path where it is local, an open file otherwise. What goes wrong becomes ClipUnreadable."""
    if not (row.get("media") or row.get("uri")):
        raise ClipUnreadable(f"clip {row.get('clip_id')}: neither media nor uri is given; join it with its video's row")
    try:
        with _opened(row, root) as file:
            yield file
    except (FFmpegError, NotVideo, OSError) as error:
        passing = isinstance(error, OSError) and not isinstance(error, (*FINAL, FFmpegError))
        raise ClipUnreadable(_complaint(row, root, str(error)), passing) from error


@contextlib.contextmanager
def _opened(row: Mapping[str, Any], root: str) -> Iterator[str | IO[bytes]]:
    if row.get("media"):
        storage = Storage(root or ".")
        filesystem, path = storage.fs, storage.path(row["media"])
    else:
        filesystem, path = open_source(str(row["uri"]))
    if isinstance(filesystem, LocalFileSystem):
        yield path
        return
    with filesystem.open(path, "rb") as file:
        yield file  # type: ignore[misc]


def _max_pixels(row: Mapping[str, Any]) -> int:
    """A picture is no larger than the scan found; decoders round sizes up."""
    return max(MAX_PIXELS, ((row.get("width") or 0) + 128) * ((row.get("height") or 0) + 128))


def _read(
    row: Mapping[str, Any], file: str | IO[bytes], wanted: list[int], length: int, take: Take, beat: Beat
) -> None:
    if _for_decord(row):
        _read_decord(file, wanted, length, take, beat)
        return
    pixels = _max_pixels(row)
    still = read_still(file)
    if still is not None:
        container, stream = still.open(pixels)
        with container:
            take(0, still.plain(still.frame(container, stream)))
        return
    container, stream = open_video(file, pixels)
    with container:
        if row.get("interlaced"):  # a field's missing lines come from the frames before and after
            take = Deinterlacer(stream, wanted, take)
            wanted = list(range(length))
        done = False
        if row.get("media"):
            done = _read_packets(stream, list(container.demux(stream)), None, wanted, length, take, beat)
        elif row.get("start_pts") is not None and row.get("end_pts") is not None:
            done = _read_span(row, container, stream, wanted, length, take, beat)
    if not done:
        container, stream = open_video(file, pixels)
        with container:
            if isinstance(take, Deinterlacer):
                take.restart()
            _read_linear(container, stream, 0 if row.get("media") else int(row["start_frame"]), length, take, beat)
    if isinstance(take, Deinterlacer):
        take.finish()


def _read_packets(
    stream: VideoStream,
    packets: list[av.Packet],
    span: tuple[int, int] | None,
    wanted: list[int],
    length: int,
    take: Take,
    beat: Beat,
    first_hash: int | None = None,
) -> bool:
    """Decode only what the wanted frames need. `span`: timestamps; None for all that the file shows.

    False where the packets do not tell the frames apart or not every frame came out right: what was taken does not
    count then, and the file is to be decoded in order.
    """
    packets = [packet for packet in packets if packet.size]
    table = packet_table(packets)
    numbers = _in_order(table, span, length)
    if numbers is None:
        return False
    if table.random_access(int(numbers[0])) is None:
        return False
    index_of = {int(number): index for index, number in enumerate(numbers)}
    expected = set(wanted) | ({0} if first_hash is not None else set())
    found: set[int] = set()

    def see(number: int, frame: av.VideoFrame) -> None:
        index = index_of[number]
        if index == 0 and first_hash is not None and frame_hash(frame) != first_hash:
            return
        found.add(index)
        if index in expected:
            take(index, frame)

    decode_packets(stream, packets, table, [int(numbers[index]) for index in expected], see, beat=beat)
    return found == expected


def _in_order(table: PacketTable, span: tuple[int, int] | None, length: int) -> np.ndarray | None:
    """[length] numbers of the packets of the frames that are shown, in that order; None where they are not so many."""
    shown = table.shown & (table.pts != NONE)
    if span is not None:
        shown &= (table.pts >= span[0]) & (table.pts < span[1])
    numbers = np.flatnonzero(shown)
    numbers = numbers[np.argsort(table.pts[numbers], kind="stable")]
    return numbers if len(numbers) == length == len(np.unique(table.pts[numbers])) else None


def _read_span(
    row: Mapping[str, Any],
    container: InputContainer,
    stream: VideoStream,
    wanted: list[int],
    length: int,
    take: Take,
    beat: Beat,
) -> bool:
    """Seek to a span of a source. False where that does not lead to exactly its frames."""
    span, first_hash = (int(row["start_pts"]), int(row["end_pts"])), row.get("first_hash")
    for back in (0.0, STEP_BACK_S):
        packets = _span_packets(container, stream, span, back)
        if packets and _read_packets(stream, packets, span, wanted, length, take, beat, first_hash):
            return True
    return False


def _span_packets(
    container: InputContainer, stream: VideoStream, span: tuple[int, int], back: float
) -> list[av.Packet]:
    """Those from where a seek to `back` seconds before the span leads; none where there is no seeking."""
    try:
        container.seek(span[0] - round(back / (stream.time_base or 1)), stream=stream)
    except FFmpegError:
        return []
    packets: list[av.Packet] = []
    for packet in container.demux(stream):
        packets.append(packet)
        if packet.dts is not None and packet.dts >= span[1]:  # nothing later is shown before it is decoded
            break
    return packets


def _read_linear(
    container: InputContainer, stream: VideoStream, start: int, length: int, take: Take, beat: Beat
) -> None:
    """Decode from the beginning and count: slow, and right for every file."""
    for index, frame in enumerate(linear_frames(stream, container.demux(stream))):
        beat()
        if index >= start + length:
            return
        if index >= start:
            take(index - start, frame)


def _for_decord(row: Mapping[str, Any]) -> bool:
    """decord ignores edit lists, so it reads only what we encoded, of the kinds whose colours it converts rightly."""
    plain = not (row.get("hdr") or row.get("rotation") or row.get("interlaced"))
    wide = (row.get("width") or 0) >= NARROW
    shallow = row.get("pix_fmt") in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p")
    encoded = bool(row.get("media")) and row.get("cut") == "encode"
    return encoded and plain and wide and shallow and importlib.util.find_spec("decord") is not None


def _read_decord(file: str | IO[bytes], wanted: list[int], length: int, take: Take, beat: Beat) -> None:
    import decord  # exists for Linux x86-64 only

    try:
        reader = decord.VideoReader(file, num_threads=1)
        if len(reader) != length:
            raise NotVideo(f"{len(reader)} frames, not {length}")
        for index in wanted:
            beat()
            take(index, av.VideoFrame.from_ndarray(reader[index].asnumpy(), "rgb24"))
    except (decord.DECORDError, RuntimeError) as error:
        raise NotVideo(str(error).splitlines()[0]) from error


class Deinterlacer:
    """Takes all frames of a clip in order and passes the wanted ones on, made progressive by yadif."""

    def __init__(self, stream: VideoStream, wanted: list[int], take: Take):
        self.stream, self.wanted, self.take = stream, set(wanted), take
        self.restart()

    def restart(self) -> None:
        """Forget what came: the clip begins anew."""
        self.graph: Graph | None = None
        self.count = 0

    def __call__(self, index: int, frame: av.VideoFrame) -> None:
        if self.graph is None:
            graph = Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self.stream.time_base
            )
            yadif = graph.add("yadif", "mode=send_frame:deint=all")
            graph.link_nodes(source, yadif, graph.add("buffersink")).configure()
            self.graph = graph
        frame.pts = index
        self.graph.vpush(frame)
        self._pull()

    def finish(self) -> None:
        if self.graph is not None:
            self.graph.vpush(None)
            self._pull()

    def _pull(self) -> None:
        assert self.graph is not None
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                frame = self.graph.vpull()
                if self.count in self.wanted:
                    self.take(self.count, frame)
                self.count += 1


def _complaint(row: Mapping[str, Any], root: str, text: str) -> str:
    name = row.get("clip_id")
    if row.get("media"):
        where = f"{row['media']} in {root or '.'}"
        way = "restore the file from a copy of the dataset, or read the clip from its source: give the row media=None"
        return f"clip {name}: cannot read {where}: {text}; {way}"
    return f"clip {name}: cannot read frames {row['start_frame']} to {row['end_frame']} of {row['uri']}: {text}"
