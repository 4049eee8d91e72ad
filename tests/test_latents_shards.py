"""Shards and their indexes: the bytes, what other readers make of them, and what is refused when they are damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers_shards import BUCKET, OTHER, SET, keys, make, put, same, sample, shard_path, tar_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latents.dataset import LatentDataset
from latents.index import BucketIndex, LatentSet, index_bytes, parse_index, place, read_index, shard_name, write_index
from latents.shard import (
    BLOCK,
    END,
    MAX_FACTS,
    ShardEntry,
    ShardError,
    canonical,
    padded,
    parse_sample,
    parse_tensors,
    span,
    write_shard,
)
from latents.verify import verify
from orchestration.storage import Storage

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int32]


@st.composite
def contents(draw):
    names = draw(
        st.lists(st.from_regex(r"[a-z_][a-z0-9_.]{0,20}", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    tensors = {}
    for name in names:
        shape = draw(st.lists(st.integers(1, 5), max_size=4))
        dtype = draw(st.sampled_from(TYPES))
        tensors[name] = torch.randint(-(2**15), 2**15, shape, dtype=torch.int32).to(dtype)
    values = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    nested = st.recursive(values | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
    return tensors, draw(st.dictionaries(st.text(), nested, max_size=4))


def read_all(data: bytes, entry: ShardEntry):
    spans = span(entry.tensors_bytes, entry.facts_bytes)
    for number, key in enumerate(entry.keys):
        start = int(entry.tensors_at[number]) - BLOCK
        part = bytearray(data[start : start + spans[number]])
        assert hashlib.sha256(part).digest() == entry.digests[number].tobytes()
        yield key, *parse_sample(part, key, int(entry.tensors_bytes[number]), int(entry.facts_bytes[number]))


@settings(max_examples=40, deadline=None)
@given(st.lists(contents(), min_size=1, max_size=4))
def test_what_is_written_is_read_and_equal_samples_are_equal_bytes(samples):
    given_ = [(f"k-{n}", tensors, {**facts, "key": f"k-{n}"}) for n, (tensors, facts) in enumerate(samples)]
    file, again = io.BytesIO(), io.BytesIO()
    entry = write_shard(file, "name.tar", given_)
    shuffled = [(key, dict(reversed(tensors.items())), dict(reversed(facts.items()))) for key, tensors, facts in given_]
    write_shard(again, "name.tar", shuffled)
    data = file.getvalue()
    assert data == again.getvalue()
    assert (entry.bytes, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    found = list(read_all(data, entry))
    assert len(found) == len(given_)
    for (key, tensors, facts), (key_, tensors_, facts_) in zip(given_, found, strict=True):
        assert key == key_
        assert same(tensors, tensors_)
        assert canonical(facts) == canonical(facts_)


def test_bytes_of_a_shard_are_these():
    """Whatever the version of Python and its libraries: shards of different machines are compared."""
    file = io.BytesIO()
    tensors = {"mean": torch.arange(24).view(1, 2, 3, 4).float(), "text.0.tokens": torch.tensor(7, dtype=torch.int32)}
    entry = write_shard(file, "x.tar", [("clip-w0", tensors, {"key": "clip-w0", "score": 0.1, "text": "naïve"})])
    assert entry.sha256 == "f01da7b3fd6f999d18cf1570c96d6a5e0724a63e780899c5fe8428e1847fd3b4"
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        first, second = tar.getmembers()
        assert (first.name, second.name) == ("clip-w0.safetensors", "clip-w0.json")
        assert {(each.mtime, each.uid, each.gid, each.mode, each.uname) for each in (first, second)} == {
            (0, 0, 0, 0o644, "")
        }
        assert (entry.tensors_at[0], entry.facts_at[0]) == (first.offset_data, second.offset_data)
        assert tar.extractfile(second).read() == '{"key":"clip-w0","score":0.1,"text":"naïve"}'.encode()


@pytest.mark.parametrize(
    ("key", "tensors", "facts"),
    [
        ("a.b", {"mean": torch.ones(1)}, {"key": "a.b"}),
        ("../a", {"mean": torch.ones(1)}, {"key": "../a"}),
        ("", {"mean": torch.ones(1)}, {"key": ""}),
        ("-a", {"mean": torch.ones(1)}, {"key": "-a"}),
        ("a" * 81, {"mean": torch.ones(1)}, {"key": "a" * 81}),
        ("a", {"mean": torch.ones(1)}, {"key": "b"}),
        ("a", {"mean": torch.ones(1)}, {"key": "a", "score": float("nan")}),
        ("a", {"mean": torch.ones(1)}, {"key": "a", "text": "x" * MAX_FACTS}),
        ("a", {"mean": torch.ones(1, dtype=torch.float64)}, {"key": "a"}),
        ("a", {"mean": torch.ones(0)}, {"key": "a"}),
        ("a", {"me/an": torch.ones(1)}, {"key": "a"}),
        ("a", {}, {"key": "a"}),
    ],
)
def test_what_no_reader_takes_is_not_written(key, tensors, facts):
    with pytest.raises(ValueError, match=r"."):
        write_shard(io.BytesIO(), "x.tar", [(key, tensors, facts)])


def test_a_shard_has_samples_with_keys_of_their_own():
    for samples in ([], [sample("a"), sample("a")]):
        with pytest.raises(ValueError, match="of its own"):
            write_shard(io.BytesIO(), "x.tar", samples)


def test_halves_of_one_tensor_and_views_can_be_written():
    moments = torch.randn(8, 5, 6, 4)
    mean, logvar = moments.chunk(2)
    file = io.BytesIO()
    entry = write_shard(file, "x.tar", [("a", {"mean": mean, "logvar": logvar.transpose(2, 3)}, {"key": "a"})])
    ((_, tensors, _),) = read_all(file.getvalue(), entry)
    assert same(tensors, {"mean": mean, "logvar": logvar.transpose(2, 3).contiguous()})


def header_of(described: object, content: bytes, length: int | None = None) -> bytearray:
    head = json.dumps(described).encode()
    head += b" " * (-len(head) % 8)
    return bytearray((len(head) if length is None else length).to_bytes(8, "little") + head + content)


def one(**changed):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed}


@pytest.mark.parametrize(
    "data",
    [
        bytearray(),
        bytearray(7),
        bytearray(8),
        header_of(one(), bytes(8), 2**60),
        header_of(one(), bytes(7)),
        header_of(one(), bytes(9)),
        header_of(one(shape=[3]), bytes(8)),
        header_of(one(shape=[-1, -2]), bytes(8)),
        header_of(one(shape=[2**40, 2**40]), bytes(8)),
        header_of(one(shape=[0], data_offsets=[0, 0]), b""),
        header_of(one(shape=[True, 2]), bytes(8)),
        header_of(one(shape=[2.0]), bytes(8)),
        header_of(one(shape="2"), bytes(8)),
        header_of(one(shape=[1] * 9, data_offsets=[0, 4]), bytes(4)),
        header_of(one(data_offsets=[8, 0]), bytes(8)),
        header_of(one(data_offsets=[-8, 0]), bytes(8)),
        header_of(one(data_offsets=[8, 16]), bytes(16)),
        header_of(one(data_offsets=[0, 8, 16]), bytes(8)),
        header_of(one(dtype="F64", shape=[1]), bytes(8)),
        header_of(one(dtype="O"), bytes(8)),
        header_of(one(dtype=["F32"]), bytes(8)),
        header_of(one(more=1), bytes(8)),
        header_of({"a": None}, b""),
        header_of({"": one()["a"]}, bytes(8)),
        header_of({"../a": one()["a"]}, bytes(8)),
        header_of(one() | {"b": one()["a"]}, bytes(8)),  # the same bytes twice
        header_of(one() | {"b": one(data_offsets=[4, 12])["a"]}, bytes(12)),
        header_of([], b""),
        header_of(1, b""),
        bytearray(b"\2\0\0\0\0\0\0\0{]"),
        bytearray((200_000).to_bytes(8, "little") + b"[" * 200_000),
        bytearray(pickle.dumps({"a": 1})),
    ],
)
def test_tensors_that_are_not_exactly_that_are_refused(data):
    with pytest.raises(ValueError, match=r"."):
        parse_tensors(data)


def test_a_name_twice_in_the_header_is_refused():
    entry = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    head = f"{{{entry},{entry}}}".encode()
    with pytest.raises(ValueError, match="twice"):
        parse_tensors(bytearray(len(head).to_bytes(8, "little") + head + bytes(8)))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_damaged_tensors_are_refused_or_read_as_the_library_reads_them(data):
    tensors, _ = data.draw(contents())
    packed = bytearray(safetensors.torch.save(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, min(len(packed) - 1, 200)))] = data.draw(st.integers(0, 255))
    try:
        found = parse_tensors(bytearray(packed))
    except ValueError:
        return
    assert same(found, safetensors.torch.load(bytes(packed)))


@settings(max_examples=40, deadline=None)
@given(contents())
@example(({"a": torch.tensor(5, dtype=torch.int32)}, {}))
def test_tensors_are_read_as_the_library_reads_them(content):
    packed = safetensors.torch.save(content[0])
    assert same(parse_tensors(bytearray(packed)), safetensors.torch.load(packed))


# Other readers


def test_webdataset_reads_the_same(tmp_path):
    import webdataset

    make(tmp_path, shards=2)
    urls = [str(shard_path(tmp_path, shard)) for shard in range(2)]
    read = webdataset.WebDataset(urls, shardshuffle=False).decode()
    found = {each["__key__"]: (safetensors.torch.load(each["safetensors"]), each["json"]) for each in read}
    ours = LatentDataset(tmp_path)
    assert list(found) == [key for shard in range(2) for key in keys(shard, 4)]
    for number, (key, (tensors, facts)) in enumerate(found.items()):
        mine = ours[number]
        assert facts == mine.facts
        assert same(tensors, sample(key)[1])
        assert mine.mean.equal(tensors["mean"])


def test_datasets_reads_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    make(tmp_path, shards=2)
    files = [str(shard_path(tmp_path, shard)) for shard in range(2)]
    read = datasets.load_dataset(
        "webdataset", data_files={"train": files}, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["__key__"] for row in read] == [key for shard in range(2) for key in keys(shard, 4)]
    for row in read:
        _, tensors, facts = sample(row["__key__"])
        assert same(safetensors.torch.load(row["safetensors"]), tensors)
        assert row["json"] == facts


# The index


def test_index_is_read_as_it_was_written_and_is_plain_json(tmp_path):
    index = make(tmp_path)
    text = (tmp_path / place(BUCKET)).read_bytes()
    assert index_bytes(read_index(Storage(tmp_path), BUCKET)) == text == index_bytes(index)
    plain = json.loads(text)
    assert plain["format"] == "rushes-latents-1"
    assert plain["samples"] == 12
    shard = plain["sets"][SET]["shards"][1]
    with tarfile.open(shard_path(tmp_path, 1)) as tar:
        members = {member.name: member for member in tar}
    for number, key in enumerate(shard["keys"]):
        for member, suffix in (("tensors", "safetensors"), ("facts", "json")):
            there = members[f"{key}.{suffix}"]
            assert (shard[member]["at"][number], shard[member]["bytes"][number]) == (there.offset_data, there.size)
    assert hashlib.sha256(shard_path(tmp_path, 1).read_bytes()).hexdigest() == shard["sha256"]


def test_index_of_a_thousand_shards_is_read_about_as_fast_as_its_json():
    """0.2 s for 100,000 samples on an idle machine, a quarter of it for the JSON; a busy one slows both down."""
    fixed = np.random.default_rng(0)
    entries = []
    for number in range(1000):
        tensors, facts = fixed.integers(2_000_000, 3_000_000, 100), fixed.integers(500, 3000, 100)
        ends = np.cumsum(span(tensors, facts))
        begins = np.concatenate([[0], ends[:-1]])
        offsets = (begins + BLOCK, tensors, begins + 2 * BLOCK + padded(tensors), facts)
        digests = fixed.integers(0, 256, (100, 32), dtype=np.uint8)
        size = int(ends[-1]) + len(END)
        entries.append(ShardEntry(shard_name(SET, number), size, "0" * 64, tuple(keys(number, 100)), *offsets, digests))
    data = index_bytes(BucketIndex(BUCKET, {SET: LatentSet({}, None, tuple(entries))}))

    def seconds(read) -> float:
        began = time.process_time()
        read()
        return time.process_time() - began

    rounds = [
        (seconds(lambda: parse_index(data, BUCKET, "index.json")), seconds(lambda: json.loads(data))) for _ in range(5)
    ]
    ours, plain = (min(column) for column in zip(*rounds, strict=True))
    assert ours < 10 * plain


def resealed(text: bytes) -> bytes:
    """An index with a right checksum, as someone who means harm would write it."""
    body = text[: text.rindex(b',"sha256":"')]
    return body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}\n'


def shard_of(found):
    return found["sets"][SET]["shards"][0]


def change_number(member, field, number, value):
    def change(found):
        shard_of(found)[member][field][number] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: shard_of(found).update(name="../../escape.tar"), "no name of a shard"),
        (lambda found: shard_of(found).update(name="/etc/passwd"), "no name of a shard"),
        (lambda found: shard_of(found).update(name="http://example.org/a.tar"), "no name of a shard"),
        (lambda found: shard_of(found).update(name=f"{OTHER}-000000.tar"), "no name of a shard"),
        (lambda found: shard_of(found).update(name=f"{SET}-000000.tar\n"), "no name of a shard"),
        (lambda found: shard_of(found).update(name=None), "no index"),
        (lambda found: shard_of(found).update(name=f"{SET}-000001.tar"), "twice"),
        (lambda found: shard_of(found).update(bytes=1), "do not fill"),
        (lambda found: shard_of(found).update(sha256="0"), "SHA-256"),
        (lambda found: shard_of(found)["keys"].__setitem__(0, "../a"), "no key"),
        (lambda found: shard_of(found)["keys"].__setitem__(0, "a.pkl"), "no key"),
        (lambda found: shard_of(found)["keys"].__setitem__(0, 5), "no index"),
        (lambda found: shard_of(found)["keys"].__setitem__(0, keys(1, 1)[0]), "twice"),
        (lambda found: shard_of(found)["keys"].pop(), "one number a sample"),
        (lambda found: shard_of(found)["digests"].pop(), "one SHA-256 a sample"),
        (lambda found: shard_of(found)["digests"].__setitem__(0, "zz"), "one SHA-256 a sample"),
        (change_number("tensors", "at", 0, -512), "overlap"),
        (change_number("tensors", "at", 1, 512), "overlap"),
        (change_number("facts", "at", 0, 2**50), "overlap"),
        (change_number("tensors", "bytes", 0, 10**12), "cannot be"),
        (change_number("tensors", "bytes", 0, 10**30), "one number a sample"),
        (change_number("tensors", "bytes", 0, -1), "cannot be"),
        (change_number("facts", "bytes", 0, MAX_FACTS + 1), "cannot be"),
        (change_number("facts", "bytes", 0, 1.5), "one number a sample"),
        (change_number("facts", "bytes", 0, "7"), "one number a sample"),
        (lambda found: found.update(samples=13), "13 samples"),
        (lambda found: found.update(bucket="17x64x97"), "of the bucket"),
        (lambda found: found.update(format="rushes-latents-2"), "format"),
        (lambda found: found["sets"].update({"x": found["sets"][SET]}), "fingerprint"),
        (lambda found: found["sets"][SET]["empty"].update(name="../../etc/passwd"), "empty caption"),
        (lambda found: found["sets"][SET].update(encoder=[]), "encoder"),
        (lambda found: found["sets"][SET].pop("shards"), "no index"),
        (lambda found: found.update(sets=[]), "no index"),
    ],
)
def test_an_index_that_cannot_be_is_refused(tmp_path, change, words):
    make(tmp_path)
    path = tmp_path / place(BUCKET)
    found = json.loads(path.read_bytes())
    change(found)
    path.write_bytes(resealed(canonical(found) + b"\n"))
    with pytest.raises(ShardError, match=words) as caught:
        LatentDataset(tmp_path)
    assert str(path) in str(caught.value)
    assert [problem.file for problem in verify(Storage(tmp_path))] == [place(BUCKET)]


def test_every_flipped_bit_of_an_index_is_noticed(tmp_path):
    make(tmp_path)
    data = (tmp_path / place(BUCKET)).read_bytes()
    fixed = random.Random(0)
    for at in fixed.sample(range(len(data)), 300):
        damaged = bytearray(data)
        damaged[at] ^= 1 << fixed.randrange(8)
        with pytest.raises(ShardError):
            parse_index(bytes(damaged), BUCKET, "index.json")
    for size in (0, 1, len(data) // 2, len(data) - 1):
        with pytest.raises(ShardError):
            parse_index(data[:size], BUCKET, "index.json")


def test_nothing_is_published_that_no_reader_believes(tmp_path):
    index = make(tmp_path)
    entry = index.sets[SET].shards[0]
    wrong = dataclasses.replace(entry, bytes=entry.bytes + 512)
    sets = {SET: dataclasses.replace(index.sets[SET], shards=(wrong,))}
    before = (tmp_path / place(BUCKET)).read_bytes()
    with pytest.raises(ShardError, match="do not fill"):
        write_index(Storage(tmp_path), dataclasses.replace(index, sets=sets))
    assert (tmp_path / place(BUCKET)).read_bytes() == before


# Damage, as verify and the reader see it


def problems(root: Path) -> list[tuple[str, str | None, str]]:
    return [(Path(problem.file).name, problem.key, problem.what) for problem in verify(Storage(root))]


def test_whole_latents_have_no_problems(tmp_path):
    make(tmp_path)
    make(tmp_path, "1x64x64", captions=0, first=50)
    assert verify(Storage(tmp_path)) == []
    assert verify(Storage(tmp_path), BUCKET) == []


def test_every_flipped_bit_of_a_shard_is_noticed(tmp_path):
    make(tmp_path, shards=1)
    path = shard_path(tmp_path)
    whole = path.read_bytes()
    entry = read_index(Storage(tmp_path), BUCKET).sets[SET].shards[0]
    begins = (entry.tensors_at - BLOCK).tolist()
    fixed = random.Random(1)
    heads = [start + fixed.randrange(BLOCK) for start in begins for _ in range(4)]
    facts = [int(at) + fixed.randrange(int(size)) for at, size in zip(entry.facts_at, entry.facts_bytes, strict=True)]
    anywhere = fixed.sample(range(len(whole)), 40)
    for at in (*heads, *facts, *anywhere, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << fixed.randrange(8)
        path.write_bytes(damaged)
        hit = sum(at >= start for start in begins) - 1
        found, data = problems(tmp_path), LatentDataset(tmp_path)
        assert found
        assert {file for file, _, _ in found} == {path.name}
        for number, key in enumerate(entry.keys):
            if number == hit and at < len(whole) - len(END):
                assert (path.name, key) in {(file, key_) for file, key_, _ in found}
                with pytest.raises(ShardError, match="SHA-256") as caught:
                    data[number]
                assert path.name in str(caught.value)
                assert key in str(caught.value)
                assert "rushes latents verify" in str(caught.value)
            else:
                data[number]


@pytest.mark.parametrize("size", [0, 100, 5000, -1024, -1])
def test_a_cut_shard_is_refused(tmp_path, size):
    make(tmp_path)
    path = shard_path(tmp_path, 1)
    data = path.read_bytes()
    path.write_bytes(data[:size])
    found = problems(tmp_path)
    assert {file for file, _, _ in found} == {path.name}
    assert any("bytes, the index says" in what for _, _, what in found)
    if size >= 0:
        assert any("is cut here" in what and key for _, key, what in found)
    samples = LatentDataset(tmp_path)
    samples[0]
    with pytest.raises(ShardError, match="is cut") as caught:
        samples[4]
    assert path.name in str(caught.value)
    assert keys(1, 1)[0] in str(caught.value)
    with pytest.raises(ShardError, match="is cut"):
        list(samples.stream(range(12)))


def test_a_missing_shard_is_refused(tmp_path):
    make(tmp_path)
    shard_path(tmp_path, 2).unlink()
    assert problems(tmp_path) == [(f"{SET}-000002.tar", None, "the shard is missing, with 4 samples")]
    (problem,) = verify(Storage(tmp_path))
    assert str(problem) == f"latents/{BUCKET}/{SET}-000002.tar: the shard is missing, with 4 samples"
    assert str(dataclasses.replace(problem, key="k")).startswith(f"latents/{BUCKET}/{SET}-000002.tar, sample k: ")
    with pytest.raises(ShardError, match=rf"{SET}-000002.tar, sample {keys(2, 1)[0]}: the shard is missing"):
        LatentDataset(tmp_path)[8]


def test_shards_that_changed_places_are_refused(tmp_path):
    make(tmp_path)
    one, other = shard_path(tmp_path, 0), shard_path(tmp_path, 1)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    found = problems(tmp_path)
    assert {file for file, _, _ in found} == {one.name, other.name}
    assert {key for file, key, _ in found if file == one.name} >= set(keys(0, 4))
    assert any(f"does not name the member '{keys(1, 1)[0]}.safetensors'" in what for _, _, what in found)
    with pytest.raises(ShardError, match="SHA-256"):
        LatentDataset(tmp_path)[0]


def test_files_that_no_index_names_and_missing_indexes_are_named(tmp_path):
    make(tmp_path)
    make(tmp_path, "1x64x64", first=50)
    stray = tmp_path / "latents" / BUCKET / f"{SET}-000009.tar"
    stray.write_bytes(shard_path(tmp_path).read_bytes())
    (tmp_path / place("1x64x64")).unlink()
    found = problems(tmp_path)
    assert [(file, what.partition(":")[0]) for file, _, what in found] == [
        ("index.json", "missing"),
        (stray.name, "no index names it"),
    ]
    assert [problem.file for problem in verify(Storage(tmp_path), BUCKET)] == [f"latents/{BUCKET}/{stray.name}"]
    assert verify(Storage(tmp_path / "nothing"))[0].what == "no folder of any bucket"


def test_the_empty_captions_file_is_verified(tmp_path):
    make(tmp_path)
    text, tokens = LatentDataset(tmp_path).empty_text()
    assert text.equal(torch.ones(12, 16))
    assert tokens == 1
    path = tmp_path / "latents" / f"{SET}-empty.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert [(file, "SHA-256" in what) for file, _, what in problems(tmp_path)] == [(path.name, True)]
    with pytest.raises(ShardError, match=path.name):
        LatentDataset(tmp_path).empty_text()
    path.unlink()
    assert [(file, "missing" in what) for file, _, what in problems(tmp_path)] == [(path.name, True)]


class Bomb:
    """Loading its pickle leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def rewritten(root: Path, members: list[tuple[str, bytes]], **changed) -> None:
    """Shard 0 becomes a tar of these members, and the index says what is changed of its entry and is sealed anew."""
    data = tar_of(members)
    shard_path(root).write_bytes(data)
    path = root / place(BUCKET)
    found = json.loads(path.read_bytes())
    shard_of(found).update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **changed)
    path.write_bytes(resealed(canonical(found) + b"\n"))


