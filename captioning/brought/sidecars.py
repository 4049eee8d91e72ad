"""Captions in a file a video (name.txt, name.caption, name.json), and lists by line: prompts.txt with videos.txt."""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Callable, Iterator

from captioning.brought.columns import caption_key
from captioning.brought.config import BroughtConfig
from captioning.brought.files import Files, address, label, read_small, sibling, suffix
from captioning.brought.rows import Problem, Row, RowError, caption_texts, make_row
from curation.ingest import Listed
from orchestration.errors import ConfigError

VIDEO_LISTS = ("videos.txt", "video.txt")
CAPTION_LISTS = ("prompts.txt", "prompt.txt", "captions.txt")
MAX_LIST = 512 * 2**20
GROUP = "sidecars"


def pair_lists(files: Files) -> list[tuple[Listed, Listed]]:
    """(list of videos, list of captions) in each folder that has both."""
    places = {address(item.uri): item for item in files.sidecars}
    pairs = []
    for folder in dict.fromkeys(posixpath.dirname(place) for place in places):
        videos, captions = (
            next((places[place] for name in names if (place := f"{folder}/{name}") in places), None)
            for names in (VIDEO_LISTS, CAPTION_LISTS)
        )
        if files.suffixes.total() == 1:  # captions.path names one of the two
            videos = videos or (captions and sibling(captions, VIDEO_LISTS))
            captions = captions or (videos and sibling(videos, CAPTION_LISTS))
        if videos and captions:
            pairs.append((videos, captions))
    return pairs


def list_rows(videos: Listed, captions: Listed, root: str) -> Iterator[Row | Problem]:
    """Line N of one belongs to line N of the other. Raises ConfigError where they have not equally many lines."""
    names = [label(videos, root), label(captions, root)]
    texts = []
    for name, (_, data) in zip(names, read_small([videos, captions], MAX_LIST), strict=True):
        if isinstance(data, str):
            raise ConfigError(f"captions: {name}: {data}")
        # Line feeds only: what else Unicode calls the end of a line may be inside a caption.
        lines = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape").split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        texts.append(lines)
    if len(texts[0]) != len(texts[1]):
        raise ConfigError(
            f"captions: {names[0]} has {len(texts[0]):,} lines and {names[1]} {len(texts[1]):,}: line by line they "
            "belong together, so that none can be trusted; make them equally long"
        )
    folder = posixpath.dirname(address(videos.uri))
    for number, (name, text) in enumerate(zip(*texts, strict=True), 1):
        place = f"{names[1]}:{number}"
        try:
            row = make_row(names[0], place, folder, name.strip(), [text])
        except RowError as error:
            yield Problem(place, str(error))
        else:
            yield row


def sidecar_rows(
    files: Files, config: BroughtConfig, skip: set[str], known: Callable[[Row], bool]
) -> Iterator[Row | Problem]:
    """A row a sidecar. Only those whose video is known are read; the others come without text.

    skip: uris of files that are no sidecars (lists). known: whether a row's name is a video's.
    """
    items = [item for item in files.sidecars if item.uri not in skip]
    texts = {posixpath.splitext(address(item.uri))[0] for item in items if suffix(item.uri) != "json"}
    for known_ones, group in itertools.groupby(
        ((item, row) for item in items for row in [_named(item, files.root)]), key=lambda pair: known(pair[1])
    ):
        pairs = list(group)
        if not known_ones:
            yield from (row for _, row in pairs)
            continue
        for (_, row), (item, data) in zip(pairs, read_small([item for item, _ in pairs]), strict=True):
            try:
                caption = _caption(item, data, config, row.where)
                if caption is None and row.name in texts:
                    continue  # metadata beside a text
                texts_of = caption_texts(caption)
            except RowError as error:
                yield Problem(row.where, str(error))
            else:
                yield Row(GROUP, row.where, row.folder, row.name, texts_of, sidecar=True)


def _named(item: Listed, root: str) -> Row:
    place = address(item.uri)
    return Row(GROUP, label(item, root), posixpath.dirname(place), posixpath.splitext(place)[0], (), sidecar=True)


def _caption(item: Listed, data: bytes | str, config: BroughtConfig, name: str) -> str | list[str] | None:
    if isinstance(data, str):
        raise RowError(data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RowError("not UTF-8") from error
    if suffix(item.uri) != "json":
        return [text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RowError("no JSON object")
    key = caption_key(list(value), config, name)
    return value[key] if key else None
