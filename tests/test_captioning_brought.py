"""Captions that come with the data: layouts as their projects publish them, what is asked for, and buckets."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers_brought import Run, World, fresh_world, table, write
from moto.server import ThreadedMotoServer

from captioning.brought.bring import bring
from captioning.brought.config import BroughtConfig
from orchestration.config import load_config
from orchestration.errors import ConfigError


@pytest.fixture
def world(tmp_path):
    return fresh_world(tmp_path)


def test_sidecars_beside_the_videos(world):
    for name in ("a.mp4", "deep/b.MP4", "deep/c d.webm", "e.v1.mov"):
        world.add(name)
        write(world, name, b"video")
    write(world, "a.txt", "\ufeffa cat\nsits\n")
    write(world, "deep/b.txt", "a dog")
    write(world, "deep/c d.caption", "a cow")
    write(world, "e.v1.json", json.dumps({"key": "e", "caption": ["a hen", "a bird"], "fps": 24}))
    write(world, "README.txt", "about")
    for choice in ("auto", "sidecar"):
        brought = world.bring(**{"from": choice})
        assert world.texts(brought) == {
            "a.mp4": [["a cat\nsits"]],
            "deep/b.MP4": [["a dog"]],
            "deep/c d.webm": [["a cow"]],
            "e.v1.mov": [["a hen", "a bird"]],
        }
        assert [str(problem) for problem in brought.unmatched_captions] == ["README.txt: 'README': no such video"]
        assert brought.counts["matched"] == 4
        assert brought.lines[0] == f"captions.from sidecar: 5 text files in {world.root}, by the names of videos"


def test_a_text_and_the_metadata_beside_it_are_one_caption(world):
    """video2dataset writes key.mp4, key.txt and key.json."""
    world.add("00000/000000001.mp4")
    world.add("00000/000000002.mp4")
    write(world, "00000/000000001.txt", "a cat")
    write(world, "00000/000000001.json", json.dumps({"url": "x", "caption": "a cat", "key": "000000001"}))
    write(world, "00000/000000002.txt", "a dog")
    write(world, "00000/000000002.json", json.dumps({"url": "x", "key": "000000002"}))
    brought = world.bring()
    assert world.texts(brought) == {"00000/000000001.mp4": [["a cat"]], "00000/000000002.mp4": [["a dog"]]}
    assert brought.counts["problems"] == 0


def test_sidecars_in_a_tree_of_their_own(world, tmp_path):
    for name in ("videos/x/1.mp4", "videos/y/1.mp4", "videos/y/2.mp4"):
        world.add(name)
        write(world, f"captions/{name[7:-4]}.txt", name)
    assert world.texts(world.bring(f"{world.root}/captions")) == {
        name: [[name]] for name in ("videos/x/1.mp4", "videos/y/1.mp4", "videos/y/2.mp4")
    }


def test_prompts_and_videos_line_by_line(world):
    """finetrainers and the CogVideoX trainers; what Unicode calls a line end does not count as one."""
    for number in range(3):
        world.add(f"videos/0000{number}.mp4")
    write(world, "videos.txt", "videos/00000.mp4\r\nvideos/00001.mp4\r\nvideos/00002.mp4\r\n")
    path = write(world, "prompts.txt", "one\u2028still one\n\nthree\n")
    for where in (world.root, path):
        brought = world.bring(where)
        assert world.texts(brought) == {"videos/00000.mp4": [["one\u2028still one"]], "videos/00002.mp4": [["three"]]}
        assert [str(problem) for problem in brought.problems] == ["prompts.txt:2: the caption is empty"]
    write(world, "prompts.txt", "one\ntwo\n")
    with pytest.raises(ConfigError, match=r"videos\.txt has 3 lines and prompts\.txt 2: .* none can be trusted"):
        world.bring()


def test_open_sora(world):
    world.add("clips/a_scene-0.mp4")
    world.add("clips/b.mp4")
    rows = [
        ["path", "text", "num_frames", "height", "width", "aspect_ratio", "fps", "resolution"],
        [f"{world.root}/clips/a_scene-0.mp4", 'a "cat", sitting', 48, 720, 1280, 0.5625, 24, 921600],
        ["clips/b.mp4", "a dog", 48, 720, 1280, 0.5625, 24, 921600],
        ["clips/gone.mp4", "a cow", 48, 720, 1280, 0.5625, 24, 921600],
    ]
    write(world, "meta/train.csv", table(*rows))
    brought = world.bring()
    assert world.texts(brought) == {"clips/a_scene-0.mp4": [['a "cat", sitting']], "clips/b.mp4": [["a dog"]]}
    assert list(brought.lines) == [
        "captions.from csv: meta/train.csv: Open-Sora; path 'path', caption 'text'",
        "rows 3: 2 matched (2 by path)",
        "clips 2: 2 of 2 videos have captions",
        "captions without a clip: 1",
        "  meta/train.csv:4: 'clips/gone.mp4': no such video",
    ]
    assert brought.captions == world.bring(**{"from": "csv"}).captions


def test_open_sora_paths_of_another_machine(world):
    world.add("s/1.mp4")
    world.add("t/1.mp4")
    write(world, "t.csv", table(["path", "text"], ["/mnt/data/s/1.mp4", "a cat"], ["/mnt/data/t/1.mp4", "a dog"]))
    with pytest.raises(ConfigError, match="several videos have this name"):
        world.bring()
    texts = world.texts(world.bring(strip_prefix="/mnt/data"))
    assert texts == {"s/1.mp4": [["a cat"]], "t/1.mp4": [["a dog"]]}


PANDA = table(
    ["videoID", "url", "timestamp", "caption", "matching_score", "desirable_filtering", "shot_boundary_detection"],
    [
        "---MFzU5DTo",
        "https://www.youtube.com/watch?v=---MFzU5DTo",
        "[['0:00:00.000', '0:00:04.900'], ['0:00:05.100', '0:00:10.000'], ['0:01:30.000', '0:01:32.000']]",
        """["It's a cat.", 'A "dog", running.', 'Nobody.']""",
        "[0.4, 0.3, 0.2]",
        "['desirable', 'desirable', 'desirable']",
        "[[['0:00:00.000', '0:00:04.900']], [], []]",
    ],
    ["elsewhere00", "https://www.youtube.com/watch?v=elsewhere00", "[['0:00:00.000', '0:00:04.900']]", "['x']"],
    ["brokenlists", "", "[['0:00:00.000', '0:00:04.900']]", "['x', 'y']"],
)


def test_panda_70m(world):
    world.add("0/---MFzU5DTo.mp4", (0, 5), (5, 8), (8, 10))
    write(world, "panda70m_training_2m.csv", PANDA)
    brought = world.bring()
    assert world.texts(brought) == {"0/---MFzU5DTo.mp4": [["It's a cat."], ['A "dog", running.']]}
    assert brought.lines[0].endswith("Panda-70M; path 'videoID', caption 'caption', time spans 'timestamp'")
    assert [str(problem).split(": ", 1)[1] for problem in brought.unmatched_captions] == [
        "'elsewhere00': no such video",
        "'---MFzU5DTo': 90.00 to 92.00 s: the best clip overlaps by 0.00, see captions.min_overlap",
    ]
    assert [str(p) for p in brought.problems] == ["panda70m_training_2m.csv:4: 2 captions for 1 time spans"]
    assert brought.unmatched_clips == (world.clips[2]["clip_id"],)
    # 5.1 to 10 s and the clip 5 to 8 s share 2.9 of 5 s
    assert len(world.bring(min_overlap=0.57).captions) == 2
    assert len(world.bring(min_overlap=0.59).captions) == 1


def test_openvid(world):
    """Its `frame` and `seconds` are counts, not spans; `camera motion` is no caption."""
    world.add("celebv_--a.mp4")
    columns = ["video", "caption", "aesthetic score", "motion score", "temporal consistency score", "camera motion"]
    rows = [[*columns, "frame", "fps", "seconds"], ["celebv_--a.mp4", "a man", 5.1, 3.2, 0.98, "pan_left", 240, 24, 10]]
    write(world, "data/OpenVid-1M.csv", table(*rows))
    brought = world.bring()
    assert world.texts(brought) == {"celebv_--a.mp4": [["a man"]]}
    assert "OpenVid; path 'video', caption 'caption'" in brought.lines[0]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_hugging_face_metadata(world, kind):
    """file_name is relative to the metadata file's own folder."""
    for name in ("train/1.mp4", "test/1.mp4"):
        world.add(name)
        rows = [{"file_name": "1.mp4", "text": f"of {name}", "timestamp": "2024-01-01"}]
        target = Path(world.root) / posixpath.dirname(name) / f"metadata.{kind}"
        target.parent.mkdir()
        if kind == "csv":
            target.write_text(table(list(rows[0]), list(rows[0].values())))
        elif kind == "jsonl":
            target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), target)
    for choice in ("auto", kind):
        brought = world.bring(**{"from": choice})
        assert world.texts(brought) == {name: [[f"of {name}"]] for name in ("train/1.mp4", "test/1.mp4")}
        assert brought.lines[0] == (
            f"captions.from {kind}: test/metadata.{kind}, train/metadata.{kind}: "
            "Hugging Face metadata; path 'file_name', caption 'text'"
        )
        assert brought.counts["matched"] == 2