def members_of(root: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(shard_path(root)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def test_a_pickle_that_the_index_does_not_name_is_named_and_not_run(tmp_path):
    make(tmp_path)
    trap = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(trap))
    key = keys(0, 1)[0]
    for name in (f"{key}.pkl", f"{key}.pyd", "../../escape.json", "/etc/cron.d/x"):
        make(tmp_path)
        shard_path(tmp_path).write_bytes(tar_of([*members_of(tmp_path), (name, bomb)]))
        found = problems(tmp_path)
        about = [(key_, what) for _, key_, what in found if repr(name) in what]
        expected = "could run code" if name.startswith(key) else "do not extract"
        assert [(key_ if expected.startswith("could") else key, expected in what) for key_, what in about] == [
            (key, True)
        ]
        with pytest.raises(ShardError, match="another") as caught:
            LatentDataset(tmp_path)[0]
        assert shard_path(tmp_path).name in str(caught.value)
        assert key in str(caught.value)
    assert not trap.exists()
    pickle.loads(bomb)  # the trap works
    assert trap.exists()


@pytest.mark.parametrize("place_of", ["tensors", "facts"])
def test_a_pickle_in_the_place_of_a_member_is_refused_whatever_the_index_says(tmp_path, place_of):
    """Index, checksums and sizes all agree: somebody means harm."""
    make(tmp_path, shards=1, samples=1)
    trap = tmp_path / "ran"
    bomb = pickle.dumps(Bomb(trap))
    (key,) = keys(0, 1)
    (_, packed), (_, facts) = members_of(tmp_path)
    for suffix in ("pkl", "npy", "safetensors" if place_of == "tensors" else "json"):
        make(tmp_path, shards=1, samples=1)
        if place_of == "tensors":
            members = [(f"{key}.{suffix}", bomb), (f"{key}.json", facts)]
        else:
            members = [(f"{key}.safetensors", packed), (f"{key}.{suffix}", bomb)]
        hostile(tmp_path, key, members)
        with pytest.raises(ShardError) as caught:
            LatentDataset(tmp_path)[0]
        assert f"{SET}-000000.tar, sample {key}" in str(caught.value)
        assert problems(tmp_path)[0][:2] == (f"{SET}-000000.tar", key)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "other.safetensors", "a\\b.json"])
