"""Pictures as clips of one frame: formats, orientation, transparency, damage, cutting, reading, rules, whole runs."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_curate import table
from helpers_inprocess import House, everything
from helpers_media import ffmpeg, scan_video
from PIL import Image, ImageOps

from curation.cut import CutConfig, CutRequest, cut_clips
from curation.dataset.forget import forget
from curation.decode import DecodeConfig, DecodeFailed, decode, load_tracks
from curation.media.verify import frames_hash
from curation.plan import MeasurePlan
from curation.read import ClipUnreadable, read_clip
from curation.rules.selection import Selection
from curation.scorers import AnyScorer
from curation.select import decide, select_dataset
from curation.shots.adaptive import Adaptive
from curation.shots.content import Content
from curation.shots.none import Whole
from curation.shots.stride import Stride
from curation.shots.transnetv2 import TransNetV2
from curation.stills import STILLS, Stills
from curation.video import Column, Scorer, Span, Tracks
from orchestration.storage import Storage

ORIENTATION = 0x0112
DETECTORS = (Adaptive(), Content(), Stride(), Whole(), TransNetV2())


@pytest.fixture(scope="module")
def photo(samples) -> Image.Image:
    """640 x 272, from a film."""
    row = {"clip_id": "x", "uri": str(samples / "bikes.mp4"), "start_frame": 0, "end_frame": 1}
    return Image.fromarray(read_clip(row)[0])


@pytest.fixture(scope="module")
def cutout(photo) -> Image.Image:
    """The photo with alpha 0 on the left, rising to 255 on the right."""
    found = photo.convert("RGBA")
    ramp = np.clip(np.arange(photo.width) * 2.0 - 200, 0, 255).astype(np.uint8)
    found.putalpha(Image.fromarray(np.tile(ramp, (photo.height, 1))))
    return found


def saved(picture: Image.Image, kind: str, **how: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, kind, **how)
    return target.getvalue()


def scan(path: Path, folder: Path, images: bool = True, **config: Any) -> tuple[Tracks, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    plan = MeasurePlan(shots=Adaptive(), scorers=frame_scorers())
    settings = DecodeConfig.model_validate(config)
    result = decode(path, folder, settings, plan, lambda message: None, images)
    return load_tracks(folder, result), result


def frame_scorers() -> tuple[AnyScorer, ...]:
    """All that look at every frame."""
    return MeasurePlan(scorers=tuple(scorer() for scorer in get_args(get_args(AnyScorer)[0]))).frame_scorers


def refused(data: bytes, folder: Path, **config: Any) -> str:
    """The reason."""
    (folder / "file").write_bytes(data)
    with pytest.raises(DecodeFailed) as caught:
        scan(folder / "file", folder / "tracks", **config)
    return caught.value.reason


def row_of(path: Path, tracks: Tracks) -> dict[str, Any]:
    info = tracks.info
    facts = ("rotation", "pixel_aspect", "width", "height", "interlaced", "hdr", "pix_fmt")
    span = {"clip_id": "x", "start_frame": 0, "end_frame": 1, "start_pts": None, "end_pts": None}
    return {**span, "uri": str(path), **{name: getattr(info, name) for name in facts}}


def as_shown(data: bytes) -> np.ndarray:
    """[H, W, 3] by PIL: turned as EXIF says, on white."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):
        return np.repeat((np.asarray(picture) >> 8).astype(np.uint8)[..., None], 3, 2)
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b).mean())


