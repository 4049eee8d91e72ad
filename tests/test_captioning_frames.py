"""Frames for captioning: which are chosen, and that they come ahead, right, in order, bounded, whatever happens."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import boto3
import fsspec
import numpy as np
import psutil
import pytest
import stamina
from fsspec.implementations.memory import MemoryFileSystem
from helpers_media import ffmpeg, make_video, scan_video
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from captioning import prefetch
from captioning.frames import FramesConfig, fitted, plan_frames, seconds_of
from captioning.job import FramePlan, Pictures
from captioning.prefetch import PREFIX, PrefetchConfig, Prefetcher
from curation.container import open_video
from curation.cut import CutConfig, cut_clips
from curation.read import choose_key_frames, key_frames, read_clip
from orchestration.storage import Storage

BASE = {"clip_id": "c", "media": "c.mp4", "start_frame": 0, "end_frame": 100, "start_s": 0.0, "end_s": 4.0, "fps": 25.0}
BASE |= {"width": 1920, "height": 1080, "rotation": 0, "pixel_aspect": 1.0, "image": False}


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """A folder in memory that no other test's frames come into."""
    with tempfile.TemporaryDirectory(dir=prefetch.MEMORY) as folder:
        monkeypatch.setattr(prefetch, "MEMORY", Path(folder))
        yield


def clip_row(
    source: Path, start: int, end: int, folder: Path | None = None, mode: Literal["copy", "encode"] = "copy", **facts
) -> dict:
    """A clips row joined with its video's; cut into `folder` unless that is None."""
    scan, name = scan_video(source), f"{source.stem}-{start}-{end}"
    container, stream = open_video(source)
    with container:
        width, height, fps = stream.codec_context.width, stream.codec_context.height, float(stream.average_rate or 25)
    request = scan.request(start, end, (folder or source.parent) / f"{name}.mp4")
    row = {
        "clip_id": name, "uri": str(source), "media": None, "cut": "none", "image": False,
        "start_frame": start, "end_frame": end, "start_s": start / fps, "end_s": end / fps, "fps": fps,
        "start_pts": request.start_pts, "end_pts": request.end_pts, "first_hash": request.first_hash,
        "width": width, "height": height, "rotation": 0, "pixel_aspect": 1.0, "pix_fmt": "yuv420p",
    }  # fmt: skip
    if folder is not None:
        (result,) = cut_clips(source, [request], CutConfig(mode=mode))
        assert result.cut == mode
        row |= {"media": f"{name}{result.suffix}", "cut": result.cut}
    return row | facts


@pytest.fixture(scope="module")
def source(samples, tmp_path_factory) -> Path:
    """90 frames of 320x180, 25 a second, a key frame every 30."""
    return make_video(tmp_path_factory.mktemp("frames") / "source.mp4", samples / "bikes.mp4")


@pytest.fixture(scope="module")
def root(source) -> Path:
    """A data set's folder with the media of `clips`."""
    folder = source.parent / "dataset"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def clips(source, root, samples) -> list[dict]:
    """Cut as a copy, encoded, and not cut; and a still picture."""
    spans = [(0, 90), (20, 75), (31, 34), (5, 60)]
    rows = [clip_row(source, *span, root) for span in spans]
    rows.append(clip_row(source, 10, 70, root, mode="encode"))
    rows.append(clip_row(source, 25, 85))
    container, stream = open_video(source)
    with container:
        next(iter(container.decode(stream))).to_image().save(root / "still.png")
    still = {"clip_id": "still", "media": "still.png", "image": True, "start_s": 0.0, "end_s": 0.0, "fps": None}
    return [*rows, BASE | still | {"end_frame": 1, "width": 320, "height": 180, "cut": "copy"}]


@pytest.fixture(scope="module")
def slow(samples, source, root) -> dict:
    """A clip that takes a second or more to read."""
    video = make_video(source.parent / "slow.mp4", samples / "bikes.mp4", size=(1280, 720), frames=120, gop=120)
    return clip_row(video, 0, 119, root, interlaced=True)


def prefetcher(root, scratch, **config) -> Prefetcher:
    return Prefetcher(str(root), PrefetchConfig(**{"readers": 1, **config}), scratch)


