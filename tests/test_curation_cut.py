"""Cuts: bit-identical copies where the packets allow it, encodes with a reason where not, nothing half done."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from helpers_media import TONE_FROM, frame_md5, make_video, scan_video

from curation.container import open_video
from curation.cut import CutConfig, CutRequest, CutResult, cut_clips
from curation.media.mp4 import Mp4Error, trim_edits
from curation.media.packets import decode_times, reorder_depth

SPANS = ((0, 20), (28, 62), (59, 75))  # from the start, across keyframes, from just before a keyframe

# codec, container, how it is made
COPIED = [
    ("h264", "mp4", {"bframes": 3, "open_gop": True}),
    ("h264", "ts", {}),
    ("h264", "mkv", {"vfr": True}),
    ("hevc", "mkv", {"open_gop": True}),
    ("mpeg4", "avi", {"bframes": 0}),
    ("vp9", "webm", {}),
    ("av1", "mp4", {}),
    ("mpeg2", "ts", {"open_gop": True}),
]
COPIED_TOO = [
    ("h264", "mp4", {"bframes": 0}),
    ("h264", "mov", {}),
    ("h264", "mkv", {"open_gop": True}),
    ("h264", "ts", {"open_gop": True, "bframes": 3}),
    ("h264", "avi", {"bframes": 0}),
    ("h264", "flv", {}),
    ("h264", "mp4", {"vfr": True}),
    ("h264", "mp4", {"interlaced": True}),
    ("h264", "ts", {"interlaced": True}),
    ("h264", "mp4", {"pix_fmt": "yuv420p10le"}),
    ("hevc", "mp4", {"open_gop": True}),
    ("hevc", "ts", {"open_gop": True}),
    ("hevc", "mov", {"pix_fmt": "yuv420p10le"}),
    ("mpeg4", "mp4", {}),
    ("mpeg4", "mkv", {}),
    ("mpeg4", "avi", {}),
    ("vp9", "mkv", {}),
    ("vp9", "mp4", {}),
    ("av1", "mkv", {}),
    ("av1", "webm", {}),
    ("mpeg2", "mpg", {"open_gop": True}),
    ("mpeg2", "mkv", {}),
    ("mpeg2", "mp4", {"open_gop": True}),
    ("mjpeg", "mov", {"pix_fmt": "yuvj420p"}),
    ("ffv1", "mkv", {}),
]
ENCODED = [
    ("vp8", "webm", {"size": (175, 143)}, "mp4 cannot hold vp8"),
    ("prores", "mov", {"pix_fmt": "yuv422p10le"}, "mp4 cannot hold prores"),
    ("wmv2", "wmv", {}, "mp4 cannot hold wmv2"),
]


def cut(source: Path, folder: Path, spans=SPANS, **config) -> tuple[list[CutRequest], list[CutResult]]:
    folder.mkdir(exist_ok=True)
    scan = scan_video(source)
    requests = [scan.request(start, end, folder / f"{start}.mp4") for start, end in spans]
    return requests, cut_clips(source, requests, CutConfig.model_validate(config))


def case_id(value) -> str:
    return "-".join(str(v) for pair in value.items() for v in pair) if isinstance(value, dict) else str(value)


def assert_lossless(source: Path, requests: list[CutRequest], results: list[CutResult]) -> None:
    everything = frame_md5(source)
    for request, result in zip(requests, results, strict=True):
        assert (result.cut, result.reason) == ("copy", None)
        assert frame_md5(request.target) == everything[request.span.start : request.span.end]


@pytest.mark.parametrize(("codec", "container", "how"), COPIED, ids=case_id)
def test_copies_show_exactly_the_source_frames(samples, tmp_path, codec, container, how):
    source = make_video(tmp_path / f"source.{container}", samples / "bikes.mp4", codec, **how)
    assert_lossless(source, *cut(source, tmp_path / "clips"))


@pytest.mark.slow
@pytest.mark.parametrize(("codec", "container", "how"), COPIED_TOO, ids=case_id)
def test_more_copies_show_exactly_the_source_frames(samples, tmp_path, codec, container, how):
    source = make_video(tmp_path / f"source.{container}", samples / "bikes.mp4", codec, **how)
    assert_lossless(source, *cut(source, tmp_path / "clips"))


@pytest.mark.parametrize(("codec", "container", "how", "reason"), ENCODED, ids=case_id)
def test_what_mp4_cannot_hold_is_encoded(samples, tmp_path, codec, container, how, reason):
    source = make_video(tmp_path / f"source.{container}", samples / "bikes.mp4", codec, **how)
    requests, results = cut(source, tmp_path / "clips")
    width, height = how.get("size", (320, 180))
    for request, result in zip(requests, results, strict=True):
        assert result == CutResult("encode", reason, "count")
        stream, frames = decoded(request.target)
        assert len(frames) == request.span.end - request.span.start
        assert (stream.width, stream.height) == (width // 2 * 2, height // 2 * 2)
        assert stream.pix_fmt == ("yuv420p10le" if "10" in how.get("pix_fmt", "") else "yuv420p")


def test_guessed_timestamps_do_not_pass_for_proof(samples, tmp_path):
    """AVI has no display times. With B-frames libav's guesses are wrong; both ends may come right by chance."""
    source = make_video(tmp_path / "source.avi", samples / "bikes.mp4", "h264")
    requests, results = cut(source, tmp_path / "clips", ((0, 20), (28, 62)))
    everything = frame_md5(source)
    assert "encode" in {result.cut for result in results}
    for request, result in zip(requests, results, strict=True):
        if result.cut == "copy":
            assert frame_md5(request.target) == everything[request.span.start : request.span.end]
        else:
            assert result.reason is not None
            assert "did not verify" in result.reason
            assert len(frame_md5(request.target)) == request.span.end - request.span.start