def test_parquet_with_videos_inside_and_lists_of_captions(world):
    world.add("1.mp4")
    rows = [{"video": {"bytes": b"0" * 1000, "path": "1.mp4"}, "caption": ["a cat", "it sits"]}, {"video": None}]
    pq.write_table(pa.Table.from_pylist(rows), Path(world.root) / "train-00000-of-00001.parquet")
    brought = world.bring()
    assert world.texts(brought) == {"1.mp4": [["a cat", "it sits"]]}
    assert [str(problem) for problem in brought.problems] == ["train-00000-of-00001.parquet:row 2: no path"]


def test_internvid_lines_and_vidgen_array(world):
    world.add("abc.mp4", (0, 5), (5, 10))
    world.add("def.mp4")
    span = {"Start_timestamp": "00:00:05.000", "End_timestamp": "00:00:09.900", "Caption": "a cat"}
    lines = write(world, "a/InternVid.jsonl", json.dumps({"YoutubeID": "abc", **span, "Aesthetic_Score": 4.1}))
    array = write(world, "b/VidGen_1M_video_caption.json", json.dumps([{"vid": "def", "caption": "a dog"}, 3]))
    brought = world.bring(lines)
    assert world.texts(brought) == {"abc.mp4": [["a cat"]]}
    assert brought.captions.keys() == {world.clips[1]["clip_id"]}
    brought = world.bring(array)
    assert world.texts(brought) == {"def.mp4": [["a dog"]]}
    assert [str(p) for p in brought.problems] == ["VidGen_1M_video_caption.json:item 2: no JSON object"]
    assert "VidGen; path 'vid', caption 'caption'" in brought.lines[0]


