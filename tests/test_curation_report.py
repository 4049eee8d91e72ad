"""The curation page: right numbers, right clips, bounded work, whatever the dataset is like."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import json
import re
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_dataset import LABELS, NEAR_DUPLICATE, SCORES, SEEN, STAGES, THRESHOLDS, write_dataset
from helpers_media import frame_md5
from markupsafe import Markup
from rich.console import Console

from curation.dataset.explain import explain, render
from curation.duplicates.pairs import PAIRS
from curation.report import data as report_data
from curation.report.boxes import MOST, outlines
from curation.report.data import DROPPED, KEPT, UNDECIDED, Tables, read_decisions
from curation.report.duplicates import read_duplicates
from curation.report.histograms import Bound, histogram
from curation.report.page import Amounts, curation_page
from curation.report.previews import GuardedMaker, NoPreview, encode, make_previews, preview
from curation.report.survey import survey_clips
from curation.rules.funnel import Stage
from curation.video import Column
from orchestration.errors import RushesError
from orchestration.report import Page, Section, build_report, formats, save_page, write_pages
from orchestration.report.store import load_pages
from orchestration.storage import Storage

MADE = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
QUICK = Amounts(preview_seconds=0)


def no_maker(row) -> bytes:
    raise FileNotFoundError(row["uri"])


def page_text(storage: Storage, funnel=None, **options) -> tuple[Page, str]:
    options = {"columns": SCORES, "thresholds": THRESHOLDS, "stages": STAGES, "amounts": QUICK, **options}
    page = dataclasses.replace(curation_page(storage, funnel=funnel, **options), made=MADE)
    save_page(storage, page)
    build_report(storage, "test")
    return page, storage.read_bytes("report/index.html").decode()


def section(page: Page, slug: str) -> str:
    return next(str(part.html) for part in page.sections if part.slug == slug)


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_numbers_agree_with_the_tables(tmp_path: Path):
    funnel = write_dataset(
        tmp_path, videos=12, failures=[("a.mp4", "no video"), ("b.mp4", "no video"), ("c", "cut off")]
    )
    assert funnel is not None
    page, _ = page_text(Storage(tmp_path), funnel)
    overview = words(section(page, "overview"))
    assert "videos ok 12" in overview
    assert "videos failed 3" in overview
    assert "duplicate videos 2" in overview
    assert f"clips kept {formats.count(funnel.kept)}" in overview
    assert f"clips dropped {formats.count(funnel.clips - funnel.kept)}" in overview
    shown = words(section(page, "funnel"))
    for stage in funnel.stages:
        assert stage.reason.replace("<", "&lt;").replace(">", "&gt;") in shown
    failures = section(page, "failures")
    assert failures.index("no video") < failures.index("cut off")
    assert "<b>2</b> <bdi>no video</bdi>" in failures
    for name, chart in page.charts.items():
        total = sum(sum(series["y"]) for series in chart["series"])
        missing = 0 if name != "score-motion" else funnel.clips - total
        assert total + missing == funnel.clips
        assert missing < 0.1 * funnel.clips


def test_equal_input_gives_equal_bytes(tmp_path: Path):
    funnel = write_dataset(tmp_path, videos=6)
    assert page_text(Storage(tmp_path), funnel)[1] == page_text(Storage(tmp_path), funnel)[1]


def test_clips_nearest_a_threshold_are_the_nearest(tmp_path: Path):
    write_dataset(tmp_path, videos=30)
    storage = Storage(tmp_path)
    tables = Tables(storage, "clips")
    survey = survey_clips(
        tables,
        read_decisions(storage),
        SCORES,
        THRESHOLDS,
        [],
        kept_tiles=5,
        reason_tiles=5,
        max_reasons=3,
        near_pool=7,
    )
    values = np.concatenate([part.numbers("motion") for part in tables.scan(["motion"])])
    bound = Bound("motion", "min", 0.8)
    for passes in (True, False):
        side = values[np.isfinite(values) & ((values >= 0.8) == passes)]
        expected = np.sort(np.abs(side - 0.8))[:7]
        assert [distance for distance, *_ in survey.near[bound][passes].items] == pytest.approx(expected)
    assert survey.histograms["motion"].failing[bound] == (values < 0.8).sum()
    assert len(survey.dropped) == 3
    assert survey.clips[KEPT] + survey.clips[DROPPED] == len(values)


def test_the_sample_depends_on_neither_files_nor_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    funnel = write_dataset(tmp_path, videos=20)
    storage = Storage(tmp_path)
    first, _ = page_text(storage, funnel)
    table = pa.concat_tables(
        [pa.Table.from_batches([part.table]) for part in Tables(storage, "clips").scan(_names(storage))]
    )
    storage.remove("clips/part-0.parquet")
    for number, start in enumerate(range(0, len(table), 100)):
        storage.write_table(f"clips/part-{number}.parquet", table.slice(start, 100))
    monkeypatch.setattr(report_data, "BATCH", 17)
    second, _ = page_text(storage, funnel)
    assert list(first.records) == list(second.records)
    assert first.charts == second.charts


def _names(storage: Storage) -> list[str]:
    return Tables(storage, "clips").schema.names


def test_thumbnails_are_read_for_shown_clips_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    funnel = write_dataset(tmp_path, videos=20)
    read: list[str] = []
    scan = Tables.scan

    def spied(self, columns):
        read.extend(columns)
        return scan(self, columns)

    monkeypatch.setattr(Tables, "scan", spied)
    page_text(Storage(tmp_path), funnel)
    assert "motion" in read
    assert "thumbnail" not in read


def rows_of(storage: Storage, name: str) -> list[dict]:
    with storage.open_read(name) as file:
        return pq.read_table(file).to_pylist()


def test_near_duplicates_stand_together_the_kept_clip_first(tmp_path: Path):
    funnel = write_dataset(tmp_path, videos=20, seen=True)
    storage = Storage(tmp_path)
    dropped: dict[str, list[str]] = {}
    for row in rows_of(storage, "selection.parquet"):
        if row["duplicate_of"]:
            dropped.setdefault(row["duplicate_of"], []).append(row["clip_id"])
    similarity = {frozenset((row["clip_a"], row["clip_b"])): row["similarity"] for row in rows_of(storage, PAIRS)}
    found = read_duplicates(storage, groups=5, members=7)
    assert [(group.kept, group.count) for group in found.groups] == [
        (kept, len(names)) for kept, names in sorted(dropped.items(), key=lambda item: -len(item[1]))[:5]
    ]
    assert found.clips == sum(map(len, dropped.values()))
    assert found.kept == len(dropped)
    for group in found.groups:
        assert len(group.members) == 7 < group.count
        assert set(group.members) < set(dropped[group.kept])
        stored = [similarity.get(frozenset((name, group.kept))) for name in group.members]
        assert [group.similarity.get(name) for name in group.members] == stored
        assert stored == sorted(stored, key=lambda value: -(value or 0))

    page, _ = page_text(storage, funnel, columns=(*SCORES, *SEEN), amounts=Amounts(preview_seconds=0, groups=5))
    shown = section(page, "duplicates")
    keys = re.findall(r'data-key="([^"]+)"', shown)
    assert keys == [name for group in found.groups for name in group.clip_ids]
    assert shown.count('<span class="badge">kept</span>') == 5
    assert f"12 near-duplicates of {found.groups[0].kept} 7 shown" in words(shown)
    assert f"{len(dropped) - 5} smaller groups left out" in words(shown)
    member = found.groups[0].members[0]
    assert ["Kept instead", f"{found.groups[0].kept} (similarity 0.99)"] in map(list, page.records[member]["facts"])
    assert NEAR_DUPLICATE.replace(">", "&gt;") in section(page, "funnel")


def test_where_no_near_duplicates_are_the_report_says_why(tmp_path: Path):
    def lead(name: str) -> str:
        funnel = write_dataset(tmp_path / name, videos=2, select=name != "undecided")
        if funnel and name == "none found":
            stage = Stage(reason=NEAR_DUPLICATE, kind="duplicate", dropped=0, failing=0, dropped_s=0.0)
            funnel = funnel.model_copy(update={"stages": (*funnel.stages, stage)})
        page, _ = page_text(Storage(tmp_path / name), funnel)
        return next(part.lead for part in page.sections if part.slug == "duplicates")

    assert lead("not looked for").startswith("Not looked for")
    assert lead("none found").startswith("None found")
    assert "has not run yet" in lead("undecided")


def test_sheets_show_the_clips_with_the_highest_values(tmp_path: Path):
    funnel = write_dataset(tmp_path, videos=20, seen=True)
    storage = Storage(tmp_path)
    clips = {row["clip_id"]: row for row in rows_of(storage, "clips/part-0.parquet")}
    page, _ = page_text(storage, funnel, columns=(*SCORES, *SEEN))
    sheets = {}
    for slug in ("people", "text", "labels"):
        for part in section(page, slug).split('<div class="group"')[1:]:
            name = re.search(r"<small>(\w+)", part)
            sheets[name.group(1) if name else ""] = part
    expected = ["talking_head", "faces", "persons", "text_area", "overlay_text", *(f"label_{name}" for name in LABELS)]
    assert list(sheets) == expected
    for name, part in sheets.items():
        keys = re.findall(r'data-key="([^"]+)"', part)
        values = [clips[key][name] for key in keys]
        assert values == sorted(values, reverse=True)
        assert len(keys) == (6 if name.startswith("label_") else 12)
        highest = sorted((clip[name] for clip in clips.values() if clip[name]), reverse=True)
        assert values[0] == highest[0]
        assert values[-1] >= 0.8 * highest[len(keys) - 1]  # a little lower for the sake of different videos
        assert len({key[:16] for key in keys}) > len(keys) // 2
        if name.startswith("label_"):
            likely = sum((clip[name] or 0) >= 0.5 for clip in clips.values())
            assert part.count('<span class="badge">≥ 0.5</span>') == sum(value >= 0.5 for value in values)
            assert f"{formats.plural(likely, 'clip')} of" in part
    bare, _ = page_text(storage, funnel, columns=SCORES)
    assert not {"people", "text", "labels"} & {part.slug for part in bare.sections}


def test_ties_are_broken_the_same_in_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Faces are counted in whole numbers: very many clips have the highest value."""
    write_dataset(tmp_path, videos=10, seen=True)
    storage = Storage(tmp_path)
    whole, _ = page_text(storage, columns=(*SCORES, *SEEN))
    monkeypatch.setattr(report_data, "BATCH", 13)
    parts, _ = page_text(storage, columns=(*SCORES, *SEEN))
    assert section(whole, "people") == section(parts, "people")