def test_a_name_that_leads_elsewhere_is_refused_whatever_the_index_says(tmp_path, name):
    make(tmp_path, shards=1, samples=1)
    (key,) = keys(0, 1)
    (_, packed), (_, facts) = members_of(tmp_path)
    hostile(tmp_path, key, [(name, packed), (f"{key}.json", facts)])
    with pytest.raises(ShardError, match="the index and the shard differ") as caught:
        LatentDataset(tmp_path)[0]
    assert f"{SET}-000000.tar, sample {key}" in str(caught.value)
    found = problems(tmp_path)
    assert found[0][:2] == (f"{SET}-000000.tar", key)
    assert any(repr(name) in what for _, _, what in found)


def hostile(root: Path, key: str, members: list[tuple[str, bytes]]) -> None:
    """A shard of one sample made of these two members, and an index that says it is all right."""
    data = tar_of(members)
    first, second = (len(content) for _, content in members)
    size = span(first, second)
    data = data[:size] + END
    shard_path(root).write_bytes(data)
    path = root / place(BUCKET)
    found = json.loads(path.read_bytes())
    shard_of(found).update(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        keys=[key],
        tensors={"at": [BLOCK], "bytes": [first]},
        facts={"at": [2 * BLOCK + padded(first)], "bytes": [second]},
        digests=[hashlib.sha256(data[:size]).hexdigest()],
    )
    path.write_bytes(resealed(canonical(found) + b"\n"))