def test_a_copy_that_is_not_what_was_scanned_is_refused(samples, tmp_path):
    source = make_video(tmp_path / "source.mp4", samples / "bikes.mp4")
    request = scan_video(source).request(10, 40, tmp_path / "clip.mp4")
    for wrong, words in (
        (replace(request, last_hash=1), "last frame differs"),
        (replace(request, first_hash=1), "first frame differs"),
        (replace(request, start_pts=(request.start_pts or 0) + 1), "timestamp of the first frame"),
    ):
        result = cut_clips(source, [wrong], CutConfig())[0]
        assert result.cut == ("encode" if "timestamp" in words else "none")
        assert words in (result.reason or "")
        request.target.unlink(missing_ok=True)
    inside = replace(request, frames_hash="0" * 32)
    assert cut_clips(source, [inside], CutConfig())[0].verified == "ends"
    assert cut_clips(source, [inside], CutConfig(verify="full"))[0].cut == "none"
    assert not request.target.exists()
    assert cut_clips(source, [request], CutConfig(verify="full"))[0] == CutResult("copy", None, "full")


def test_equal_input_gives_equal_bytes(samples, tmp_path):
    source = make_video(tmp_path / "source.mp4", samples / "bikes.mp4", audio="aac")
    for mode in ("copy", "encode"):
        files = []
        for run in ("a", "b"):
            requests, results = cut(source, tmp_path / run, ((5, 50),), mode=mode, audio=True)
            assert results[0].cut == mode
            files.append(requests[0].target.read_bytes())
        assert files[0] == files[1]


@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_display_facts_and_times_survive(samples, tmp_path, mode):
    tags = "setparams=colorspace=bt470bg:color_primaries=bt470bg:color_trc=smpte170m:range=pc"
    source = make_video(
        tmp_path / "source.mp4", samples / "bikes.mp4", rotation=90, sar="4/3", vfr=True, filters=tags, frames=60
    )
    requests, results = cut(source, tmp_path / "clips", ((10, 45),), mode=mode)
    assert results[0].cut == mode
    before, frames = decoded(source)
    after, shown = decoded(requests[0].target)
    assert after.sample_aspect_ratio == before.sample_aspect_ratio == Fraction(4, 3)
    facts = [(f.rotation, f.colorspace, f.color_range, f.color_primaries, f.color_trc) for f in (frames[10], shown[0])]
    assert facts[0] == facts[1]
    assert facts[0] == (90, 5, 2, 5, 6)
    times = [f.pts * before.time_base for f in frames[10:45]]
    assert [f.pts * after.time_base for f in shown] == [time - times[0] for time in times]


