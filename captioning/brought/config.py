"""`captions:` with `kind: brought`: where the captions lie, and what in them is what."""

from __future__ import annotations

from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, create_model, field_validator

from orchestration.config import Config

From = Literal["auto", "sidecar", "csv", "jsonl", "parquet"]
FAMILIES = get_args(From)[1:]

# `from` is a word of Python's own, so that the field cannot be written in a class body; an alias would show in the
# saved configuration and in messages as `from_`.
_FIELDS: dict[str, Any] = {"from": (From, "auto")}
_From = create_model("_From", __base__=Config, **_FIELDS)


class BroughtConfig(_From):
    """Captions from files beside the videos, or from a table.

    from: sidecar (a text or JSON file a video; prompts.txt with videos.txt), csv, jsonl (also a JSON array), parquet;
    auto takes the one of these that is there. path: a folder, a glob, or one file; local or any fsspec URI; empty: the
    folder of the videos.
    """

    kind: Literal["brought"] = "brought"
    path: str = ""
    caption_column: str | None = None  # null: the one column whose name says so
    path_column: str | None = None
    strip_prefix: str = ""  # begins the paths of another machine, as in /mnt/data/videos; taken off before matching
    spread: bool = False  # a caption of a whole video is given to each of its clips
    min_overlap: float = Field(default=0.5, gt=0, le=1)  # of a caption's time span and a clip: intersection / union

    @field_validator("path")
    @classmethod
    def _open(cls, path: str) -> str:
        parts = urlsplit(path)
        if parts.scheme and (parts.username or parts.password or "@" in parts.netloc or parts.query):
            raise ValueError(
                "no user, password or signed query in it: it is kept in the data set; download the file, or give "
                "credentials as the store's driver takes them"
            )
        return path

    @field_validator("caption_column", "path_column")
    @classmethod
    def _named(cls, name: str | None) -> str | None:
        if name == "":
            raise ValueError("an empty name; leave it out to have the column recognised")
        return name

    @property
    def family(self) -> From:
        """The value of `from`."""
        return getattr(self, "from")
