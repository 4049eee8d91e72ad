"""Which column of a table is the video, which the caption, which the time span: told from their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from captioning.brought.config import BroughtConfig
from orchestration.errors import ConfigError

PATHS = (
    *("file_name", "filename", "file_path", "filepath", "path", "video", "video_path", "video_name", "video_file"),
    *("video_file_name", "videoid", "youtubeid", "vid", "media", "image", "image_path"),
)
NAMES = ("video_id", "clip_id", "id", "key", "name", "uri", "url")  # where there is none of the above
CAPTIONS = (
    *("caption", "captions", "text", "texts", "prompt", "prompts", "cap", "description", "descriptions", "recaption"),
    *("caption_text", "text_prompt", "dense_caption", "short_caption", "long_caption", "detailed_caption"),
    *("video_caption", "summary"),
)
SPANS = ("timestamp", "timestamps", "time_span", "time_spans")
STARTS = ("start_timestamp", "start_time", "start_s", "start_sec", "start_seconds", "start")
ENDS = ("end_timestamp", "end_time", "end_s", "end_sec", "end_seconds", "end")
# Told apart only to say what was recognised: (what it is called, the columns that it has).
LAYOUTS = (
    ("Panda-70M", {"videoid", "timestamp", "caption"}),
    ("InternVid", {"youtubeid", "start_timestamp", "end_timestamp", "caption"}),
    ("OpenVid", {"video", "caption", "frame", "fps", "seconds"}),
    ("VidGen", {"vid", "caption"}),
    ("Hugging Face metadata", {"file_name"}),
    ("Open-Sora", {"path", "text"}),
)


@dataclass(frozen=True)
class Mapping:
    """Columns by their names in the file. span: a column of spans, or its start and end, or none."""

    layout: str
    path: str
    caption: str
    span: tuple[str, ...] = ()

    def __str__(self) -> str:
        times = f", time spans {' to '.join(map(repr, self.span))}" if self.span else ""
        return f"{self.layout}; path {self.path!r}, caption {self.caption!r}{times}"

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys((self.path, self.caption, *self.span)))


def recognise(columns: Sequence[str], config: BroughtConfig, name: str) -> Mapping | str:
    """The mapping, or why the table has no captions that could be taken. `name` is what messages call the file.

    Raises ConfigError where several columns could be meant.
    """
    names = [column for column in columns if column]
    folded = _folded(names)
    path = _one(names, "path_column", config.path_column, "path", name, PATHS, NAMES)
    caption = caption_key(names, config, name)
    if path is None or caption is None:
        missing = [
            f"no column {given!r}" if given else f"no column for the {what} (such as {', '.join(known[:6])})"
            for what, column, given, known in (
                ("path", path, config.path_column, PATHS),
                ("caption", caption, config.caption_column, CAPTIONS),
            )
            if column is None
        ]
        shown = ", ".join(map(repr, names[:20])) + ", …" * (len(names) > 20)
        return f"{' and '.join(missing)}; its columns are {shown or 'none'}"
    if path == caption:
        raise ConfigError(f"{name}: {path!r} cannot be path and caption at once; see captions.caption_column")
    span = [column for key in SPANS for column in folded.get(key, ())][:1]
    if not span:
        pairs = [(s, e) for s, e in zip(STARTS, ENDS, strict=True) if s in folded and e in folded]
        span = [folded[key][0] for key in pairs[0]] if pairs else []
    layout = next((title for title, needed in LAYOUTS if needed <= folded.keys()), "a table")
    return Mapping(layout, path, caption, tuple(span))


def caption_key(columns: Sequence[str], config: BroughtConfig, name: str) -> str | None:
    """The column (or key) that holds the caption; None where there is none. Raises ConfigError where it is unclear."""
    return _one(columns, "caption_column", config.caption_column, "caption", name, CAPTIONS)


def _one(
    names: Sequence[str], setting: str, given: str | None, what: str, file: str, *tiers: Sequence[str]
) -> str | None:
    folded = _folded(names)
    if given is not None:
        found = [column for column in names if column == given] or folded.get(_fold(given), [])
    else:
        hits = ([column for key in tier for column in folded.get(key, ())] for tier in tiers)
        found = next((tier for tier in hits if tier), [])
    if len(found) > 1:
        several = ", ".join(map(repr, found))
        raise ConfigError(f"{file}: several columns could be the {what}: {several}; name one: captions.{setting}")
    return found[0] if found else None


def _folded(names: Sequence[str]) -> dict[str, list[str]]:
    folded: dict[str, list[str]] = {}
    for column in names:
        folded.setdefault(_fold(column), []).append(column)
    return folded


def _fold(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")