@pytest.mark.parametrize(("container", "encoder", "codec"), [("mp4", "aac", "aac"), ("mkv", "wmav2", "aac")])
@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_sound_on_request_is_aligned(samples, tmp_path, mode, container, encoder, codec):
    source = make_video(tmp_path / f"source.{container}", samples / "bikes.mp4", audio=encoder)
    requests, results = cut(source, tmp_path / "clips", ((20, 70),), mode=mode, audio=True)
    assert results[0].cut == mode
    with av.open(str(requests[0].target)) as clip:
        sound = clip.streams.audio[0]
        assert sound.codec_context.name == codec
        samples_at = [(f.pts * (f.time_base or 0), f.to_ndarray()[0]) for f in clip.decode(sound) if f.pts is not None]
    level = np.concatenate([data for _, data in samples_at])
    onset = samples_at[0][0] + int(np.argmax(np.abs(level) > 0.3)) / 48000
    assert float(onset) == pytest.approx(TONE_FROM - 20 / 25, abs=0.03)
    assert float(samples_at[0][0]) + len(level) / 48000 == pytest.approx(50 / 25, abs=0.05)
    assert cut(source, tmp_path / "silent", ((20, 70),), mode=mode)[1][0].cut == mode
    with av.open(str(tmp_path / "silent/20.mp4")) as clip:
        assert not clip.streams.audio


def test_no_cut_and_no_video(samples, tmp_path):
    request = scan_video(samples / "bikes.mp4").request(0, 10, tmp_path / "clip.mp4")
    assert cut_clips(samples / "bikes.mp4", [request], CutConfig(mode="none")) == [CutResult("none")]
    text = tmp_path / "text.mp4"
    text.write_bytes(b"not a video at all" * 100)
    result = cut_clips(text, [request], CutConfig())[0]
    assert result.cut == "none"
    assert "not a video" in (result.reason or "")
    beyond = replace(request, span=type(request.span)(10_000, 10_010), start_pts=None)
    result = cut_clips(samples / "bikes.mp4", [beyond], CutConfig())[0]
    assert result.reason == "its frames' timestamps are missing or do not ascend; the file ended before the clip"
    assert not request.target.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_a_full_disk_is_not_the_clips_fault(samples, tmp_path, mode):
    source = samples / "bikes.mp4"
    request = scan_video(source).request(0, 100, tmp_path / "clip.mp4")
    request.target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="no space left"):
        cut_clips(source, [request], CutConfig(mode=mode))


def test_trimming_refuses_what_is_not_mp4(tmp_path):
    file = tmp_path / "x.mp4"
    for content in (b"", b"\0\0\0\x08free", b"\0\0\0\x04bad!", b"\0\0\0\x10moov\0\0\0\x08trak"):
        file.write_bytes(content)
        with pytest.raises(Mp4Error):
            trim_edits(file, Fraction(1))


def test_decode_times_ascend_and_precede():
    pts = np.array([0, 30, 10, 20, 60, 40, 50])
    assert reorder_depth(pts) == 1
    times = decode_times(pts)
    assert (np.diff(times) > 0).all()
    assert (times <= pts).all()


def decoded(path: Path):
    container, stream = open_video(path)
    with container:
        frames = list(container.decode(stream))
        return _Facts(stream), frames


class _Facts:
    """What is asked of a stream after its file is closed."""

    def __init__(self, stream):
        self.sample_aspect_ratio, self.time_base = stream.sample_aspect_ratio, stream.time_base
        self.width, self.height, self.pix_fmt = stream.width, stream.height, stream.pix_fmt