def test_boxes_are_clamped_counted_and_never_text():
    jpeg = cv2.imencode(".jpg", np.zeros((120, 200, 3), np.uint8))[1].tobytes()
    box = {"x": 0.5, "y": 0.25, "w": 0.25, "h": 0.5, "kind": "face"}
    found = outlines({"a": [box]}, ["a"], jpeg)
    assert found is not None
    assert found.view == "0 0 200 120"
    assert found.paths == {"face": "M100.0 30.0h50.0v60.0h-50.0z"}
    odd = [
        box | {"x": -3e30, "y": -1, "w": 9e30, "h": 9, "kind": '"><script>'}, box | {"x": float("nan")}, None,
        box | {"w": -0.1}, box | {"h": None}, box | {"x": 1.5}, box | {"kind": None},
    ]  # fmt: skip
    found = outlines({"a": odd, "b": None}, ["a", "b", "c"], jpeg)
    assert found is not None
    assert found.paths == {"other": "M0.0 0.0h200.0v120.0h-200.0z" + "M100.0 30.0h50.0v60.0h-50.0z"}
    small = [box | {"w": 0.001 * (order + 1)} for order in range(100)]
    found = outlines({"a": small}, ["a"], jpeg)
    assert found is not None
    assert found.paths["face"].count("M") == MOST
    assert found.text == f"face 100; the {MOST} largest are drawn"
    assert outlines({"a": [box]}, ["a"], None) is outlines({"a": []}, ["a"], jpeg) is None


