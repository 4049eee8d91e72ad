"""Buckets: which frames of which clips go into which, by hand, by brute force, and through read_clip."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers_media import ffmpeg
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from curation.read import read_clip
from latents import derive as deriving
from latents.buckets import Bucket, BucketsConfig, Window, assign, fill, waste
from latents.derive import Tally, derive
from latents.windows import COLUMNS, covered, facts_of, starts, steps
from orchestration.config import load_config, parse_config
from orchestration.errors import ConfigError, RushesError

BASE = {"clip_id": "c", "start_frame": 0, "end_frame": 100, "start_s": 0.0, "end_s": 4.0, "fps": 25.0, "image": False}
BASE |= {"width": 1920, "height": 1080, "rotation": 0, "pixel_aspect": 1.0}
BASE |= {"crop_x": None, "crop_y": None, "crop_w": None, "crop_h": None}
PICTURE = BASE | {"image": True, "end_frame": 1, "end_s": 0.0, "fps": None}
NTSC = 30000 / 1001


def clip(length=100, fps=25.0, start=0, **facts) -> dict:
    span = {"start_frame": start, "end_frame": start + length, "start_s": start / fps, "end_s": (start + length) / fps}
    return BASE | span | {"fps": fps} | facts


def table(*rows, **settings) -> BucketsConfig:
    return BucketsConfig(table=rows, **settings)


def lay(row, *rows, **settings) -> list[Window] | str:
    config = table(*rows, **settings)
    return assign(row, config.buckets or (), config)


def laid(row, *rows, **settings) -> list[Window]:
    windows = lay(row, *rows, **settings)
    assert not isinstance(windows, str), windows
    return windows


def chosen(row, *rows, **settings) -> str:
    return laid(row, *rows, **settings)[0].bucket.name


# Shapes and settings


def test_a_bucket_has_a_name_and_a_place_among_others():
    assert Bucket(17, 256, 384).name == "17x256x384"
    assert Bucket(17, 256, 384).size == (256, 384)
    shuffled = [Bucket(33, 16, 16), Bucket(17, 256, 384), Bucket(17, 256, 16), Bucket(1, 512, 512)]
    assert [bucket.name for bucket in sorted(shuffled)] == ["1x512x512", "17x256x16", "17x256x384", "33x16x16"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"table": [[16, 256, 384]]}, "bucket 16x256x384: the VAE takes 8N+1 frames, so 9 or 17"),
        ({"table": [[2, 256, 384]]}, "so 1 or 9"),
        ({"table": [[17, 250, 384]]}, "height 250 is no multiple of 16; 240 or 256 is"),
        ({"table": [[17, 256, 8]]}, "width 8 is no multiple of 16; 16 is"),
        ({"table": [[17, 256, 392]], "multiple": 32}, "392 is no multiple of 32; 384 or 416"),
        ({"table": [[0, 256, 384]]}, "1 at least"),
        ({"table": [[17, -16, 384]]}, "1 at least"),
        ({"table": []}, "table is empty"),
        ({"table": [[17, 64, 64], [17, 64, 64]]}, "twice"),
        ({"table": [[17, 64, 64]], "areas": [4096]}, "table says all of the buckets; leave areas out"),
        ({"frames": [17, 32]}, "8N\\+1 frames, so 25 or 33"),
        ({"frames": []}, "need a value"),
        ({"areas": [200]}, "an area of 200 holds no 16 x 16 pixels"),
        ({"fps": []}, "at least one rate"),
        ({"fps": [24, 0]}, "fps.1: Input should be greater than 0"),
        ({"fps": -8}, "fps.0: Input should be greater than 0"),
        ({"windows": 0}, "greater than or equal to 1"),
        ({"windows": "every"}, "'all'"),
        ({"stride": 0}, "stride: Input should be greater than 0"),
        ({"max_upscal": 2}, "did you mean 'max_upscale'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(data, words):
    with pytest.raises(ConfigError, match=words.replace("8N+1", "8N\\+1")):
        parse_config(BucketsConfig, data, "x.yaml")


def test_settings_come_from_yaml(tmp_path: Path):
    path = tmp_path / "buckets.yaml"
    path.write_text("table: [[33, 256, 384], [1, 512, 512]]\nfps: [8, 24, 12]\nwindows: all\n")
    config = load_config(BucketsConfig, path, ["max_upscale=1.5", "fps=[8, 24]"])
    assert config.buckets == (Bucket(1, 512, 512), Bucket(33, 256, 384))
    assert config.fps == (24, 8)  # the order of trying
    assert config.fingerprint() != load_config(BucketsConfig, path).fingerprint()
    assert parse_config(BucketsConfig, {"fps": 8}, "").fps == (8,)
    assert BucketsConfig().buckets is None


# Frames


@pytest.mark.parametrize(
    ("source", "wanted", "count", "frames"),
    [
        (25, 25, 5, (0, 1, 2, 3, 4)),
        (24, 8, 5, (0, 3, 6, 9, 12)),
        (25, 10, 5, (0, 3, 5, 8, 10)),  # 2.5 is as near to 2 as to 3
        (30, 24, 6, (0, 1, 3, 4, 5, 6)),  # 0, 1.25, 2.5, 3.75, 5, 6.25
        (NTSC, 30, 49, tuple(range(49))),  # 0.05 frames late at the end: nothing is shown twice
        (25, 30, 3, (0, 1, 2)),
        (25, 30, 9, None),
        (12, 24, 1, (0,)),
        (12, 24, 2, (0, 1)),
        (12, 24, 3, None),
        (NTSC, NTSC / 2, 4, (0, 2, 4, 6)),
    ],
)
def test_frames_are_the_nearest_to_regular_times(source, wanted, count, frames):
    assert steps(source, wanted, count) == frames


@given(st.floats(1, 240), st.floats(0.5, 120), st.integers(0, 12).map(lambda n: 8 * n + 1))
@settings(max_examples=200, deadline=None)
def test_steps_are_regular(source, wanted, count):
    frames = steps(source, wanted, count)
    if frames is None:
        nearest = [math.floor(k * Fraction(source) / Fraction(wanted) + Fraction(1, 2)) for k in range(count)]
        assert len(set(nearest)) < count
        return
    assert len(set(frames)) == count
    assert list(frames) == sorted(frames)
    assert all(abs(frame / source - k / wanted) <= 0.5 / source + 1e-9 for k, frame in enumerate(frames))


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        ((17, 17, 1), [0]),
        ((16, 17, 1), []),
        ((100, 17, 1), [41]),  # 41 frames before it, 42 behind
        ((100, 17, None), [1, 21, 41, 61, 81]),
        ((100, 17, 2), [16, 66]),
        ((100, 17, 9), [1, 21, 41, 61, 81]),
        ((100, 50, None), [0, 50]),
        ((100, 17, None, 10), [1, 11, 21, 31, 41, 51, 61, 71, 81]),
        ((100, 17, 1, 10), [41]),
        ((100, 17, 3, 10), [11, 41, 71]),
        ((100, 17, None, 60), [11, 71]),
        ((19, 17, None, 0.25), [0, 1, 2]),  # the same frames twice are one window
        ((100, 17, None, 1000), [41]),
    ],
)
def test_windows_are_spread_over_the_clip(arguments, begins):
    assert starts(*arguments) == begins


@given(
    st.integers(1, 3000),
    st.integers(1, 200),
    st.none() | st.integers(1, 20),
    st.none() | st.floats(0.01, 400),
)
@settings(max_examples=200, deadline=None)
def test_windows_lie_within_and_apart(length, reach, most, stride):
    begins = starts(length, reach, most, stride)
    assert bool(begins) == (reach <= length)
    assume(begins)
    assert begins[0] >= 0
    assert begins[-1] + reach <= length
    assert len(begins) <= (most or length)
    apart = [later - begin for begin, later in itertools.pairwise(begins)]
    if stride is None:
        assert len(begins) == min(most or length, length // reach)
        assert all(gap >= reach for gap in apart)
        assert not apart or max(apart) - min(apart) <= 1
    else:
        assert all(gap >= max(1, math.floor(stride)) for gap in apart)
    before, behind = begins[0], length - reach - begins[-1]
    if most is None or stride is None:
        assert abs(before - behind) <= 1 + len(begins) // 2
    union = {frame for begin in begins for frame in range(begin, begin + reach)}
    assert covered(begins, reach, length) == pytest.approx(len(union) / length)


# Clips into buckets


def test_a_clip_becomes_one_window_in_its_middle():
    (window,) = laid(clip(start=7), (17, 256, 384))
    assert window.frames == tuple(range(41, 58))
    assert window.seconds == 41 / 25
    assert window.fps == 25
    assert window.number == 0
    assert window.key("abc-1-2") == "abc-1-2-w0"
    assert window.bucket == Bucket(17, 256, 384)
    assert window.kept == pytest.approx((384 / 256) / (1920 / 1080))  # columns are cut off, rows are not
    assert window.scale == pytest.approx(256 / 1080)
    assert window.waste == pytest.approx(1 - window.kept * 0.17)


def test_a_long_clip_gives_several_windows():
    windows = laid(clip(), (17, 256, 384), windows="all")
    assert [window.frames[0] for window in windows] == [1, 21, 41, 61, 81]
    assert [window.number for window in windows] == [0, 1, 2, 3, 4]
    assert [window.seconds for window in windows] == [1 / 25, 21 / 25, 41 / 25, 61 / 25, 81 / 25]
    assert len(laid(clip(), (17, 256, 384), windows=2)) == 2
    overlapping = laid(clip(), (17, 256, 384), windows="all", stride=0.4)
    assert [window.frames[0] for window in overlapping] == list(range(1, 82, 10))
    assert overlapping[0].waste == pytest.approx(1 - windows[0].kept * 0.97)  # what two show counts once


@pytest.mark.parametrize(
    ("row", "rows", "name"),
    [
        (clip(), [(17, 256, 256), (17, 256, 384), (17, 384, 256)], "17x256x384"),
        (clip(rotation=90), [(17, 256, 256), (17, 256, 384), (17, 384, 256)], "17x384x256"),
        (clip(width=720, height=576, pixel_aspect=64 / 45), [(17, 256, 256), (17, 256, 448)], "17x256x448"),
        (clip(crop_x=420, crop_y=0, crop_w=1080, crop_h=1080), [(17, 256, 256), (17, 256, 448)], "17x256x256"),
        (clip(), [(17, 256, 384), (33, 256, 384), (49, 256, 384)], "49x256x384"),
        (clip(48), [(17, 256, 384), (33, 256, 384), (49, 256, 384)], "33x256x384"),
        (clip(width=640, height=360), [(17, 256, 384), (17, 480, 720)], "17x256x384"),  # not enlarged
        (clip(), [(17, 240, 432), (17, 480, 848)], "17x480x848"),  # hardly more is cut off, four times the pixels
        (PICTURE, [(1, 256, 384), (17, 256, 448)], "1x256x384"),
    ],
)
def test_a_clip_goes_where_it_wastes_least(row, rows, name):
    assert chosen(row, *rows) == name
    assert chosen(row, *reversed(rows)) == name


def test_what_larger_buckets_may_waste_is_a_setting():
    rows = [(17, 240, 432), (17, 480, 848)]
    crops = [fill(facts_of(clip()), *row[1:])[1] for row in rows]
    assert crops[0] < crops[1]  # the larger one has the better shape here: both ways lead there
    assert chosen(clip(), *rows, prefer_larger=0) == "17x480x848"
    rows = [(17, 288, 512), (17, 480, 832)]
    assert chosen(clip(), *rows, prefer_larger=0) == "17x288x512"  # exactly 16:9
    assert chosen(clip(), *rows) == "17x480x832"
    rows = [(17, 288, 512), (17, 480, 480)]
    assert chosen(clip(), *rows) == "17x288x512"  # not at any price


def test_enlarging_is_bounded_and_costs():
    small = clip(width=300, height=200)
    assert lay(small, (17, 256, 384)) == (
        "too small: 200 x 300 pixels (height x width), to fill the nearest bucket, 17x256x384, "
        "they would be enlarged 1.28 times"
    )
    (window,) = laid(small, (17, 256, 384), max_upscale=1.28)
    assert window.scale == pytest.approx(1.28)
    assert window.waste == pytest.approx(1 - 0.17 + 1 - 1 / 1.28**2)
    assert chosen(small, (17, 256, 384), (17, 192, 288), max_upscale=2) == "17x192x288"
    assert waste(1, 1, 1) == 0
    exact = clip(width=720, height=576, pixel_aspect=64 / 45)  # 1024.0000000000001 or less, as floats go
    assert chosen(exact, (17, 576, 1024)) == "17x576x1024"


@pytest.mark.parametrize(
    ("row", "settings", "reason"),
    [
        (clip(12, 8.0), {}, "too short: 12 frames at 8 fps, the shortest bucket needs 17"),
        (clip(30), {"fps": 8}, "too short: 30 frames at 25 fps, 9 at 8 fps, the shortest bucket needs 17"),
        (clip(2), {"fps": 8}, "too short: 2 frames at 25 fps, 1 at 8 fps, the shortest bucket needs 17"),
        (clip(fps=12.0), {"fps": 24}, "too slow: 12 fps, and 24 are wanted without showing a frame twice"),
        (clip(fps=12.0), {"fps": [30, 24]}, "too slow: 12 fps, and 24 are wanted without showing a frame twice"),
        (clip(30, 12.0), {"fps": [24, 3]}, "too short: 30 frames at 12 fps, 7 at 3 fps, the shortest bucket needs 17"),
        (PICTURE, {}, "a picture: no bucket has one frame"),
    ],
)
def test_why_a_clip_has_no_sample_is_said(row, settings, reason):
    assert lay(row, (33, 64, 96), (17, 64, 96), **settings) == reason


def test_a_large_short_and_a_small_long_bucket_do_not_add_up():
    row = clip(20, width=400, height=300)
    assert "too small" in lay(row, (17, 480, 720), (33, 256, 384))
    assert "the nearest bucket, 17x480x720" in lay(row, (17, 480, 720), (33, 256, 384))
    assert "too small" in lay(row, (17, 480, 720), fps=[25, 8])  # that it is too short at 8 is not the point


@pytest.mark.parametrize(
    ("settings", "fps", "frames"),
    [
        ({}, 24, range(31, 48)),
        ({"fps": 8}, 8, range(15, 64, 3)),
        ({"fps": [8, 12]}, 12, range(23, 56, 2)),
        ({"fps": [48, 8]}, 8, range(15, 64, 3)),
        ({"fps": [12, 4]}, 12, range(23, 56, 2)),
        ({"fps": [2, 1, 24]}, 24, range(31, 48)),
    ],
)
def test_samples_have_the_highest_rate_that_fits(settings, fps, frames):
    (window,) = laid(clip(79, 24.0), (17, 64, 96), **settings)
    assert (window.fps, window.frames) == (fps, tuple(frames))


def test_a_lower_rate_is_taken_where_the_higher_one_has_no_frames():
    rates = [fps for fps in range(10, 60) if not isinstance(lay(clip(fps=float(fps)), (17, 64, 96), fps=[24, 12]), str)]
    assert rates == list(range(12, 60))
    assert laid(clip(fps=20.0), (17, 64, 96), fps=[24, 12])[0].fps == 12


def test_pictures_and_videos_do_not_mix_unless_asked():
    single = (1, 64, 96)
    assert lay(clip(), single) == "a video: all buckets have one frame"
    assert lay(clip(5), single, (17, 64, 96)).startswith("too short")
    (still,) = laid(clip(5), single, (17, 64, 96), stills_from_video=True, windows="all")
    assert (still.frames, still.fps, still.seconds, still.bucket.frames) == ((2,), None, 2 / 25, 1)
    assert still.waste == pytest.approx(1 - still.kept / 5)
    assert chosen(clip(), single, (17, 64, 96), stills_from_video=True) == "17x64x96"
    assert chosen(clip(), single, stills_from_video=True) == "1x64x96"
    assert chosen(clip(width=100, height=70), single, (17, 256, 384), stills_from_video=True) == "1x64x96"
    tiny = lay(clip(width=10, height=10), single, (17, 256, 384), stills_from_video=True)
    assert "17x256x384" in tiny
    (picture,) = laid(PICTURE, single, (17, 64, 96), fps=24, windows="all", stride=0.1)
    assert (picture.frames, picture.fps, picture.seconds) == ((0,), None, 0.0)
    assert lay(PICTURE | {"height": 40}, single).startswith("too small: 40 x 1920 pixels")


def test_the_clips_own_rate_counts_where_the_video_varies():
    (window,) = laid(clip(100, 25.0) | {"end_s": 5.0}, (17, 64, 96))  # 20 a second here
    assert window.fps == 20
    assert window.seconds == 41 / 20
    (window,) = laid(clip(100, NTSC) | {"end_s": 3.337}, (17, 64, 96))  # times in milliseconds
    assert window.fps == NTSC


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"fps": None}, "fps is None"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"fps": math.nan}, "fps is nan"),
        ({"end_s": None}, "it lasts from start_s 0.0 to end_s None"),
        ({"end_s": 0.0}, "to end_s 0.0"),
        ({"end_s": 40.0}, "its 100 frames last 40 s, 2.5 fps, but its video has 25"),
        ({"end_frame": 0}, "frames 0 to 0"),
        ({"end_frame": 2**62}, "frames 0 to 4611686018427387904"),
        ({"width": None}, "its pictures are None x 1080"),
        ({"pixel_aspect": 1e308}, "its pictures are inf x 1080"),
        ({"rotation": 45}, "it is turned by 45 degrees"),
        ({"crop_x": 0, "crop_y": 0, "crop_w": 2000, "crop_h": 9}, "crop_x 0 and crop_w 2000 lie outside of its 1920"),
        ({"crop_x": 0, "crop_y": -5, "crop_w": 99, "crop_h": 99}, "crop_y -5 and crop_h 99 lie outside"),
    ],
)
def test_what_is_odd_in_a_row_is_a_reason(facts, words):
    reason = lay(BASE | facts, (17, 64, 96))
    assert isinstance(reason, str)
    assert reason.startswith("its row is odd: ")
    assert words in reason


def test_columns_are_those_that_are_looked_at():
    asked = set()

    class Seen(dict):
        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

        def __getitem__(self, key):
            asked.add(key)
            return super().__getitem__(key)

    facts_of(Seen(BASE))
    assert asked - {"hdr", "clip_id"} == set(COLUMNS)
    assert lay({name: BASE[name] for name in COLUMNS}, (17, 64, 96)) == lay(BASE, (17, 64, 96))
    missing = {name: value for name, value in BASE.items() if name != "end_frame"}
    assert lay(missing, (17, 64, 96)) == "its row is odd: no column 'end_frame'"


ODD = [None, 0, 1, -3, 5, 90, math.nan, math.inf, -math.inf, 5e-324, 1e308, 2**62, 10**400, "x", "%d", "7", [], {}]
ODD += [True, False, b"5", object(), np.float64("nan"), np.int64(3), np.zeros(3), Fraction(1, 3)]


@given(st.dictionaries(st.sampled_from(COLUMNS), st.sampled_from(ODD)), st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_row_raises(facts, stills):
    config = table(
        (1, 64, 64), (9, 64, 96), (17, 256, 384), fps=[24, 8], windows="all", max_upscale=16, stills_from_video=stills
    )
    for row in (BASE | facts, facts):
        outcome = assign(row, config.buckets or (), config)
        assert isinstance(outcome, str) or outcome
        tally = Tally(config.buckets or ())
        tally.add(row, outcome)
        assert tally.to_dict()["clips"] == 1


SHAPES = st.tuples(
    st.sampled_from([1, 9, 17, 33, 49]),
    st.integers(1, 40).map(lambda n: 16 * n),
    st.integers(1, 40).map(lambda n: 16 * n),
)
CLIPS = st.builds(
    lambda length, fps, start, size, rotation, aspect, image: clip(
        length, fps, start, width=size[0], height=size[1], rotation=rotation, pixel_aspect=aspect, image=image
    ),
    st.integers(1, 400),
    st.sampled_from([8.0, 12.5, 23.976, 24.0, 25.0, NTSC, 30.0, 59.94]) | st.floats(1, 120),
    st.integers(0, 10**6),
    st.tuples(st.integers(16, 2000), st.integers(16, 2000)),
    st.sampled_from([0, 90, 180, 270]),
    st.sampled_from([1.0, 4 / 3, 64 / 45, 0.9]),
    st.sampled_from([False, False, False, True]),
)
CONFIGS = st.builds(
    BucketsConfig,
    table=st.lists(SHAPES, min_size=1, max_size=12, unique=True).map(tuple),
    fps=st.none() | st.lists(st.sampled_from([4, 8, 12, 15, 23.976, 24, 30]), min_size=1, max_size=3),
    windows=st.just("all") | st.integers(1, 4),
    stride=st.none() | st.floats(0.1, 5),
    max_upscale=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    stills_from_video=st.booleans(),
    prefer_larger=st.sampled_from([0.0, 0.02, 0.2]),
)


@given(CLIPS, CONFIGS)
@settings(max_examples=250, deadline=None)
def test_every_window_is_a_sound_one(row, config):
    outcome = assign(row, config.buckets or (), config)
    if isinstance(outcome, str):
        assert outcome.partition(":")[0] in ("too short", "too small", "too slow", "a picture", "a video")
        return
    length, fps = row["end_frame"] - row["start_frame"], row["fps"]
    length = 1 if row["image"] else length
    for number, window in enumerate(outcome):
        assert window.number == number
        assert window.bucket == outcome[0].bucket in (config.buckets or ())
        assert len(window.frames) == window.bucket.frames
        assert list(window.frames) == sorted(set(window.frames))
        assert 0 <= window.frames[0] <= window.frames[-1] < length
        assert 0 < window.kept <= 1
        assert window.scale <= config.max_upscale * 1.00001
        if window.bucket.frames == 1:
            assert window.fps is None
            assert row["image"] or config.stills_from_video
            continue
        assert not row["image"]
        assert window.seconds == pytest.approx(window.frames[0] / fps)
        assert (
            window.fps == pytest.approx(fps, abs=0.6 / length * fps) if config.fps is None else window.fps in config.fps
        )
        lasts = (window.frames[-1] - window.frames[0]) / fps
        assert abs(lasts - (window.bucket.frames - 1) / window.fps) <= 0.5 / fps + 1e-6
    assert len(outcome) <= (length if config.windows == "all" else config.windows)
    if config.stride is None:
        assert all(a.frames[-1] < b.frames[0] for a, b in itertools.pairwise(outcome))
    assert len({window.frames for window in outcome}) == len(outcome)
    assert len({window.key("c") for window in outcome}) == len(outcome)


def reference(row, bucket, fps, config) -> float | None:
    """What a bucket costs a clip, by the words of the documentation; None where it does not fit."""
    tall, wide = row["height"], row["width"] * row["pixel_aspect"]
    if row["rotation"] in (90, 270):
        tall, wide = wide, tall
    scale = max(bucket.height / tall, bucket.width / wide)
    if scale > config.max_upscale * 1.000001:
        return None
    kept = bucket.height * bucket.width / (scale * tall * scale * wide)
    length = 1 if row["image"] else row["end_frame"] - row["start_frame"]
    if fps is None:
        share = 1 / length
    else:
        times = [Fraction(k) * Fraction(row["fps"]) / Fraction(fps) for k in range(bucket.frames)]
        frames = [math.floor(time + Fraction(1, 2)) for time in times]
        if len(set(frames)) < len(frames) or frames[-1] >= length:
            return None
        windows, free = 0, length
        while free > frames[-1]:
            windows, free = windows + 1, free - frames[-1] - 1
        windows = windows if config.windows == "all" else min(windows, config.windows)
        share = min(1, windows * bucket.frames * row["fps"] / fps / length)
    cost = 1 - kept * share + (1 - 1 / scale**2 if scale > 1 else 0)
    return cost - config.prefer_larger * math.log2(bucket.frames * bucket.height * bucket.width)


@given(CLIPS, CONFIGS)
@settings(max_examples=250, deadline=None)
def test_no_bucket_would_be_better(row, config):
    config = config.model_copy(update={"stride": None})
    row["end_s"] = row["start_s"] + (row["end_frame"] - row["start_frame"]) / row["fps"]
    buckets = config.buckets or ()
    outcome = assign(row, buckets, config)

    def costs(fps, single):
        pairs = ((bucket, reference(row, bucket, fps, config)) for bucket in buckets if (bucket.frames == 1) == single)
        return {bucket: cost for bucket, cost in pairs if cost is not None}

    found = {}
    if not row["image"]:
        for fps in config.fps or (row["fps"],):
            found = found or costs(fps, False)
    if row["image"] or (config.stills_from_video and not found):
        found = found or costs(None, True)
    assert bool(found) == (not isinstance(outcome, str)), outcome
    if not isinstance(outcome, str):
        assert found[outcome[0].bucket] == pytest.approx(min(found.values()), abs=1e-6)
        assert assign(row, random.sample(buckets, len(buckets)), config) == outcome


# Buckets from the data


def sizes(*counted) -> list[dict]:
    return [clip(width=wide, height=tall) for wide, tall, count in counted for _ in range(count)]


def shapes(buckets) -> list[tuple[int, int]]:
    return sorted({bucket.size for bucket in buckets})


def test_buckets_have_the_shapes_of_the_clips():
    rows = sizes((1920, 1080, 50), (1080, 1920, 20), (1440, 1080, 10))
    buckets = derive(rows, BucketsConfig())
    assert {bucket.frames for bucket in buckets} == {17, 33, 49}
    assert len(buckets) == 9
    assert buckets == tuple(sorted(buckets))
    for bucket in buckets:
        bucket.check(16)
        assert 0.85 * 98304 <= bucket.area <= 98304
    config = BucketsConfig()
    for row in rows:
        assert laid_in(row, buckets, config)[0].kept > 0.93


def laid_in(row, buckets, config) -> list[Window]:
    outcome = assign(row, buckets, config)
    assert not isinstance(outcome, str), outcome
    return outcome


def test_a_table_is_taken_as_it_is():
    assert derive(iter(()), table((33, 64, 64), (17, 64, 64))) == (Bucket(17, 64, 64), Bucket(33, 64, 64))


def test_shapes_are_few():
    rows = sizes(*((wide, 1000, 1 + wide % 7) for wide in range(400, 2600, 20)))
    for most in (1, 2, 4, 8):
        assert len(shapes(derive(rows, BucketsConfig(shapes=most)))) == most
    assert len(shapes(derive(sizes((1920, 1080, 9)), BucketsConfig(shapes=8)))) == 1
    assert len(shapes(derive(sizes((1920, 1080, 1), (1918, 1080, 1)), BucketsConfig(shapes=8)))) == 1


def test_rare_clips_count_for_little():
    rows = sizes((1920, 1080, 1000), (1000, 1000, 1))
    assert len(shapes(derive(rows, BucketsConfig(shapes=1)))) == 1
    assert shapes(derive(rows, BucketsConfig(shapes=1))) == shapes(derive(rows[:1], BucketsConfig(shapes=1)))
    (shape,) = shapes(derive(sizes((1920, 1080, 1), (1000, 1000, 1000)), BucketsConfig(shapes=1)))
    assert shape[0] == shape[1]


@given(
    st.lists(
        st.tuples(st.sampled_from([1920, 1280, 720, 854, 1000]), st.sampled_from([1080, 720, 480, 1920])), min_size=1
    ),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 3, 5]),
)
@settings(max_examples=30, deadline=None)
def test_order_does_not_matter(found, order, most):
    rows = [clip(width=wide, height=tall) for wide, tall in found]
    config = BucketsConfig(areas=(64 * 96, 256 * 384), shapes=most)
    buckets = derive(iter(rows), config)
    order.shuffle(rows)
    assert derive(iter(rows), config) == buckets
    assert derive(rows * 3, config) == buckets  # shares count, not numbers


def wastes(counted, config) -> tuple[dict[Bucket, list[float]], list[dict]]:
    """(by possible bucket: what it wastes of each clip that fits any, 2 where it does not fit; these clips)."""
    rows = sizes(*counted)
    buckets = [Bucket(17, *map(int, shape)) for shape in deriving._candidates(config.areas[0], config.multiple)]
    found = {bucket: [assign(row, [bucket], config) for row in rows] for bucket in buckets}
    lost = {
        bucket: [2.0 if isinstance(one, str) else one[0].waste for one in column] for bucket, column in found.items()
    }
    fitting = [place for place in range(len(rows)) if min(column[place] for column in lost.values()) < 2]
    return {b: [column[place] for place in fitting] for b, column in lost.items()}, [rows[place] for place in fitting]


def total(lost, buckets) -> float:
    return sum(map(min, zip(*(lost[bucket] for bucket in buckets), strict=True)))


FEW = BucketsConfig(areas=(4096,), frames=(17,), shapes=2, prefer_larger=0)


@given(st.lists(st.tuples(st.integers(64, 400), st.integers(64, 400), st.integers(1, 3)), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_no_other_shape_instead_of_one_wastes_less(counted):
    lost, rows = wastes(counted, FEW)
    assume(rows)
    buckets = derive(rows, FEW)
    others = [{bucket} for bucket in lost]
    if len(buckets) == 2:
        others = [{kept, other} for kept in buckets for other in lost]
    slack = 0.001 * len(rows) + 1e-6
    assert total(lost, buckets) <= min(total(lost, other) for other in others) + slack


def test_shapes_are_near_the_best_of_all():
    """By brute force over all threes, in waste as assign tells it."""
    draw, ratios = random.Random(6), []
    config = FEW.model_copy(update={"shapes": 3})
    for _ in range(12):
        counted = [
            (draw.randint(64, 400), draw.randint(64, 400), draw.randint(1, 5)) for _ in range(draw.randint(3, 9))
        ]
        lost, rows = wastes(counted, config)
        best = min(total(lost, three) for three in itertools.combinations(lost, 3))
        ratios.append(total(lost, derive(rows, config)) / best)
    assert max(ratios) < 1.01, ratios


def test_what_is_too_short_odd_or_too_small_does_not_count():
    rows = sizes((1920, 1080, 3))
    alone = derive(rows, BucketsConfig())
    others = [clip(5, width=500, height=2000), BASE | {"fps": None, "width": 900}, PICTURE | {"width": 9000}]
    assert derive([*rows, *others * 9], BucketsConfig()) == alone
    assert derive([*rows, *sizes((90, 160, 99))], BucketsConfig()) == alone
    assert len(shapes(derive([*rows, *others * 9], BucketsConfig(frames=(1, 17))))) > 1  # the picture


def test_small_clips_get_the_small_areas():
    rows = sizes((1920, 1080, 5), (480, 360, 5))
    buckets = derive(rows, BucketsConfig(areas=(98_304, 345_600), frames=(17,)))
    areas = [bucket.area > 98_304 for bucket in buckets]
    assert sorted(areas) == [False, True]
    small, large = buckets if buckets[0].area < buckets[1].area else reversed(buckets)
    assert abs(small.width / small.height - 4 / 3) < 0.1
    assert abs(large.width / large.height - 16 / 9) < 0.1


@pytest.mark.parametrize("size", [(854, 480), (720, 480), (426, 240), (640, 360), (1280, 720), (250, 393)])
def test_clips_of_exactly_the_area_fit(size):
    rows = sizes((*size, 3))
    config = BucketsConfig(areas=(size[0] * size[1],))
    assert laid_in(rows[0], derive(rows, config), config)[0].kept > 0.85


def test_that_nothing_fits_is_an_error_that_says_what_to_set():
    with pytest.raises(RushesError, match=r"of 2 clips none .* 98,304 pixels \(the largest has 10,000\)"):
        derive(sizes((100, 100, 2)), BucketsConfig())
    with pytest.raises(RushesError, match=r"no buckets: of 1 clips none is long enough for 17 frames"):
        derive([clip(5)], BucketsConfig())
    with pytest.raises(RushesError, match="of 0 clips"):
        derive([], BucketsConfig())
    assert derive(sizes((100, 100, 2)), BucketsConfig(max_upscale=4))


# The table for people


def test_the_tally_adds_up():
    config = table((1, 64, 64), (17, 64, 96), (33, 64, 96), windows="all", max_upscale=1.5, prefer_larger=0)
    rows = [clip(34), clip(40), clip(5), clip(6), PICTURE | {"width": 64, "height": 64}, BASE | {"fps": None}]
    rows += [clip(33, width=64, height=48)]
    tally = Tally(config.buckets or ())
    for row in rows:
        tally.add(row, assign(row, config.buckets or (), config))
    data = tally.to_dict()
    assert data["clips"] == len(rows)
    assert data["left"] == {"too short": 2, "its row is odd": 1}
    assert [line["bucket"] for line in data["buckets"]] == ["1x64x64", "17x64x96", "33x64x96"]
    picture, short, long = data["buckets"]
    assert picture == {
        "bucket": "1x64x64", "clips": 1, "windows": 1, "frames": 1, "seconds": 0.0,
        "cut_off": 0.0, "left_out": 0.0, "waste": 0.0, "enlarged": 0,
    }  # fmt: skip
    assert (short["clips"], short["windows"], short["frames"]) == (2, 4, 68)
    assert short["seconds"] == pytest.approx(68 / 25)
    assert short["left_out"] == pytest.approx(100 * 6 / 74)
    assert short["cut_off"] == pytest.approx(100 * (1 - 1.5 / (16 / 9)))
    assert (long["clips"], long["enlarged"]) == (1, 1)
    assert long["waste"] == pytest.approx(100 * (1 - 8 / 9 + 1 - 1 / 1.5**2))
    total = data["total"]
    for name in ("clips", "windows", "frames", "seconds", "enlarged"):
        assert total[name] == pytest.approx(sum(line[name] for line in data["buckets"]))
    assert total["clips"] + sum(data["left"].values()) == data["clips"]


# Through the reader


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    """60 frames of 192x108, lossless: left edge red, right edge blue, between them a grey that tells the frame."""
    path = tmp_path_factory.mktemp("buckets") / "numbered.mkv"
    grey = "color=black:s=192x108:r=25:d=2.4,geq=r='4*N':g='4*N':b='4*N'"
    edges = "drawbox=0:0:16:ih:red:fill,drawbox=iw-16:0:16:ih:blue:fill,format=gbrp"
    ffmpeg("-f", "lavfi", "-i", f"{grey},{edges}", "-c:v", "ffv1", path)
    return path


@pytest.mark.parametrize("rotation", [0, 90])
def test_read_clip_gives_what_a_window_says(numbered, rotation):
    row = clip(50, 25.0, 5, uri=str(numbered), media=None, cut="none", width=192, height=108, rotation=rotation)
    narrow, wide = ((9, 96, 96), (9, 96, 160)) if rotation == 0 else ((9, 96, 96), (9, 160, 96))
    windows = laid(row, narrow, wide, fps=10, windows="all")
    assert windows[0].bucket == Bucket(*wide)
    assert len(windows) == 2
    for window in windows:
        pictures = read_clip(row, window.frames, window.bucket.size)
        assert pictures.shape == (9, *window.bucket.size, 3)
        middle = pictures[:, window.bucket.height // 2, window.bucket.width // 2, 0]
        assert [round(float(value) / 4) - 5 for value in middle] == list(window.frames)
        cut = 1 - window.kept  # as much on the left as on the right
        line = pictures[0, 48] if rotation == 0 else pictures[0, :, 48]
        red = (line[:, 0] > 200).mean()
        blue = (line[:, 2] > 200).mean()
        for edge in (red, blue):
            assert edge == pytest.approx((16 / 192 - cut / 2) / window.kept, abs=0.015)
