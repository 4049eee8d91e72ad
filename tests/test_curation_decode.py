"""The one decode: frames, times, timestamps and damage of odd files, and every format by its content."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_media import ffmpeg, frame_md5, make_video

from curation.cut import CutConfig, CutRequest, cut_clips
from curation.decode import DecodeConfig, DecodeFailed, decode, load_tracks, probe, span_pts
from curation.media.packets import NONE
from curation.media.verify import frames_hash
from curation.plan import MeasurePlan
from curation.read import read_clip
from curation.video import Span, Tracks


def scan(path: Path, folder: Path, **config: Any) -> tuple[Tracks, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    result = decode(path, folder, DecodeConfig.model_validate(config), MeasurePlan(), lambda message: None)
    return load_tracks(folder, result), result


def clip_request(tracks: Tracks, result: dict[str, Any], span: Span, target: Path) -> CutRequest:
    """As the scan makes it."""
    frames = tracks.meters["frames"]
    hashes = frames["hashes"][span.start : span.end]
    times = span_pts(frames, span, result["end_pts"])
    return CutRequest(span, *times, int(hashes[0]), int(hashes[-1]), frames_hash(hashes), target)


def ascending(times: np.ndarray) -> bool:
    return bool((np.diff(times) > 0).all())


# format -> codec and what is odd about how it is made; the issue names all of them
FORMATS = {
    "mp4": ("h264", {}),
    "m4v": ("h264", {"extra": ("-f", "ipod")}),
    "mov": ("prores", {"pix_fmt": "yuv422p10le"}),
    "mkv": ("hevc", {}),
    "webm": ("vp9", {}),
    "avi": ("mpeg4", {"bframes": 0}),
    "mpg": ("mpeg2", {}),
    "mpeg": ("mpeg2", {"bframes": 0}),
    "ts": ("h264", {}),
    "m2ts": ("h264", {"extra": ("-mpegts_m2ts_mode", "1")}),
    "flv": ("h264", {}),
    "wmv": ("wmv2", {}),
    "3gp": ("mpeg4", {"size": (176, 144)}),
    "ogv": ("theora", {}),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_are_told_by_their_content(samples, tmp_path, suffix):
    codec, how = FORMATS[suffix]
    made = make_video(tmp_path / f"made.{suffix}", samples / "bikes.mp4", codec, frames=30, **how)
    wrong = made.rename(tmp_path / ("video.mp4" if suffix == "avi" else "video.avi"))
    assert probe(str(wrong))["width"] == how.get("size", (320, 180))[0]
    tracks, result = scan(wrong, tmp_path / "tracks")
    assert tracks.frames == 30
    assert not tracks.damaged.any()
    assert ascending(tracks.times)
    assert tracks.end_time == pytest.approx(30 / 25, abs=0.05)
    assert (tracks.info.width, tracks.info.height) == how.get("size", (320, 180))
    assert result["info"]["codec"] in (codec, {"mpeg2": "mpeg2video"}.get(codec))


def test_variable_frame_rate(samples, tmp_path):
    source = make_video(tmp_path / "vfr.mp4", samples / "bikes.mp4", vfr=True, frames=40)
    tracks, result = scan(source, tmp_path / "tracks")
    steps = np.round(np.diff(tracks.times) * 25)
    assert set(steps) == {1, 2}
    start, end = span_pts(tracks.meters["frames"], Span(5, 20), result["end_pts"])
    assert start is not None
    assert end is not None
    assert tracks.seconds(Span(5, 20)) == (pytest.approx(tracks.times[5]), pytest.approx(tracks.times[20]))
    assert (end - start) == tracks.meters["frames"]["pts"][20] - tracks.meters["frames"]["pts"][5]


@pytest.mark.parametrize(("counter", "clockwise"), [(90, 270), (180, 180), (270, 90), (0, 0)])
def test_rotation(samples, tmp_path, counter, clockwise):
    source = make_video(tmp_path / "r.mp4", samples / "bikes.mp4", rotation=counter, frames=5)
    info = scan(source, tmp_path / "tracks")[0].info
    assert (info.rotation, info.width, info.height) == (clockwise, 320, 180)


@pytest.mark.parametrize(
    ("name", "codec", "how", "facts"),
    [
        ("ten.mp4", "hevc", {"pix_fmt": "yuv420p10le"}, {"bits": 10, "pix_fmt": "yuv420p10le"}),
        ("inter.ts", "mpeg2", {"interlaced": True}, {"interlaced": True}),
        ("odd.webm", "vp9", {"size": (175, 143)}, {"width": 175, "height": 143}),
        ("wide.mp4", "h264", {"sar": "4/3"}, {"pixel_aspect": pytest.approx(4 / 3)}),
        ("full.mov", "mjpeg", {"pix_fmt": "yuvj420p"}, {"full_range": True}),
    ],
)
def test_kinds_of_pictures(samples, tmp_path, name, codec, how, facts):
    source = make_video(tmp_path / name, samples / "bikes.mp4", codec, frames=12, **how)
    tracks, _ = scan(source, tmp_path / "tracks")
    assert not tracks.damaged.any()
    assert {key: getattr(tracks.info, key) for key in facts} == facts


def test_one_frame(samples, tmp_path):
    source = make_video(tmp_path / "one.mp4", samples / "bikes.mp4", frames=1)
    tracks, result = scan(source, tmp_path / "tracks")
    assert tracks.frames == 1
    assert tracks.end_time == pytest.approx(1 / 25)
    start, end = span_pts(tracks.meters["frames"], Span(0, 1), result["end_pts"])
    assert start is not None
    assert end is not None
    assert end > start


def test_a_file_without_timestamps(samples, tmp_path):
    made = make_video(tmp_path / "made.mp4", samples / "bikes.mp4", frames=60)
    raw = tmp_path / "raw.h264"
    ffmpeg("-i", made, "-c", "copy", "-bsf:v", "h264_mp4toannexb", raw)
    tracks, result = scan(raw, tmp_path / "tracks")
    assert tracks.frames == 60
    assert ascending(tracks.times)
    assert tracks.end_time == pytest.approx(60 / 25, abs=0.1)
    request = clip_request(tracks, result, Span(10, 40), tmp_path / "clip.mp4")
    (cut,) = cut_clips(raw, [request], CutConfig())
    assert cut.cut in ("copy", "encode")
    assert len(frame_md5(request.target)) == 30


def test_no_timestamp_at_all_is_a_matter_of_the_frame_rate(tmp_path):
    frames = {"pts": np.array([NONE, NONE, 5, 6, 9, 3, 4, 5, NONE])}
    assert span_pts(frames, Span(0, 2)) == (None, None)
    assert span_pts(frames, Span(1, 4)) == (None, None)
    assert span_pts(frames, Span(2, 4)) == (5, 9)
    assert span_pts(frames, Span(2, 5)) == (5, 11)  # the clock goes back after it: its own pace tells the end
    assert span_pts(frames, Span(3, 7)) == (None, None)
    assert span_pts(frames, Span(5, 8), 99) == (3, 6)
    assert span_pts({"pts": np.array([3, 4])}, Span(0, 2), 6) == (3, 6)
    assert span_pts({"pts": np.array([3, 4])}, Span(1, 2), None) == (4, 5)


def test_a_clock_that_starts_anew_is_a_local_matter(samples, tmp_path):
    """Two recordings in one transport stream: the clips of both are copied; only the one across the joint is not."""
    parts = [
        make_video(tmp_path / "a.ts", samples / "bikes.mp4", frames=100, gop=25),
        make_video(tmp_path / "b.ts", samples / "bigbuckbunny.mp4", frames=100, gop=25),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    tracks, result = scan(joined, tmp_path / "tracks")
    assert tracks.frames == 200
    assert ascending(tracks.times)
    assert tracks.end_time == pytest.approx(8, abs=0.5)
    assert tracks.damaged.sum() <= 30, "damage at the joint ends with the next keyframe"
    spans = [Span(0, 40), Span(60, 98), Span(90, 110), Span(126, 150), Span(160, 200)]
    requests = [clip_request(tracks, result, span, tmp_path / f"{span.start}.mp4") for span in spans]
    assert [request.start_pts is None for request in requests] == [False, False, True, False, False]
    results = cut_clips(joined, requests, CutConfig())
    assert [result.cut for result in results] == ["copy", "copy", "encode", "copy", "copy"], results
    assert "timestamps" in (results[2].reason or "")
    (alone,) = cut_clips(joined, requests[3:4], CutConfig())
    assert alone.cut == "copy"
    everything = frame_md5(parts[0]) + frame_md5(parts[1])
    for request, result in zip(requests, results, strict=True):
        if result.cut == "copy":
            assert frame_md5(request.target) == everything[request.span.start : request.span.end]
    row = {"clip_id": "x", "uri": str(joined), "start_frame": 126, "end_frame": 150}
    row |= {"start_pts": requests[3].start_pts, "end_pts": requests[3].end_pts, "first_hash": requests[3].first_hash}
    from_source = read_clip(row, 3)
    assert (read_clip({**row, "media": "126.mp4", "cut": "copy"}, 3, root=str(tmp_path)) == from_source).all()


def test_a_change_of_size_belongs_to_no_clip(samples, tmp_path):
    parts = [
        make_video(tmp_path / f"{n}.h264", samples / "bikes.mp4", frames=20, size=size, extra=("-f", "h264"))
        for n, size in enumerate([(320, 180), (160, 90)])
    ]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    tracks, _ = scan(joined, tmp_path / "tracks")
    assert (tracks.info.width, tracks.info.height) == (320, 180)
    assert tracks.frames == 40
    assert tracks.damaged.tolist() == [False] * 20 + [True] * 20


def test_bit_flips_are_all_noticed(samples, tmp_path):
    """libav conceals what it cannot decode. Every frame that comes out otherwise than it should is marked."""
    source = samples / "bigbuckbunny.mp4"
    clean, _ = scan(source, tmp_path / "clean")
    truth = np.array(clean.meters["frames"]["hashes"])
    assert not clean.damaged.any()
    data = source.read_bytes()
    body = data.index(b"mdat") + 4
    end = data.index(b"moov") if data.index(b"moov") > body else len(data)
    wrong = found = 0
    for seed in range(6):
        broken, draw = bytearray(data), random.Random(seed)
        for _ in range(1 + seed % 3):
            broken[draw.randrange(body, end)] ^= 1 << draw.randrange(8)
        path = tmp_path / "broken.mp4"
        path.write_bytes(broken)
        tracks, _ = scan(path, tmp_path / "tracks")
        hashes, damaged = np.array(tracks.meters["frames"]["hashes"]), np.array(tracks.damaged)
        if len(hashes) != len(truth):  # a frame is missing: those after it have other numbers
            assert damaged.any()
            continue
        differs = hashes != truth
        wrong += differs.sum()
        found += (differs & damaged).sum()
    assert wrong > 20
    assert found == wrong


def test_limits(samples, tmp_path):
    with pytest.raises(DecodeFailed, match=r"too large: 640x272 is over 1,000 pixels \(decode.max_pixels\)"):
        scan(samples / "bikes.mp4", tmp_path / "a", max_pixels=1000)
    big = tmp_path / "big.mkv"
    ffmpeg("-f", "lavfi", "-i", "color=s=4000x3000:r=1", "-frames:v", "2", "-c:v", "mjpeg", big)
    with pytest.raises(DecodeFailed, match="too large: 4000x3000"):
        scan(big, tmp_path / "b", max_pixels=1_000_000)
    assert scan(big, tmp_path / "c")[0].frames == 2
    with pytest.raises(DecodeFailed, match="not a video"):
        probe(__file__)
