"""read_clip: the right frames, upright, square, in the right colours, from wherever they are."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
from helpers_media import make_video, scan_video

import curation.read
from curation.container import open_video
from curation.cut import CutConfig, cut_clips
from curation.media.pixels import View
from curation.read import ClipUnreadable, choose_frames, read_clip


def row_of(source, start, end, folder=None, **facts):
    """A clips row joined with its video's; cut into `folder` unless that is None."""
    scan = scan_video(source)
    request = scan.request(start, end, (folder or source.parent) / "clip.mp4")
    row = {
        "clip_id": "abc-1",
        "uri": str(source),
        "start_frame": start,
        "end_frame": end,
        "start_pts": request.start_pts,
        "end_pts": request.end_pts,
        "first_hash": request.first_hash,
        "media": None,
        "cut": "none",
        "rotation": 0,
        "pixel_aspect": 1.0,
        "pix_fmt": "yuv420p",
        **facts,
    }
    if folder is not None:
        mode = facts.get("mode", "copy")
        result = cut_clips(source, [request], CutConfig(mode=mode, quality=1))[0]
        assert result.cut == mode
        row |= {"media": "clip.mp4", "cut": result.cut}
    return row


def truth(source, start, end):
    container, stream = open_video(source)
    with container:
        return np.stack([View().render(f) for f in list(container.decode(stream))[start:end]])


@pytest.fixture(scope="module")
def open_gop(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    return make_video(folder / "source.mp4", samples / "bikes.mp4", open_gop=True, bframes=3, frames=100)


@pytest.mark.parametrize("where", ["copy", "source", "source without times", "memory", "memory source"])
def test_frames_are_exact_wherever_they_are(open_gop, tmp_path, where):
    row = row_of(open_gop, 28, 75, tmp_path if where in ("copy", "memory") else None)
    root = str(tmp_path)
    if where == "source without times":
        row |= {"start_pts": None, "end_pts": None}
    if where == "memory":
        root = "memory://dataset"
        fsspec.filesystem("memory").pipe("/dataset/clip.mp4", (tmp_path / "clip.mp4").read_bytes())
    if where == "memory source":
        row["uri"] = "memory://bucket/source.mp4"
        fsspec.filesystem("memory").pipe("/bucket/source.mp4", open_gop.read_bytes())
    expected = truth(open_gop, 28, 75)
    assert (read_clip(row, root=root) == expected).all()
    some = [46, 0, 31, 32, 2, 31]
    assert (read_clip(row, some, root=root) == expected[some]).all()
    assert (read_clip(row, 5, root=root) == expected[[0, 12, 23, 34, 46]]).all()


@pytest.mark.parametrize(("codec", "container"), [("hevc", "ts"), ("vp9", "webm"), ("mpeg2", "mpg"), ("h264", "avi")])
def test_spans_of_other_sources_are_exact(samples, tmp_path, codec, container):
    source = make_video(tmp_path / f"source.{container}", samples / "bikes.mp4", codec, open_gop=True)
    row = row_of(source, 31, 66)
    assert (read_clip(row, [0, 20, 34]) == truth(source, 31, 66)[[0, 20, 34]]).all()


@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_encodes_and_copies_read_alike(samples, tmp_path, mode, monkeypatch):
    source = make_video(tmp_path / "source.mp4", samples / "bikes.mp4", vfr=True, frames=60)
    row = row_of(source, 7, 40, tmp_path, mode=mode)
    expected = truth(source, 7, 40).astype(float)
    assert np.abs(read_clip(row, root=str(tmp_path)) - expected).mean() < 2
    picked = read_clip(row, [30, 3], (96, 96), root=str(tmp_path))
    monkeypatch.setattr(curation.read, "_for_decord", lambda row: False)
    assert np.abs(read_clip(row, root=str(tmp_path)) - expected).mean() < 1
    assert np.abs(read_clip(row, [30, 3], (96, 96), root=str(tmp_path)) - picked.astype(float)).mean() < 2


def test_pictures_are_upright_square_and_cropped(samples, tmp_path):
    corner = "drawbox=x=0:y=0:w=iw/2:h=ih/2:color=red:t=fill"
    source = make_video(
        tmp_path / "source.mp4", samples / "bikes.mp4", rotation=270, sar="4/3", filters=corner, frames=30
    )
    facts = {"rotation": 90, "pixel_aspect": 4 / 3}  # 320x180 stored, 427x180 square, 180x427 upright
    row = row_of(source, 3, 20, tmp_path, **facts)
    clip = read_clip(row, 2, root=str(tmp_path))
    assert clip.shape == (2, 427, 180, 3)
    assert is_red(clip[:, 20:190, 100:170])
    assert not is_red(clip[:, 20:190, 10:80])
    assert read_clip(row, 2, (64, 64), root=str(tmp_path)).shape == (2, 64, 64, 3)
    row |= {"crop_x": 8, "crop_y": 10, "crop_w": 144, "crop_h": 70}
    cropped = read_clip(row, 2, root=str(tmp_path))
    assert cropped.shape == (2, 192, 70, 3)
    assert is_red(cropped)
    assert is_red(read_clip(row, 1, (100, 50), root=str(tmp_path)))


def is_red(pictures) -> bool:
    red, green, blue = pictures.reshape(-1, 3).T.astype(int)
    return bool(np.percentile(red, 2) > 215 and np.percentile(green, 98) < 40 and np.percentile(blue, 98) < 40)


@pytest.mark.parametrize(
    ("matrix", "tag", "full", "size"),
    [
        ("bt709", "bt709", False, (320, 180)),
        ("bt601", "smpte170m", False, (320, 180)),
        ("bt601", "smpte170m", True, (320, 180)),
        ("bt709", "bt709", True, (320, 180)),
        ("bt2020", "bt2020nc", False, (320, 180)),
        ("bt601", None, False, (320, 180)),
        ("bt709", None, False, (1280, 720)),
    ],
)
@pytest.mark.parametrize("mode", ["copy", "encode"])
def test_colours_come_out_by_their_matrix_and_range(samples, tmp_path, matrix, tag, full, size, mode):
    colour = (200, 60, 30)
    level = "pc" if full else "tv"
    fill = "format=gbrp,drawbox=x=0:y=0:w=iw:h=ih:color=0xC83C1E:t=fill"
    fill += f",scale=out_color_matrix={matrix}:out_range={level},format=yuv420p"
    marks = ("-colorspace", tag) if tag else ("-bsf:v", "h264_metadata=matrix_coefficients=2")
    source = make_video(
        *(tmp_path / "source.mp4", samples / "bikes.mp4"),
        size=size,
        filters=fill,
        frames=12,
        extra=(*marks, "-color_range", level),
    )
    row = row_of(source, 2, 10, tmp_path, mode=mode)
    for wanted in (None, (64, 64)):
        clip = read_clip(row, 1, wanted, root=str(tmp_path))
        assert np.abs(clip.reshape(-1, 3).mean(0) - colour).max() < 3, clip.reshape(-1, 3).mean(0)


@pytest.mark.parametrize(
    ("transfer", "code", "expected"),
    [
        ("smpte2084", 0.0, 0),
        ("smpte2084", 0.508, 190),  # 100 cd/m²: kept, 203 being white: (100 / 203) ** (1 / 2.4)
        ("smpte2084", 0.581, 232),  # 203 cd/m²: diffuse white leaves room for highlights
        ("smpte2084", 0.752, 255),  # 1000 cd/m²
        ("arib-std-b67", 0.75, 232),  # HLG puts diffuse white at 75 %
    ],
)
def test_hdr_becomes_sdr(samples, tmp_path, transfer, code, expected):
    value = round(code * 1023)
    grey = f"format=gbrp10le,geq=r={value}:g={value}:b={value}"
    grey += ",scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le"
    grey += f",setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    source = make_video(
        *(tmp_path / "source.mp4", samples / "bikes.mp4", "hevc"),
        size=(64, 64),
        filters=grey,
        frames=8,
        pix_fmt="yuv420p10le",
    )
    for mode in ("copy", "encode"):
        row = row_of(
            source, 1, 7, tmp_path, mode=mode, pix_fmt="yuv420p10le", hdr="hlg" if transfer == "arib-std-b67" else "pq"
        )
        assert np.abs(read_clip(row, 1, root=str(tmp_path)).astype(int) - expected).max() <= 3
        assert np.abs(read_clip(row, 1, (32, 32), root=str(tmp_path)).astype(int) - expected).max() <= 3