def test_lists_of_boxes_are_read_for_shown_clips_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    funnel = write_dataset(tmp_path, videos=5, seen=True)
    read: list[str] = []
    scan = Tables.scan
    monkeypatch.setattr(
        Tables, "scan", lambda self, columns: scan(self, read.extend(columns := list(columns)) or columns)
    )
    page, html = page_text(Storage(tmp_path), funnel, columns=(*SCORES, *SEEN))
    assert "faces" in read
    assert "face_boxes" not in read
    assert html.count('<svg class="boxes"') > 20
    assert any(["Boxes", "face 2, person 2"] in map(list, record["facts"]) for record in page.records.values())


def test_still_pictures_have_no_span_no_preview_and_no_length(tmp_path: Path):
    thresholds = THRESHOLDS | {"duration_s": [(0.5, None)]}
    funnel = write_dataset(tmp_path, videos=4, seen=True)
    asked: list[str] = []

    def maker(row) -> bytes:
        asked.append(row["clip_id"])
        raise NoPreview("no")

    page, _ = page_text(
        Storage(tmp_path),
        funnel,
        columns=(*SCORES, *SEEN),
        thresholds=thresholds,
        maker=maker,
        amounts=Amounts(kept=500),
    )
    stills = {row["clip_id"] for row in rows_of(Storage(tmp_path), "clips/part-0.parquet") if row["image"]}
    kept = section(page, "kept")
    tiles = {re.search(r'data-key="([^"]+)"', tile).group(1): tile for tile in kept.split("<article")[1:]}  # type: ignore[union-attr]
    assert len(stills & set(tiles)) == 3
    for key, tile in tiles.items():
        assert ('<span class="span">picture</span>' in tile) == (key in stills)
    assert asked
    assert not stills & set(asked)
    assert not any("no_preview" in page.records[key] for key in stills)
    assert "3 pictures" in words(section(page, "overview")).replace("\xa0", " ")
    assert sum(map(sum, (series["y"] for series in page.charts["score-duration_s"]["series"]))) == funnel.clips - 3  # type: ignore[union-attr]
    nearest = re.findall(r'data-key="([^"]+)"', section(page, "thresholds"))
    assert not stills & set(nearest[-12:])
    assert "stills" not in section(page, "timelines")