@pytest.mark.parametrize(
    "facts",
    [b"[]", b"{}", b'{"key":"other"}', b"NaN", b"[" * 100_000, b"\xff", b'{"key":' + b"9" * 5000 + b"}"],
)
def test_facts_that_are_not_about_the_sample_are_refused(tmp_path, facts):
    make(tmp_path, shards=1, samples=1)
    (key,) = keys(0, 1)
    (name, packed), _ = members_of(tmp_path)
    hostile(tmp_path, key, [(name, packed), (f"{key}.json", facts)])
    with pytest.raises(ShardError, match=rf"{key}.json is not"):
        LatentDataset(tmp_path)[0]
    assert problems(tmp_path)[0][1] == key


def changed(**tensors: torch.Tensor | None):
    """A sample with other tensors; None takes one away."""
    key, there, facts = sample(keys(0, 2)[1])
    kept = {name: tensor for name, tensor in (there | tensors).items() if tensor is not None}
    return key, kept, facts


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (changed(mean=torch.ones(4, 5, 8, 11), logvar=None), "not those of"),
        (changed(mean=torch.ones(4, 6, 8, 12), logvar=None), "not those of"),
        (changed(mean=torch.ones(4, 5, 8)), "four dimensions"),
        (changed(mean=None), "no mean"),
        (changed(logvar=torch.ones(4, 5, 8, 11)), "differ in shape"),
        (changed(logvar=None), "differ from"),
        (changed(mean=torch.ones(4, 5, 8, 12)), "differ from"),
        (changed(mean=torch.full((4, 5, 8, 12), torch.nan).bfloat16()), "not finite"),
        (changed(**{"text.1": None, "text.1.tokens": None}), "2 captions and 1 embeddings"),
        (changed(**{"text.1.tokens": None}), "it holds"),
        (changed(**{"text.0": None}), "it holds"),
        (changed(**{"text.0.tokens": torch.tensor(13, dtype=torch.int32)}), "13 real tokens"),
        (changed(surprise=torch.ones(1)), "it holds"),
    ],
)
def test_content_that_does_not_belong_into_the_bucket_is_named(tmp_path, wrong, words):
    make(tmp_path, shards=1, samples=1)
    storage = Storage(tmp_path)
    index = read_index(storage, BUCKET)
    entry = put(storage, BUCKET, shard_name(SET, 0), [sample(keys(0, 1)[0]), wrong])
    sets = {SET: dataclasses.replace(index.sets[SET], shards=(entry,))}
    write_index(storage, dataclasses.replace(index, sets=sets))
    found = problems(tmp_path)
    assert [(file, key) for file, key, _ in found] == [(entry.name, wrong[0])]
    assert words in found[0][2]


def test_the_same_sample_in_two_buckets_is_named(tmp_path):
    make(tmp_path, shards=1, samples=1)
    make(tmp_path, "1x64x64", shards=1, samples=1)
    assert [(file, key) for file, key, _ in problems(tmp_path)] == [("index.json", keys(0, 1)[0])]