def test_captions_of_cut_clips_by_their_ids(world):
    world.add("a.mp4", (0, 5), (5, 10))
    ids = [clip["clip_id"] for clip in world.clips]
    write(world, f"media/{'0' * 64}/{ids[1]}.txt", "second")
    write(world, "mine.csv", table(["clip_id", "caption"], [ids[0], "first"], ["0-1-2", "nobody's"]))
    assert world.bring(**{"from": "sidecar"}).captions == {ids[1]: ("second",)}
    assert world.bring(**{"from": "csv"}).captions == {ids[0]: ("first",)}


def test_shards_of_one_table_are_one_line(world):
    for number in range(5):
        world.add(f"{number}.mp4")
        rows = [{"path": f"{number}.mp4", "caption": f"of {number}"}]
        pq.write_table(pa.Table.from_pylist(rows), Path(world.root) / f"train-{number}.parquet")
    brought = world.bring()
    assert world.texts(brought) == {f"{number}.mp4": [[f"of {number}"]] for number in range(5)}
    assert brought.lines[0] == (
        "captions.from parquet: train-0.parquet, train-1.parquet, train-2.parquet and 2 more: "
        "a table; path 'path', caption 'caption'"
    )


def test_texts_of_which_none_has_the_name_of_a_video_are_named(world):
    world.add("a.mp4")
    write(world, "caption_of_a.txt", "a cat")
    with pytest.raises(ConfigError) as caught:
        world.bring()
    assert "  caption_of_a.txt: 'caption_of_a': no such video" in str(caught.value).splitlines()
    assert f"  {world.clips[0]['clip_id']} of '{world.root}/a.mp4'" in str(caught.value).splitlines()


def test_tables_of_several_folders_do_not_share_names(world):
    """Hugging Face: `1.mp4` is in the folder of its table; the videos of one of them are not in the dataset."""
    world.add("deep/1.mp4")
    for folder in ("a", "b"):
        write(world, f"{folder}/metadata.csv", table(["file_name", "text"], ["1.mp4", f"of {folder}"]))
    with pytest.raises(ConfigError, match="captions of different paths could be of this one video"):
        world.bring()
    write(world, "deep/metadata.csv", table(["file_name", "text"], ["1.mp4", "of deep"]))
    brought = world.bring()
    assert world.texts(brought) == {"deep/1.mp4": [["of deep"]]}
    assert len(brought.unmatched_captions) == 2


# -- what is asked for --------------------------------------------------------------------------------------------