def planned(rows, **config) -> list[tuple[dict, FramePlan]]:
    return [(row, plan_frames(row, FramesConfig(**config))) for row in rows]


def read_all(root, scratch, pairs, **config) -> list[Pictures]:
    with prefetcher(root, scratch, **config) as frames:
        return [pictures for _, pictures in frames(pairs)]


def files_left(scratch: Path) -> list[Path]:
    return [*scratch.rglob("*"), *prefetch.MEMORY.rglob("*")]


def helpers_left(before: set[int]) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if child.pid not in before]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize(
    ("config", "facts", "indices"),
    [
        ({}, {}, (0, 13, 25, 38, 50, 63, 75, 88)),  # 12.5 frames a step: the nearest, the later one of two
        ({"fps": 1}, {}, (0, 25, 50, 75)),
        ({"fps": 0.1}, {}, (0,)),
        ({"fps": 25}, {"end_frame": 5, "end_s": 0.2}, (0, 1, 2, 3, 4)),
        ({"fps": 1000, "max": 200}, {"end_frame": 5, "end_s": 0.2}, (0, 1, 2, 3, 4)),
        ({"fps": 1, "max": 3}, {"end_frame": 250, "end_s": 10.0}, (0, 100, 225)),  # of 0, 25, ..., 225 evenly
        ({"fps": 100, "max": 5}, {}, (0, 25, 50, 74, 99)),
        ({"policy": "uniform", "count": 5}, {}, (0, 25, 50, 74, 99)),
        ({"policy": "uniform", "count": 5}, {"end_frame": 3}, (0, 1, 2)),
        ({"policy": "uniform", "count": 1}, {}, (0,)),
        ({"policy": "keyframes", "max": 3}, {}, (0, 50, 99)),
        ({}, {"image": True, "end_frame": 1, "end_s": 0.0, "fps": None}, (0,)),
        ({"policy": "keyframes"}, {"image": True, "end_frame": 1, "end_s": 0.0, "fps": None}, (0,)),
        ({"fps": 1}, {"end_s": None}, (0, 25, 50, 75)),  # 25 frames a second say how long it is
    ],
)
def test_policies_choose_these_frames(config, facts, indices):
    row = BASE | facts
    plan = plan_frames(row, FramesConfig(**config))
    assert plan.indices == indices
    duration = 0.0 if row["image"] else (row["end_s"] or 4.0)
    assert plan.seconds == pytest.approx([index * duration / row["end_frame"] for index in indices])
    assert plan.keyframes == (config.get("policy") == "keyframes" and not row["image"])
    assert seconds_of(row, plan.indices) == plan.seconds


@pytest.mark.parametrize(
    ("facts", "shape"),
    [
        ({}, 16 / 9),
        ({"rotation": 90}, 9 / 16),
        ({"width": 720, "height": 576, "pixel_aspect": 64 / 45}, 16 / 9),
        ({"width": 720, "height": 576, "pixel_aspect": 64 / 45, "rotation": 270}, 9 / 16),
        ({"crop_x": 0, "crop_y": 140, "crop_w": 1920, "crop_h": 800}, 2.4),
        ({"crop_x": 0, "crop_y": 140, "crop_w": 1920, "crop_h": None}, 16 / 9),
        ({"pixel_aspect": math.nan}, 16 / 9),
    ],
)
def test_frames_have_the_shape_that_is_displayed(facts, shape):
    height, width = plan_frames(BASE | facts, FramesConfig()).size
    assert width / height == pytest.approx(shape, rel=0.01)
    assert 0.97 * 200_704 < height * width <= 200_704
    assert plan_frames(BASE | facts, FramesConfig(pixels=10**9)).size >= (0.99 * height, width)


def test_small_pictures_stay_as_they_are():
    assert plan_frames(BASE | {"width": 320, "height": 180}, FramesConfig()).size == (180, 320)
    assert plan_frames(BASE | {"width": 321, "height": 181}, FramesConfig()).size == (180, 320)
    assert fitted(1, 1, 784) == (2, 2)