def test_interlaced_pictures_are_deinterlaced(samples, tmp_path):
    source = make_video(tmp_path / "source.ts", samples / "bikes.mp4", "mpeg2", interlaced=True, frames=40)
    row = row_of(source, 5, 30, tmp_path, interlaced=False)
    woven = read_clip(row, root=str(tmp_path)).astype(int)
    row["interlaced"] = True
    clean = read_clip(row, root=str(tmp_path)).astype(int)
    assert clean.shape == woven.shape == (25, 180, 320, 3)
    assert combing(clean) < 0.7 * combing(woven)
    assert (read_clip(row, [3, 24], root=str(tmp_path)) == clean[[3, 24]]).all()


def combing(pictures) -> float:
    """How much lines differ from the ones beside them beyond how much they differ from the second next."""
    beside = np.abs(np.diff(pictures, axis=1)).mean()
    return float(beside - 0.5 * np.abs(pictures[:, 2:] - pictures[:, :-2]).mean())


def test_shrinking_does_not_alias(samples, tmp_path):
    stripes = "format=gray,geq=lum='255*mod(X,2)',format=yuv420p"
    source = make_video(tmp_path / "source.mp4", samples / "bikes.mp4", filters=stripes, frames=6, extra=("-crf", "1"))
    picture = read_clip(row_of(source, 0, 5), 1, (45, 79))[0, 5:-5, 5:-5].astype(int)
    assert picture.std() < 12
    assert abs(picture.mean() - 128) < 12


def test_errors_name_the_clip_and_the_way_out(open_gop, tmp_path):
    row = row_of(open_gop, 10, 20)
    with pytest.raises(ValueError, match="11 frames asked of a clip that has 10"):
        read_clip(row, 11)
    with pytest.raises(ValueError, match="asked of a clip that has 0 to 9"):
        read_clip(row, [3, 10])
    with pytest.raises(ClipUnreadable, match=r"clip abc-1: cannot read gone\.mp4 in .*give the row media=None"):
        read_clip(row | {"media": "gone.mp4"}, root=str(tmp_path))
    with pytest.raises(ClipUnreadable, match="clip abc-1: cannot read frames 10 to 20 of "):
        read_clip(row | {"uri": str(tmp_path / "gone.mp4")})
    with pytest.raises(ClipUnreadable, match=r"clip abc-1: neither media nor uri"):
        read_clip(row | {"uri": None})
    with pytest.raises(ClipUnreadable, match=r"frames \[.*\] of 10 are not there"):
        read_clip(row | {"start_frame": 95, "end_frame": 105, "start_pts": None})
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 5000)
    with pytest.raises(ClipUnreadable, match="abc-1"):
        read_clip(row | {"media": "broken.mp4", "cut": "encode"}, root=str(tmp_path))


def test_even_choice_of_frames():
    assert choose_frames(10, 1) == [0]
    assert choose_frames(9, 3) == [0, 4, 8]
    assert choose_frames(3, None) == choose_frames(3, 3) == [0, 1, 2]