def test_explain_prints_boxes_short_and_the_clip_that_is_kept_instead(tmp_path: Path):
    write_dataset(tmp_path, videos=20, seen=True)
    storage = Storage(tmp_path)
    of = {row["clip_id"]: row["duplicate_of"] for row in rows_of(storage, "selection.parquet")}
    clip = next(
        row
        for row in rows_of(storage, "clips/part-0.parquet")
        if of[row["clip_id"]] and len(row["text_boxes"] or []) == 1
    )
    console = Console(width=200, file=io.StringIO())
    console.print(render(explain(storage, clip["clip_id"]), {}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert of[clip["clip_id"]] in text
    assert re.search(rf"text_boxes +│ 1 {clip['text_boxes'][0]['kind']} ", text)


@pytest.mark.parametrize("case", ["nothing", "all failed", "no clips", "no selection", "no thumbnails", "one clip"])
def test_odd_datasets_still_make_a_page(tmp_path: Path, case: str):
    funnel = None
    if case == "all failed":
        funnel = write_dataset(tmp_path, videos=0, failures=[("a.mp4", "not a video"), ("b.mp4", "")])
    elif case == "no selection":
        funnel = write_dataset(tmp_path, videos=3, select=False)
    elif case == "no thumbnails":
        funnel = write_dataset(tmp_path, videos=3, thumbnails=False)
    elif case in ("one clip", "no clips"):
        write_dataset(tmp_path, videos=1, select=False)
        storage = Storage(tmp_path)
        (part,) = Tables(storage, "clips").scan(_names(storage))
        storage.write_table("clips/part-0.parquet", pa.Table.from_batches([part.table]).slice(0, case == "one clip"))
    page, html = page_text(Storage(tmp_path), funnel)
    slugs = [part.slug for part in page.sections]
    assert {"overview", "failures", "throughput"} <= set(slugs)
    assert ("scores" in slugs) == (case not in ("nothing", "all failed", "no clips"))
    text = words(html.split("<script")[0] + " ".join(str(part.html) for part in page.sections))
    assert "nan" not in re.findall(r"\b[a-z]+\b", text)
    if case == "all failed":
        assert "no reason recorded" in text
    if case == "no selection":
        assert "not selected" in text
    if case == "no thumbnails":
        assert "no thumbnail" in text


def test_the_size_is_bounded_by_dropping_previews(tmp_path: Path):
    storage = Storage(tmp_path)
    part = Section("A", "a", Markup("<p>text</p>"))
    previews = {f"clip-{number}": bytes([number]) * 400_000 for number in range(8)}
    page = Page("P", "p", (part,), previews=previews)
    save_page(storage, page)
    assert build_report(storage, "t", limit=2_000_000) <= 2_000_000
    html = storage.read_bytes("report/index.html").decode()
    kept = json.loads(re.search(r'id="previews">(.*?)</script>', html).group(1))  # type: ignore[union-attr]
    assert list(kept) == ["clip-0", "clip-1", "clip-2"]
    assert "5 previews left out" in html
    with pytest.raises(RushesError, match="without previews"):
        build_report(storage, "t", limit=50_000)


def test_the_report_is_made_of_all_saved_pages(tmp_path: Path):
    """A command makes its own page anew and leaves the others as they are."""
    storage = Storage(tmp_path)

    def saved(slug: str, text: str, **more) -> Page:
        sections = (Section("Of " + slug, "overview", Markup("<p>{}</p>").format(text), "lead <b>"),)
        page = Page(slug.title(), slug, sections, made=MADE, **more)
        save_page(storage, page)
        return page

    saved("training", "last")
    saved("captions", "<old>", previews={"both": b"1" * 30, "own": b"2"}, records={"both": {"verdict": "of captions"}})
    curation = saved("curation", "first", previews={"both": b"1" * 30}, records={"both": {"verdict": "of curation"}})
    captions = saved("captions", "<new>", previews={"both": b"1" * 30}, charts={"c": {"x": ["</script>"]}}, style="p{}")
    build_report(storage, "t")
    html = storage.read_bytes("report/index.html").decode()
    assert re.findall(r'<article id="(\w+)"', html) == ["curation", "captions", "training"]
    assert re.findall(r'href="#(\w+)"', html) == ["main", "curation", "captions", "training"]
    assert "&lt;new&gt;" in html
    assert "&lt;old&gt;" not in html
    assert "lead &lt;b&gt;" in html
    assert "Captions made 2026-11-22 00:00 UTC" in html
    data = json.loads(re.search(r'id="data">(.*?)</script>', html).group(1))  # type: ignore[union-attr]
    assert data["records"]["captions"] == {}
    assert data["records"]["curation"]["both"]["verdict"] == "of curation"
    assert data["previews"] == ["both"]
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))

    write_pages(storage, "report/other.html", [curation, captions, *load_pages(storage)[2:]], "t")
    assert storage.read_bytes("report/other.html").decode() == html
    storage.write_bytes("report/pages/latents.json", b'{"title": "cut')
    with pytest.raises(RushesError, match=r"pages/latents\.json is not a page"):
        build_report(storage, "t")