@given(
    length=st.integers(1, 20_000),
    rate=st.floats(0.2, 240),
    start=st.floats(0, 1e5),
    fps=st.floats(0.01, 500),
    most=st.integers(1, 64),
    policy=st.sampled_from(["fps", "uniform", "keyframes"]),
    sides=st.tuples(st.integers(64, 8192), st.integers(64, 8192)),
    aspect=st.sampled_from([1.0, 4 / 3, 0.9]),
    rotation=st.sampled_from([0, 90, 180, 270]),
    pixels=st.integers(50_000, 400_000),
)
@settings(max_examples=300, deadline=None)
def test_any_plan_is_a_sound_one(length, rate, start, fps, most, policy, sides, aspect, rotation, pixels):
    row = BASE | {"start_frame": 7, "end_frame": 7 + length, "start_s": start, "end_s": start + length / rate}
    row |= {"width": sides[0], "height": sides[1], "pixel_aspect": aspect, "rotation": rotation}
    plan = plan_frames(row, FramesConfig(policy=policy, fps=fps, max=most, count=most, pixels=pixels))
    assert 1 <= len(plan.indices) <= most
    assert list(plan.indices) == sorted(set(plan.indices))
    assert plan.indices[0] == 0
    assert plan.indices[-1] < length
    duration = row["end_s"] - row["start_s"]
    assert plan.seconds == pytest.approx([index * duration / length for index in plan.indices])
    if policy == "fps" and len(plan.indices) > 1:  # to the end of the clip, never cut off there
        assert duration - plan.seconds[-1] <= 1 / fps + 1 / rate + 1e-3
    height, width = plan.size
    shown = (sides[1], sides[0] * aspect) if rotation % 180 == 0 else (sides[0] * aspect, sides[1])
    assert height % 2 == width % 2 == 0
    assert height * width <= pixels
    assert height <= shown[0]
    assert width <= shown[1]
    if min(height, width) >= 100:
        assert height / width == pytest.approx(shown[0] / shown[1], rel=0.02)
    assert plan.bytes == len(plan.indices) * height * width * 3


ODD = [None, 0, -3, 5, math.nan, math.inf, 1e308, 2**62, "x", [], True]