def test_columns_by_name_and_columns_that_are_unclear(world):
    world.add("a.mp4")
    rows = [["index", "file_path", "short_caption", "Dense Caption", "note"], [0, "a.mp4", "a cat", "a long cat", "n"]]
    path = write(world, "mira.csv", table(*rows))
    with pytest.raises(ConfigError) as caught:
        world.bring()
    assert str(caught.value) == (
        "mira.csv: several columns could be the caption: 'Dense Caption', 'short_caption'; "
        "name one: captions.caption_column"
    )
    assert world.texts(world.bring(caption_column="dense_caption")) == {"a.mp4": [["a long cat"]]}
    assert world.texts(world.bring(caption_column="note", path_column="file_path")) == {"a.mp4": [["n"]]}
    with pytest.raises(ConfigError, match=r"no column 'nope'; its columns are 'index', 'file_path', 'short_caption'"):
        world.bring(caption_column="nope")
    path.write_text(table(["path", "video", "text"], ["a.mp4", "a.mp4", "x"]))
    with pytest.raises(ConfigError, match=r"the path: 'path', 'video'; name one: captions\.path_column"):
        world.bring()
    path.write_text(table(["path", "text", "text"], ["a.mp4", "x", "y"]))
    with pytest.raises(ConfigError, match=r"several columns could be the caption: 'text', 'text'"):
        world.bring()


def test_two_families_are_a_question_and_an_unrelated_text_is_none(world):
    world.add("a.mp4")
    write(world, "metadata.csv", table(["file_name", "text"], ["a.mp4", "from the table"]))
    write(world, "LICENSE.txt", "free")
    assert world.texts(world.bring()) == {"a.mp4": [["from the table"]]}
    write(world, "a.txt", "from the sidecar")
    with pytest.raises(ConfigError, match=r"captions as sidecar \(a\.txt\) and csv \(metadata\.csv\); choose: "):
        world.bring()
    assert world.texts(world.bring(**{"from": "sidecar"})) == {"a.mp4": [["from the sidecar"]]}
    assert world.texts(world.bring(**{"from": "csv"})) == {"a.mp4": [["from the table"]]}


def test_nothing_found_says_what_was_looked_for_and_what_is_there(world):
    world.add("a.mp4")
    write(world, "a.mp4", b"video")
    write(world, "stats.csv", table(["path", "fps"], ["a.mp4", 24]))
    with pytest.raises(ConfigError) as caught:
        world.bring()
    message = str(caught.value)
    assert "looked for name.txt" in message
    assert "*.parquet" in message
    assert "found 1 .mp4, 1 .csv" in message
    assert "not read: stats.csv: no column for the caption (such as caption, captions, text" in message
    with pytest.raises(ConfigError, match=r"looked for \*\.parquet with the same columns as a CSV; found 1 \.mp4"):
        world.bring(**{"from": "parquet"})
    write(world, "stats.csv", table(["path", "text"]))
    with pytest.raises(ConfigError, match="no caption in"):
        world.bring()
    with pytest.raises(ConfigError, match="does not exist"):
        world.bring(f"{world.root}/nowhere")
    with pytest.raises(ConfigError, match=r"captions\.path"):
        bring(BroughtConfig(), world.videos, world.clips)


def test_no_match_shows_both_sides(world):
    world.add("a.mp4")
    write(world, "t.csv", table(["path", "text"], ["b.mp4", "x"], ["c.mp4", "y"], ["d.mp4", "y"], ["e.mp4", "y"]))
    with pytest.raises(ConfigError) as caught:
        world.bring()
    assert str(caught.value).splitlines() == [
        "captions: none of the captions found belongs to a clip",
        "captions.from csv: t.csv: Open-Sora; path 'path', caption 'text'",
        "rows 4: 0 matched",
        "clips 1: 0 of 0 videos have captions",
        "captions without a clip: 4",
        *(f"  t.csv:{line}: '{name}.mp4': no such video" for line, name in ((2, "b"), (3, "c"), (4, "d"))),
        "  and 1 more",
        "clips without a caption: 1",
        f"  {world.clips[0]['clip_id']} of '{world.root}/a.mp4'",
    ]


def test_captions_of_whole_videos(world):
    world.add("whole.mp4", (0.4, 9.9))
    world.add("cut.mp4", (0, 5), (5, 10))
    world.add("part.mp4", (0, 8.9))
    world.add("none.mp4", status="failed")
    rows = [[name, f"of {name}"] for name in ("whole.mp4", "cut.mp4", "part.mp4", "none.mp4")]
    write(world, "t.csv", table(["path", "text"], *rows))
    brought = world.bring()
    assert world.texts(brought) == {"whole.mp4": [["of whole.mp4"]]}
    assert [problem.why for problem in brought.unmatched_captions] == [
        "'cut.mp4': it is of a whole video that was cut into 2 clips, see captions.spread",
        "'part.mp4': it is of a whole video, the clip is only a part of it, see captions.spread",
        "'none.mp4': its video has no clip in the dataset",
    ]
    assert len(brought.unmatched_clips) == 3
    assert world.texts(world.bring(spread=True)) == {
        "whole.mp4": [["of whole.mp4"]],
        "cut.mp4": [["of cut.mp4"], ["of cut.mp4"]],
        "part.mp4": [["of part.mp4"]],
    }