def grey(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


def check_shown(data: bytes, folder: Path, tolerance: float) -> Tracks:
    """A picture is one frame, and readers and picture scorers see it as PIL does."""
    path = folder / "any name.mp4"
    path.write_bytes(data)
    tracks, result = scan(path, folder / "tracks")
    assert (tracks.frames, tracks.end_time, tracks.damaged.tolist()) == (1, 0.0, [False])
    assert (tracks.info.fps, tracks.info.pixel_aspect, result["frames_promised"]) == (0.0, 1.0, None)
    truth = as_shown(data)
    assert error(read_clip(row_of(path, tracks))[0], truth) < tolerance
    ((still,), _) = Stills(tracks).pictures(Span(0, 1), 3, {})
    # They keep half the chroma, which shows where a palette is dithered.
    assert error(grey(still.rgb), grey(truth)) < tolerance + 2
    return tracks


KINDS = {  # name -> mode, how it is saved, codec and pixel format, mean error that lossy decoders may differ by
    "jpeg": ("RGB", "jpeg", {"quality": 95}, "mjpeg yuvj420p", 0.5),
    "jpeg 4:4:4": ("RGB", "jpeg", {"quality": 95, "subsampling": 0}, "mjpeg yuvj444p", 0.5),
    "jpeg progressive": ("RGB", "jpeg", {"progressive": True}, "mjpeg yuvj420p", 0.5),
    "jpeg grey": ("L", "jpeg", {}, "mjpeg gray", 0.1),
    "jpeg CMYK": ("CMYK", "jpeg", {"quality": 95}, "mjpeg gbrap", 1.5),
    "jpeg printed at 72 x 96 dots": ("RGB", "jpeg", {"dpi": (72, 96)}, "mjpeg yuvj420p", 0.5),
    "png": ("RGB", "png", {}, "png rgb24", 0.01),
    "png grey": ("L", "png", {}, "png gray", 0.01),
    "png palette": ("P", "png", {}, "png pal8", 0.01),
    "png black and white": ("1", "png", {}, "png monob", 0.01),
    "webp": ("RGB", "webp", {"quality": 90}, "webp yuv420p", 0.5),
    "webp lossless": ("RGB", "webp", {"lossless": True}, "webp argb", 0.01),
}


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_one_frame_and_look_as_elsewhere(name, photo, tmp_path):
    mode, kind, how, coded, tolerance = KINDS[name]
    tracks = check_shown(saved(photo.convert(mode), kind, **how), tmp_path, tolerance)
    assert f"{tracks.info.codec} {tracks.info.pix_fmt}" == coded
    assert tracks.info.container == f"{kind}_pipe"
    assert (tracks.info.width, tracks.info.height, tracks.info.rotation) == (640, 272, 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(channels, photo, tmp_path):
    deep = np.asarray(photo)[..., :channels].squeeze().astype(np.uint16) * 257
    encoded = cv2.imencode(".png", deep[..., ::-1] if channels == 3 else deep)[1].tobytes()
    tracks = check_shown(encoded, tmp_path, 1.0)
    assert tracks.info.bits == 16


@pytest.mark.parametrize(("kind", "how"), [("png", {}), ("webp", {"lossless": True, "exact": True})])
def test_what_is_transparent_is_white(kind, how, cutout, tmp_path):
    data = saved(cutout, kind, **how)
    check_shown(data, tmp_path, 0.01)
    tracks, _ = scan(tmp_path / "any name.mp4", tmp_path / "tracks")
    assert (read_clip(row_of(tmp_path / "any name.mp4", tracks))[0, :, :90] == 255).all()


def test_transparency_of_other_formats(cutout, tmp_path):
    check_shown(saved(cutout, "webp", quality=90), tmp_path, 1.0)
    check_shown(saved(cutout.convert("LA"), "png"), tmp_path, 0.01)
    check_shown(saved(cutout.convert("RGB").convert("P"), "png", transparency=0), tmp_path, 0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_exif_turns_and_mirrors(orientation, kind, photo, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = {"quality": 95} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    tracks = check_shown(saved(photo, kind, exif=exif, **how), tmp_path, 0.5)
    assert tracks.info.rotation == {1: 0, 2: 180, 3: 180, 4: 0, 5: 90, 6: 90, 7: 270, 8: 270}[orientation]
    assert (tracks.info.width, tracks.info.height) == (640, 272)


def test_broken_metadata_do_not_matter(photo, tmp_path):
    for kind in ("jpeg", "png", "webp"):
        data = saved(photo, kind, exif=b"garbage" * 9, icc_profile=b"garbage" * 9)
        (tmp_path / "file").write_bytes(data)
        tracks, _ = scan(tmp_path / "file", tmp_path / "tracks")
        assert (tracks.frames, tracks.info.rotation, int(tracks.damaged.sum())) == (1, 0, 0)


def test_what_follows_a_jpeg_is_not_looked_at(photo, samples, tmp_path):
    """A phone's motion photo ends with its film, an HDR photo with a gain map."""
    data = saved(photo, "jpeg")
    check_shown(data + (samples / "bikes.mp4").read_bytes(), tmp_path, 0.5)
    album = saved(photo, "mpo", save_all=True, append_images=[photo.rotate(180)])
    check_shown(album, tmp_path, 0.5)
    assert "one after the other" in refused(data + data, tmp_path)


def test_moving_pictures_are_refused(photo, tmp_path):
    others = [photo.rotate(angle) for angle in (30, 60)]
    for kind in ("png", "webp", "gif"):
        reason = refused(saved(photo, kind, save_all=True, append_images=others, duration=100), tmp_path)
        assert reason.startswith("not a video"), reason
        assert {"png": "moving PNG", "webp": "moving WebP", "gif": "gif file"}[kind] in reason


def test_names_say_nothing(photo, samples, tmp_path):
    """A number pattern does not lead to other files, and a film with a picture's name is a film."""
    (tmp_path / "IMG_001.jpg").write_bytes(saved(photo, "jpeg"))
    (tmp_path / "IMG_%03d.jpg").write_bytes(saved(photo.resize((64, 48)), "jpeg"))
    assert scan(tmp_path / "IMG_%03d.jpg", tmp_path / "a")[0].info.width == 64
    shutil.copy(samples / "carphone_pristine.mp4", tmp_path / "film.jpg")
    tracks, _ = scan(tmp_path / "film.jpg", tmp_path / "b")
    assert tracks.frames > 100
    assert tracks.info.container.startswith("mov")


WHOLE = {
    "jpeg": {"quality": 90},
    "jpeg progressive": {"progressive": True},
    "png": {},
    "webp": {"quality": 80},
    "webp lossless": {"lossless": True},
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_that_ends_early_is_never_taken(name, photo, tmp_path):
    data = saved(photo.resize((96, 64)), name.split()[0], **WHOLE[name])
    for end in {*range(16, len(data), len(data) // 25), len(data) - 3}:
        reason = refused(data[:end], tmp_path)
        assert reason.startswith("damaged: the picture ends early"), reason


def test_every_bit_flip_in_a_png_is_noticed(photo, tmp_path):
    data = saved(photo.resize((96, 64)), "png")
    draw = random.Random(0)
    for _ in range(60):
        broken = bytearray(data)
        broken[draw.randrange(8, len(data))] ^= 1 << draw.randrange(8)
        assert refused(bytes(broken), tmp_path).startswith("damaged")


def test_a_jpeg_that_decodes_in_part_is_refused(photo, tmp_path):
    data = saved(photo, "jpeg", quality=90)
    end = data.rindex(b"\xff\xd9")
    assert refused(data[: end - 2000] + data[end:], tmp_path).startswith("damaged: ")


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_bombs_are_refused_before_they_are_decoded(kind, tmp_path):
    data = saved(Image.new("1" if kind == "png" else "RGB", (6000, 6000)), kind)
    assert refused(data, tmp_path) == "too large: 6000x6000 is over 35,389,440 pixels (decode.max_pixels)"


def test_images_false_says_so(photo, tmp_path):
    (tmp_path / "file").write_bytes(saved(photo, "webp"))
    with pytest.raises(DecodeFailed, match=r"^a picture \(webp\), and images is false$"):
        scan(tmp_path / "file", tmp_path / "tracks", images=False)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (2000, 3), (640, 272)])
def test_every_detector_and_scorer_takes_one_frame(size, photo, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(saved(photo.resize(size), "png"))
    folder = tmp_path / "tracks"
    folder.mkdir()
    for detector in DETECTORS:
        plan = MeasurePlan(shots=detector)  # type: ignore[arg-type]
        tracks = load_tracks(folder, decode(path, folder, DecodeConfig(), plan, lambda message: None))
        assert detector.shots(tracks) == [Span(0, 1)], detector.kind
    tracks, _ = scan(path, folder)
    for scorer in frame_scorers():
        assert isinstance(scorer, Scorer)
        scores = scorer.score(tracks, Span(0, 1))
        for column in scorer.columns():
            assert not column.temporal or scores[column.name] is None, column.name
            assert column.temporal or min(size) < 64 or scores[column.name] is not None, column.name
    assert Stills(tracks).thumbnail(Span(0, 1), {}) is not None
    assert len(tracks.meters[STILLS]["index"]) == 1


def test_a_clip_is_the_file_itself(photo, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for kind, suffix in (("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp")):
        path = tmp_path / "source"
        path.write_bytes(saved(photo, kind, exif=exif) + b"tail")
        tracks, _ = scan(path, tmp_path / "tracks")
        hashes = tracks.meters["frames"]["hashes"]
        facts = (Span(0, 1), None, None, int(hashes[0]), int(hashes[0]), frames_hash(hashes))
        request = CutRequest(*facts, tmp_path / kind / "clip.mp4")
        request.target.parent.mkdir()
        for mode in ("copy", "encode"):
            (result,) = cut_clips(path, [request], CutConfig(mode=mode))
            assert (result.cut, result.reason, result.suffix) == ("copy", None, suffix)
            (made,) = request.target.parent.iterdir()
            assert made.name == f"clip{suffix}"
            assert made.read_bytes() == path.read_bytes()
        row = row_of(path, tracks)
        media = {**row, "media": f"{kind}/clip{suffix}", "cut": "copy"}
        whole = read_clip(media, root=str(tmp_path))
        assert whole.shape == (1, 640, 272, 3)
        assert (whole == read_clip(row)).all()
        assert read_clip(media, [0, 0], (64, 96), root=str(tmp_path)).shape == (2, 64, 96, 3)
        box = {"crop_x": 40, "crop_y": 16, "crop_w": 600, "crop_h": 200}  # as coded; shown it is turned to the right
        assert (read_clip({**row, **box})[0] == whole[0, 40:640, 56:256]).all()
        made.write_bytes(made.read_bytes()[:3000])
        with pytest.raises(ClipUnreadable, match="ends early"):
            read_clip(media, root=str(tmp_path))
    (result,) = cut_clips(path, [request], CutConfig(mode="none"))
    assert result.cut == "none"


def decided(clips: pa.Table, *rules: dict) -> list[bool]:
    selection = Selection.model_validate({"rules": list(rules)})
    return decide(clips, selection).column("kept").to_pylist()


def test_rules_on_time_and_motion_say_nothing_of_pictures():
    columns = {
        "clip_id": ["picture", "clip", "unscored", "dull picture"],
        "image": [True, False, False, True],
        "duration_s": [0.0, 1.0, 5.0, 0.0],
        "motion": [None, 3.0, None, None],
        "camera_motion": [None, "pan", None, None],
        "sharpness": [9.0, 9.0, 9.0, 1.0],
        "decode_errors": [0, 0, 0, 0],
    }
    clips = pa.table(columns)
    short, still, sharp = {"duration_s": {"min": 2}}, {"motion": {"min": 0.5}}, {"sharpness": {"min": 5}}
    assert decided(clips, short) == [True, False, True, True]
    assert decided(clips, still) == [True, True, False, True]
    assert decided(clips, sharp) == [True, True, True, False]
    assert decided(clips, {"not": {"motion": {"max": 0.5}}}) == [True, True, False, True]
    assert decided(clips, {"not": {"any": [short, still]}}) == [True, False, False, True]
    assert decided(clips, {"all": [short, still, sharp]}) == [True, False, False, False]
    assert decided(clips, {"any": [{"camera_motion": {"in": ["zoom"]}}, sharp]}) == [True, True, True, True]
    assert decided(clips, {"camera_motion": {"not_in": ["pan"]}}) == [True, False, False, True]
    assert decided(clips, {"image": {"in": [False]}}) == [False, True, True, False]
    assert decided(clips.drop_columns("image"), short) == [False, False, True, False], "of an older release"


def test_pictures_are_in_no_quantile_of_motion(tmp_path):
    storage = Storage(str(tmp_path))
    count = 10
    clips = {
        "clip_id": [f"c{n}" for n in range(count)] + [f"p{n}" for n in range(count)],
        "image": [False] * count + [True] * count,
        "duration_s": [float(n) for n in range(count)] + [0.0] * count,
        "sharpness": [5.0] * count * 2,
        "decode_errors": [0] * count * 2,
    }
    with storage.open_write("clips/a.parquet") as file:
        pq.write_table(pa.table(clips), file)
    known = [Column(name, kind, "", "") for name, kind in (("duration_s", pa.float64()), ("sharpness", pa.float64()))]
    for rule, kept in (({"best": "20%"}, ["c8", "c9"]), ({"best": "20%", "lowest": True}, ["c0", "c1"])):
        selection = Selection.model_validate({"rules": [{"duration_s": rule}, {"sharpness": {"best": "50%"}}]})
        funnel = select_dataset(storage, selection, known)
        assert [quantile.population for quantile in funnel.quantiles] == [count, 2 * count]
        rows = pq.read_table(tmp_path / "selection.parquet").to_pylist()
        assert [row["clip_id"] for row in rows if row["kept"]] == [*kept, *clips["clip_id"][count:]]


@pytest.fixture(scope="module")
def house(photo, samples, tmp_path_factory):
    """A film and pictures of it."""
    raw = tmp_path_factory.mktemp("raw")
    shutil.copy(samples / "bikes.mp4", raw)
    for number, kind in enumerate(("jpeg", "png", "webp")):
        (raw / f"IMG_{number:03d}").write_bytes(saved(photo.rotate(number), kind, quality=95))
    (raw / "same.jpg").write_bytes((raw / "IMG_000").read_bytes())
    (raw / "torn.png").write_bytes((raw / "IMG_001").read_bytes()[:-100])
    ffmpeg("-i", samples / "bikes.mp4", "-frames:v", "3", raw / "moving.gif")
    with pytest.MonkeyPatch.context() as patch:
        yield House(raw, tmp_path_factory.mktemp("cache"), patch)


def test_a_folder_of_films_and_pictures(house, tmp_path):
    """By rules such as the default configuration's; then encoded, taken down and left out."""
    rules = [{"duration_s": {"min": 2}}, {"crop_h": {"min": 240}}, {"motion": {"min": 0.1}}, {"freeze": {"max": 0.5}}]
    rules += [{"sharpness": {"min": 5}}, {"camera_motion": {"not_in": ["zoom"]}}]
    settings = {"scorers": frame_scorers(), "select": {"rules": rules}}
    output = tmp_path / "dataset"
    house.curate(output, **settings)
    videos = {Path(row["uri"]).name: row for row in table(output, "videos")}
    assert {name: row["status"] for name, row in videos.items()} == {
        "bikes.mp4": "ok",
        **{f"IMG_{number:03d}": "ok" for number in range(3)},
        "same.jpg": "duplicate",
        "torn.png": "failed",
        "moving.gif": "failed",
    }
    assert videos["torn.png"]["reason"] == "damaged: the picture ends early"
    pictures = [videos[f"IMG_{number:03d}"] for number in range(3)]
    facts = ("codec", "width", "height", "rotation", "fps", "frames", "frames_decoded", "duration_s", "decode_errors")
    for row, codec in zip(pictures, ("mjpeg", "png", "webp"), strict=True):
        assert [row[name] for name in facts] == [codec, 640, 272, 0, None, None, 1, 0.0, 0]
    clips = {row["video_id"]: row for row in table(output, "clips") if row["image"]}
    assert set(clips) == {row["video_id"] for row in pictures}
    assert sum(not row["image"] for row in table(output, "clips")) > 3
    kept = {row["clip_id"] for row in table(output, "selection.parquet") if row["kept"]}
    for row, suffix in zip(pictures, (".jpg", ".png", ".webp"), strict=True):
        clip = clips[row["video_id"]]
        assert (clip["start_frame"], clip["end_frame"], clip["duration_s"], clip["start_pts"]) == (0, 1, 0.0, None)
        assert clip["clip_id"] in kept
        assert (clip["cut"], clip["cut_reason"]) == ("copy", None)
        assert clip["media"] == f"media/{row['video_id']}/{clip['clip_id']}{suffix}"
        assert (output / clip["media"]).read_bytes() == (house.raw / Path(row["uri"]).name).read_bytes()
        assert clip["thumbnail"].startswith(b"\xff\xd8")
    before = everything(output)
    house.curate(output, **settings)
    assert everything(output) == before

    house.curate(output, **settings, cut={"mode": "encode"})
    cuts = {row["cut"] for row in table(output, "clips") if row["clip_id"] in kept and row["image"]}
    assert cuts == {"copy"}
    assert {row["cut"] for row in table(output, "clips") if row["clip_id"] in kept} == {"copy", "encode"}

    forget(Storage(str(output)), pictures[2]["video_id"])
    assert not list(output.rglob("*.webp"))
    assert len(list(output.rglob("*.png"))) == 1
    house.curate(output, **settings, cut={"mode": "encode"})
    assert not list(output.rglob("*.webp"))

    house.curate(tmp_path / "without", **settings, images=False)
    reasons = {Path(row["uri"]).name: row["reason"] for row in table(tmp_path / "without", "videos")}
    assert reasons["IMG_002"] == "a picture (webp), and images is false"
    assert reasons["bikes.mp4"] is None
    assert not any(row["image"] for row in table(tmp_path / "without", "clips"))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_films_whose_frames_have_exif_are_encoded(orientation, photo, tmp_path):
    """MJPEG of cameras. PyAV knows no such side data and gives none then."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    (tmp_path / "photo.jpg").write_bytes(saved(photo, "jpeg", exif=exif))
    film, target = tmp_path / "film.mkv", tmp_path / "clip.mp4"
    ffmpeg("-loop", "1", "-framerate", "5", "-i", tmp_path / "photo.jpg", "-frames:v", "6", "-c", "copy", film)
    (result,) = cut_clips(film, [scan_video(film).request(0, 5, target)], CutConfig(mode="encode"))
    assert (result.cut, result.reason) == ("encode", "configured")
    assert scan(target, tmp_path / "a")[0].info.rotation == scan(film, tmp_path / "b")[0].info.rotation