@given(st.dictionaries(st.sampled_from([*BASE, "crop_x", "crop_y", "crop_w", "crop_h"]), st.sampled_from(ODD)))
@settings(max_examples=500, deadline=None)
def test_odd_rows_give_a_plan_or_a_valueerror(facts):
    for policy in ("fps", "uniform", "keyframes"):
        try:
            plan = plan_frames(BASE | facts, FramesConfig(policy=policy))
        except ValueError:
            continue
        assert 1 <= len(plan.indices) <= 16
        assert 4 <= plan.size[0] * plan.size[1] <= 200_704
        assert not any(math.isnan(second) for second in plan.seconds)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"width": None}, "its pictures are None x 1080"),
        ({"end_frame": 0}, "frames 0 to 0"),
        ({"end_s": 0.0, "fps": None}, "how long it is"),
        ({"crop_x": 0, "crop_y": 0, "crop_w": 0, "crop_h": 9}, "its pictures are 0 x 9"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(facts, words):
    with pytest.raises(ValueError, match=words):
        plan_frames(BASE | facts, FramesConfig())


def test_key_frames_are_found_from_packets(source, clips, samples, tmp_path):
    whole, cut, _, _, _, span, still = clips
    assert key_frames(whole, root=str(source.parent / "dataset")) == [0, 30, 60]
    assert key_frames(cut, root=str(source.parent / "dataset")) == [10, 40]
    assert key_frames(span) == [5, 35]
    assert key_frames(span | {"start_pts": None}) == []
    assert key_frames(still, root=str(source.parent / "dataset")) == [0]
    every = make_video(tmp_path / "every.avi", samples / "bikes.mp4", "mjpeg", frames=20)
    assert key_frames(clip_row(every, 3, 15)) == list(range(12))


def test_key_frames_are_thinned_and_filled_up():
    assert choose_key_frames([10, 40], 55, 16) == [10, 25, 40, 54]
    assert choose_key_frames([0], 100, 16) == [0, 49, 74, 99]
    assert choose_key_frames([0], 3, 16) == [0, 1, 2]
    assert choose_key_frames([0], 100, 2) == [0, 99]
    assert choose_key_frames(list(range(12)), 12, 5) == [0, 3, 6, 8, 11]


@pytest.mark.parametrize("policy", ["fps", "uniform", "keyframes"])
def test_frames_are_read_clips_own_in_order(clips, root, tmp_path, policy):
    pairs = planned(clips, policy=policy, max=6, pixels=20_000)
    keys = [key_frames(row, root=str(root)) for row in clips]
    with prefetcher(root, tmp_path, readers=2) as frames:
        got = list(frames(pairs))
    for (row, plan), found, (same, pictures) in zip(pairs, keys, got, strict=True):
        assert same is row
        assert not pictures.reason
        length = row["end_frame"] - row["start_frame"]
        chosen = choose_key_frames(found, length, len(plan.indices)) if plan.keyframes and found else plan.indices
        indices = tuple(chosen)
        assert pictures.indices == indices
        assert pictures.seconds == seconds_of(row, indices)
        assert (np.stack(list(pictures.frames)) == read_clip(row, indices, plan.size, root=str(root))).all()
        assert all(isinstance(frame, np.ndarray) and frame.shape == (*plan.size, 3) for frame in pictures.frames)
    assert frames.read_s >= frames.waited_s / 2 > 0
    assert not files_left(tmp_path)


def test_without_packets_that_tell_key_frames_are_even(clips, root, tmp_path):
    ((row, plan),) = planned([clips[5] | {"start_pts": None}], policy="keyframes", max=5, pixels=20_000)
    (pictures,) = read_all(root, tmp_path, [(row, plan)])
    assert pictures.indices == plan.indices == (0, 15, 30, 44, 59)
    assert (np.stack(list(pictures.frames)) == read_clip(row, plan.indices, plan.size)).all()


def test_a_slow_clip_in_front_keeps_its_place_and_nobody_idle(clips, slow, root, tmp_path):
    pairs = planned([slow, *clips], pixels=10_000)
    with prefetcher(root, tmp_path, readers=2) as frames:
        taken = frames(pairs)
        assert next(taken)[0] is slow
        first = frames.waited_s
        assert [row["clip_id"] for row, _ in taken] == [row["clip_id"] for row in clips]
        assert frames.waited_s - first < first / 2


def test_what_needs_no_reading_passes_in_its_place(clips, root, tmp_path):
    gone = Pictures(reason="no clip's row", passing=True)
    pairs = planned(clips[:2], pixels=10_000)
    with prefetcher(root, tmp_path) as frames:
        got = list(frames([pairs[0], (clips[2], gone), (clips[3], None), pairs[1]]))
        endless = frames((dict(BASE, clip_id=str(number)), None) for number in itertools.count())
        assert [row["clip_id"] for row, _ in itertools.islice(endless, 3)] == ["0", "1", "2"]
    assert [len(pictures.frames) > 0 for _, pictures in got] == [True, False, False, True]
    assert got[1][1] is gone
    assert got[2][1] == Pictures()


def mapped() -> int:
    """Bytes of frames that this process holds."""
    spans = re.findall(rf"^(\w+)-(\w+) .*{prefetch.MEMORY}/.*$", Path("/proc/self/maps").read_text(), re.M)
    return sum(int(end, 16) - int(start, 16) for start, end in spans)


def test_no_more_is_ahead_than_allowed(clips, root, tmp_path):
    config = {"policy": "uniform", "count": 8, "pixels": 14_400}
    small = planned([clips[0]], **config)[0]
    large = planned([clips[0]], policy="uniform", count=30, pixels=57_600)[0]
    page, budget = 4096, 2**20
    assert small[1].bytes * 3 < budget < small[1].bytes * 4
    assert large[1].bytes > budget
    pairs = [small] * 6 + [large] + [small] * 6
    pulled = 0

    def source():
        nonlocal pulled
        for pair in pairs:
            pulled += 1
            yield pair

    seen, full = [], 0
    with prefetcher(root, tmp_path, readers=2, ahead_mb=1) as frames:
        for given, (_, pictures) in enumerate(frames(source()), start=1):
            ends = time.monotonic() + 0.25
            while time.monotonic() < ends:  # a model at work: the readers get as far as they may
                seen.append(mapped())
                time.sleep(0.01)
            full = max(full, seen[-1])
            alone = len(pictures.frames) == 30
            assert seen[-1] <= (large[1].bytes + page if alone else budget), given
            assert pulled <= given + 3
            assert not alone or pulled == given + 1
            del pictures
    assert pulled == len(pairs)
    assert full > large[1].bytes - page
    assert sorted(seen)[len(seen) // 2] >= 2 * small[1].bytes, "nothing was read ahead"
    assert max(seen) <= large[1].bytes + page
    assert mapped() == 0


def test_where_memory_has_no_room_frames_lie_in_scratch(clips, root, tmp_path, monkeypatch):
    with prefetcher(root, tmp_path) as frames:
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
        (got,) = frames(planned(clips[:1], pixels=10_000))
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
    assert got[1].frames[0].any(), "frames outlive the prefetcher and its files"
    assert not files_left(tmp_path)


def test_what_cannot_be_read_is_a_reason_and_costs_no_other_clip(clips, source, root, tmp_path):
    for name, data in (("cut", (root / clips[0]["media"]).read_bytes()[:-9000]), ("zeros", b"\0" * 5000)):
        (root / f"{name}.mp4").write_bytes(data)
    (root / "list.mp4").write_text(f"ffconcat version 1.0\nfile {source}\n")
    odd = [
        (clips[0] | {"media": "cut.mp4"}, "cut.mp4 in .*(damaged|not there|not a video)"),
        (clips[0] | {"media": "zeros.mp4"}, "zeros.mp4 in .*not a video"),
        (clips[0] | {"media": "list.mp4"}, "list.mp4 in .*playlists"),
        (clips[0] | {"media": "gone.mp4"}, "gone.mp4 in .*No such file"),
        (clips[5] | {"uri": str(tmp_path / "gone.mov")}, "frames 25 to 85 of .*gone.mov: .*No such file"),
        (clips[5] | {"uri": None}, "neither media nor uri"),
        (
            clips[5] | {"uri": "s3://bucket/film.mov"},
            "not cut, and its source is not on this machine: run `rushes curat",
        ),
        (clips[0] | {"end_frame": 80, "cut": "encode", "first_hash": object()}, "TypeError"),
        (clips[0] | {"end_frame": 200, "end_s": 8.0}, "are not there"),
    ]
    pairs = planned([row for case in odd for row in (case[0], clips[3])], pixels=10_000)
    got = read_all(root, tmp_path / "scratch", pairs)
    for (row, words), pictures in zip(odd, got[::2], strict=True):
        assert re.search(words, pictures.reason), pictures.reason
        assert pictures.reason.startswith(f"clip {row['clip_id']}: ")
        assert not pictures.passing
        assert not pictures.frames
    assert all(pictures.frames for pictures in got[1::2])
    assert not files_left(tmp_path / "scratch")


@pytest.mark.parametrize(
    ("number", "passing"), [(signal.SIGKILL, True), (signal.SIGSEGV, False), (signal.SIGSTOP, True)]
)
def test_a_child_that_dies_is_a_reason(clips, slow, root, tmp_path, number, passing):
    pairs = planned([clips[1], slow, clips[1]], pixels=10_000)
    with prefetcher(root, tmp_path, stall_s=2) as frames:
        taken = frames(pairs)
        assert next(taken)[1].frames
        (helper,) = [p for p in psutil.Process().children() if "sandbox" in " ".join(p.cmdline())][-1:]
        threading.Thread(target=strike, args=(helper, number), daemon=True).start()
        pictures = next(taken)[1]
        assert re.search(r"decoder (crashed|hung)", pictures.reason)
        assert pictures.reason.startswith("clip slow-")
        assert pictures.passing == passing
        assert next(taken)[1].frames
    assert not files_left(tmp_path)


def test_a_read_that_takes_longer_than_a_stall_is_alive(samples, tmp_path):
    film = tmp_path / "film.mp4"
    ffmpeg("-stream_loop", 16, "-i", samples / "bikes.mp4", "-c", "copy", film)
    row = BASE | {"media": None, "uri": str(film), "start_frame": 4000, "end_frame": 4100, "width": 640, "height": 272}
    began = time.monotonic()
    (pictures,) = read_all(tmp_path, tmp_path / "scratch", planned([row], pixels=10_000), stall_s=1.3)
    assert time.monotonic() - began > 1.5, "too fast to show anything"
    assert len(pictures.frames) == 8


def strike(helper: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to the child that has worked for a while."""
    while True:
        for child in helper.children():
            if child.cpu_times().user > 0.15:
                child.send_signal(number)
                return
        time.sleep(0.01)


def test_too_little_memory_is_a_passing_reason(slow, root, tmp_path):
    (pictures,) = read_all(root, tmp_path, planned([slow]), memory_gb=0.3)
    assert "out of memory (limit 0.3 GB)" in pictures.reason
    assert pictures.passing


@pytest.mark.parametrize("way", ["break", "interrupt"])
def test_leaving_early_ends_processes_and_removes_files(clips, slow, root, tmp_path, way):
    before = children()
    pairs = planned([clips[1], slow, slow, slow], pixels=10_000)
    began = 0.0

    def leave() -> None:
        nonlocal began
        with prefetcher(root, tmp_path, readers=2) as frames:
            taken = frames(pairs)
            next(taken)
            assert helpers_left(before)
            began = time.monotonic()
            if way == "interrupt":  # while it waits for the slow clip
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                next(taken)

    with pytest.raises(KeyboardInterrupt) if way == "interrupt" else contextlib.nullcontext():
        leave()
    assert time.monotonic() - began < 2
    assert not [thread for thread in threading.enumerate() if thread.name == "frames"]
    psutil.wait_procs(helpers_left(before), timeout=5)
    assert not helpers_left(before)
    assert not files_left(tmp_path)


def test_folders_of_killed_processes_go_and_those_in_use_stay(clips, root, tmp_path):
    folders = [tmp_path / f"{PREFIX}{name}" for name in ("killed", "used", "new")]
    for folder in folders:
        folder.mkdir()
        (folder / "frames").write_bytes(b"1234")
    for folder in folders[:2]:
        os.utime(folder, (0, 0))
    lock = os.open(folders[1], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with prefetcher(root, tmp_path):
        assert [folder.exists() for folder in folders] == [False, True, True]
    os.close(lock)


def test_media_in_a_bucket(clips, root, tmp_path, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "canary-90", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="caption-frames")
        for row in clips[:2]:
            client.upload_file(str(root / row["media"]), "caption-frames", f"dataset/{row['media']}")
        pairs = planned([*clips[:3], clips[5]], policy="keyframes", pixels=10_000)
        got = read_all("s3://caption-frames/dataset", tmp_path, pairs)
        local = read_all(root, tmp_path, pairs)
    finally:
        server.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    for here, there in zip(local[:2], got[:2], strict=True):
        assert here.indices == there.indices
        assert (np.stack(list(here.frames)) == np.stack(list(there.frames))).all()
    assert (
        got[2].reason == f"clip {clips[2]['clip_id']}: {clips[2]['media']} in s3://caption-frames/dataset cannot be "
        "read: it is gone"
    )
    assert not got[2].passing
    assert got[3].frames, "a source on this machine needs no bucket"
    assert not files_left(tmp_path)


class Busy(MemoryFileSystem):
    """A store that has no time for anybody."""

    protocol = "busy"

    def _open(self, *arguments, **options):
        raise OSError("SlowDown: reduce your request rate")


def test_a_store_that_fails_for_the_moment_is_a_passing_reason(clips, tmp_path):
    fsspec.register_implementation("busy", Busy, clobber=True)
    assert not Storage("busy://dataset").local
    stamina.set_active(False)
    try:
        (pictures,) = read_all("busy://dataset", tmp_path, planned(clips[:1]))
    finally:
        stamina.set_active(True)
    assert "SlowDown" in pictures.reason
    assert pictures.passing