def test_pictures_and_copies(world):
    """A picture is whole by its one frame; a duplicate's name finds the clips of the original."""
    video_id = world.add("p.jpg", (0, 0.1), duration=0.1)
    world.clips[0].update(start_s=0.0, end_s=0.0)
    world.videos[0].update(duration_s=0.0)
    world.videos.append({**world.videos[0], "uri": f"{world.root}/copy.jpg", "status": "duplicate"})
    write(world, "t.csv", table(["path", "text"], ["copy.jpg", "a"], ["p.jpg", "b"], ["p.jpg", "a"]))
    assert world.bring().captions == {f"{video_id[:16]}-0000000-0000001": ("a", "b")}


def test_settings_are_strict_and_survive_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("captions: {kind: brought, from: csv, path: s3://b/k, caption_column: text, min_overlap: 0.7}")
    loaded = load_config(Run, path)
    assert loaded.captions.family == "csv"
    path.write_text(yaml.safe_dump(loaded.model_dump(mode="json")))
    assert load_config(Run, path) == loaded
    for wrong, message in (
        ("from: xml", "'auto', 'sidecar', 'csv', 'jsonl' or 'parquet'"),
        ("form: csv", "did you mean 'from'"),
        ("min_overlap: 0", "greater than 0"),
        ('caption_column: ""', "an empty name"),
    ):
        path.write_text(f"captions: {{{wrong}}}")
        with pytest.raises(ConfigError, match=message):
            load_config(Run, path)


@pytest.fixture
def bucket(monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ACCESS_KEY_ID": "captioner",
        "AWS_SECRET_ACCESS_KEY": "canary-51c2",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="captions")
    yield client
    server.stop()


def test_a_bucket_gives_the_same_captions_as_a_folder(bucket, tmp_path):
    local, remote = World(tmp_path / "raw"), World("s3://captions/raw")
    for name in ("a.mp4", "deep/b [1].mp4", "deep/c.mp4"):
        local.add(name)
        remote.add(name)
        write(local, f"sidecars/{name[:-4]}.txt", f"sidecar of {name}")
    rows = [{"file_name": f"../{video['uri'][len(local.root) + 1 :]}", "text": "table"} for video in local.videos]
    write(local, "tables/metadata.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write(local, "tables/metadata.csv", table(list(rows[0]), *(list(row.values()) for row in rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw" / "tables" / "metadata.parquet")
    write(local, "lists/videos.txt", "a.mp4\ndeep/c.mp4\n")
    write(local, "lists/prompts.txt", "one\ntwo\n")
    for path in Path(local.root).rglob("*"):
        if path.is_file():
            bucket.upload_file(str(path), "captions", f"raw/{path.relative_to(local.root)}")
    bucket.put_object(Bucket="captions", Key="raw/sidecars/empty.txt", Body=b"")
    write(local, "sidecars/empty.txt", "")
    local.add("empty.mp4")
    remote.add("empty.mp4")
    for folder, choice in (
        ("sidecars", "auto"),
        ("tables", "csv"),
        ("tables", "jsonl"),
        ("tables", "parquet"),
        ("tables/*.csv", "auto"),
        ("tables/metadata.parquet", "auto"),
        ("lists/prompts.txt", "auto"),
    ):
        here = local.bring(f"{local.root}/{folder}", **{"from": choice})
        there = remote.bring(f"s3://captions/raw/{folder}", **{"from": choice})
        assert there.captions == here.captions
        assert there.counts == here.counts
        assert there.problems == here.problems
        assert [line.replace(remote.root, local.root) for line in there.lines] == list(here.lines)
        mixed = World("s3://captions/raw")  # the captions here, the videos there
        mixed.videos, mixed.clips = remote.videos, remote.clips
        assert mixed.bring(f"{local.root}/{folder}", **{"from": choice}).captions == here.captions
    assert len(here.captions) == 2
    with pytest.raises(ConfigError, match="nosuchbucket"):
        remote.bring("s3://nosuchbucket/captions.csv")