def test_huge_texts_do_not_fill_the_report(tmp_path: Path):
    failures = [(f"s3://{'u' * 100_000}{n}", f"{'r' * 100_000}{n}") for n in range(40)]
    write_dataset(tmp_path, videos=2, failures=failures, hostile="h" * 200_000)
    _, html = page_text(Storage(tmp_path), config="c" * 3_000_000)
    assert len(html) < 6_000_000


def test_previews_play_back_what_they_were_made_of(samples: Path):
    row = {
        "clip_id": "x", "uri": str(samples / "bikes.mp4"), "width": 640, "height": 272, "start_frame": 10,
        "end_frame": 130, "start_s": 0.4, "end_s": 5.2,
    }  # fmt: skip
    asked = []

    def reader(row, frames, size) -> np.ndarray:
        asked.append((frames, size))
        ramp = np.linspace(30, 220, len(frames)).astype(np.uint8)
        return np.broadcast_to(ramp[:, None, None, None], (len(frames), *size, 3))

    data = preview(row, reader)
    ((frames, size),) = asked
    assert size == (108, 256)
    assert frames[0] > 0
    assert frames[-1] < 120
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        pictures = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
        assert float(container.duration or 0) / 1e6 == pytest.approx(2.0, abs=0.2)
    assert len(pictures) == len(frames)
    assert np.diff([picture.mean() for picture in pictures]).min() > 0
    assert encode(np.zeros((3, 33, 45, 3), np.uint8), 12.0)[4:8] == b"ftyp"


def test_real_clips_get_previews_and_others_say_why_not(tmp_path: Path, samples: Path):
    files = sorted(samples.glob("*.mp4"))[:2]
    write_dataset(tmp_path, videos=2, files=files)
    page, _ = page_text(Storage(tmp_path), amounts=Amounts(near=1, preview_seconds=30))
    assert page.previews
    rows = {
        str(n): {"clip_id": str(n), "uri": "gone", "start_frame": 0, "end_frame": 9, "start_s": 0, "end_s": 1}
        for n in (1, 2)
    }
    made = make_previews(rows, no_maker, seconds=10, max_bytes=1000)
    assert made.reasons["1"].startswith("FileNotFoundError")
    late = make_previews(rows, no_maker, seconds=-1, max_bytes=1000)
    assert "used up" in late.reasons["2"]


def test_previews_are_made_in_the_sandbox(tmp_path: Path, samples: Path):
    """Clips are made of untrusted video: a file that takes its decoder down costs a preview, not the report."""
    row = {"clip_id": "x", "start_frame": 0, "end_frame": 50, "start_s": 0, "end_s": 2, "width": 640, "height": 272}
    (tmp_path / "clip.mp4").write_bytes((samples / "bikes.mp4").read_bytes())
    row["end_frame"] = len(frame_md5(tmp_path / "clip.mp4"))
    bucket = Storage("memory://previews")
    bucket.write_bytes("media/clip.mp4", (tmp_path / "clip.mp4").read_bytes())
    local, remote = GuardedMaker(Storage(tmp_path)), GuardedMaker(bucket)
    with contextlib.closing(local), contextlib.closing(remote):
        data = local(row | {"media": "clip.mp4"})
        assert data[4:8] == b"ftyp"
        assert remote(row | {"media": "media/clip.mp4"}) == data
        assert local(row | {"uri": str(tmp_path / "clip.mp4"), "media": None}) == data
        with pytest.raises(NoPreview, match="not cut, and its source is not on this machine"):
            remote(row | {"uri": "s3://bucket/x.mp4", "media": None})
        made = make_previews({"x": row | {"media": "gone.mp4"}}, local, seconds=9, max_bytes=10**6)
        assert "cannot read gone.mp4" in made.reasons["x"]
        assert local._sandbox._helper is not None
    assert local._sandbox._helper is None


def test_a_threshold_is_the_edge_of_a_bin():
    column = Column("x", pa.float32(), "", "")
    values = np.random.default_rng(0).gamma(2, 3, 5000)
    shape = histogram(column, values, values.min(), values.max(), [Bound("x", "min", 1.37)], whole=False)
    assert np.abs(shape.edges - 1.37).min() < 1e-9
    shape.add(values, np.where(values < 1.37, DROPPED, KEPT))
    below = shape.edges[:-1] < 1.37 - 1e-9
    assert shape.counts[DROPPED][below].sum() == (values < 1.37).sum()
    assert shape.counts[KEPT][~below].sum() == (values >= 1.37).sum()
    assert shape.place(float(np.median(values))) == pytest.approx(50, abs=2)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e300, -1e300], [1e-30, 2e-30], [1.0, 2.0, np.inf, np.nan]])
def test_histograms_of_odd_values(values: list[float]):
    array = np.array(values)
    finite = array[np.isfinite(array)]
    bounds = [Bound("x", "min", 0.3), Bound("x", "max", 0.9)]
    for chosen in ([], bounds):
        shape = histogram(Column("x", pa.float64(), "", ""), finite, finite.min(), finite.max(), chosen, whole=False)
        shape.add(array, np.full(len(array), UNDECIDED))
        assert shape.measured + shape.missing == len(array)
        assert len(shape.edges) < 200
        json.dumps(shape.chart(), allow_nan=False)


def test_formats():
    assert formats.number(1234.5) == "1,234"
    assert formats.number(-0.25) == "−0.25"
    assert formats.number(0.0000123) == "1.2×10⁻⁵"
    assert formats.clock(3723.44) == "1:02:03.4"
    assert formats.share(1, 100_000) == "< 0.1 %"
    assert formats.share(99_999, 100_000) == "> 99.9 %"
    assert formats.size(18_400_000_000) == "18.4 GB"
    assert formats.duration(5400) == "1.5 h"
