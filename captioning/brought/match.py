"""Which video a row of captions speaks of. A caption that could be of two videos is of none."""

from __future__ import annotations

import itertools
import posixpath
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from captioning.brought.files import address, without_suffix
from captioning.brought.rows import Row
from curation.fetch import SCHEME

How = Literal["path", "file name", "stem", "clip id"]
NO_VIDEO = "no such video"
AMBIGUOUS = "several videos have this name"
ELSEWHERE = "no video at this path; other rows match by path, so that one of the same name elsewhere is another"
CONTESTED = "captions of different paths could be of this one video"
EXACTER = "another row names the only video of this name more exactly"


class Match(NamedTuple):
    """What a row was found to speak of: a video, or one clip of it. Of two matches the one of lower rank is better."""

    video: str
    how: How
    rank: int  # 0, 1: by address; 2, 3: by the end of the path; 4 to 6: by the name, its folder left out
    identity: str = ""  # the address that the row's name leads to
    clip: str = ""

    @property
    def way(self) -> int:
        """0: by address, 1: by the end of the path, 2: by the name."""
        return min(self.rank // 2, 2)


@dataclass(frozen=True)
class Video:
    """One content. key: its video_id, or the uri where it could not be read. uris: all files that hold it, the one
    that is called ok first."""

    key: str
    uris: tuple[str, ...]
    duration_s: float | None = None
    frames: int | None = None


def videos_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Video]:
    """From rows of the videos table. Failed ones too: their names are taken, by no other video."""
    uris: dict[str, list[str]] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        key = row.get("video_id") or row["uri"]
        known = uris.setdefault(key, [])
        if row.get("status") == "ok":
            known.insert(0, row["uri"])
            facts[key] = row
        else:
            known.append(row["uri"])
            facts.setdefault(key, row)
    return {
        key: Video(key, tuple(found), facts[key].get("duration_s"), facts[key].get("frames_decoded"))
        for key, found in uris.items()
    }


class Index:
    """Finds videos by the names that rows have for them.

    In this order: the address that a relative path leads to (from the table's folder, then from the root), the end of
    the path, the file name, the stem. Each has to lead to one video only. Names are compared exactly, except that the
    ends of paths, names and stems are compared in Unicode's composed form (macOS writes the other).
    """

    def __init__(self, videos: Iterable[Video], root: str, clips: Mapping[str, str] | None = None, prefix: str = ""):
        """root: address that relative paths may start from. clips: clip_id → video. prefix: taken off rows' names."""
        self._root, self._clips, self._prefix = root, clips or {}, prefix
        self._places = [(address(uri), video.key) for video in videos for uri in video.uris]
        self._depth = max((len(_parts(place)) for place, _ in self._places), default=0)
        self._tables: dict[tuple[bool, int], dict[str, str | None]] = {}

    def find(self, row: Row) -> Match | str:
        """The match, or why there is none."""
        name = row.name
        if self._prefix and not row.sidecar:
            name = name.removeprefix(self._prefix).lstrip("/") if name.startswith(self._prefix) else name
        found = self._find(name, row)
        if found == NO_VIDEO and not row.sidecar:
            for spelling in dict.fromkeys((name.strip(), name.replace("\\", "/"))):
                other = self._find(spelling, row) if spelling != name else NO_VIDEO
                if isinstance(other, Match):  # worse than any row that is spelt like the file
                    return other._replace(rank=other.rank | 1 if other.rank < 4 else 6)
        return found

    def _find(self, name: str, row: Row) -> Match | str:
        absolute = name.startswith("/") or SCHEME.match(name) is not None
        places = [address(name)] if absolute else [address(f"{base}/{name}") for base in (row.folder, self._root)]
        path = places[0] if absolute else posixpath.normpath(name)
        if row.sidecar:
            path = path.removeprefix(self._root.rstrip("/") + "/")
            if self._two(places[0]):
                return AMBIGUOUS
        parts = _parts(path)
        tries: list[tuple[str, int, int]] = [(place, 0, 0) for place in dict.fromkeys(places)]
        if len(parts) > 1 and ".." not in parts:
            tries.append(("/".join(parts), len(parts), 2))
        tries.append((parts[-1] if parts else "", 1, 4))
        for count, group in itertools.groupby(tries, key=lambda item: item[1]):
            ends = list(group)
            beside = row.sidecar and not count  # a sidecar's own name is its video's without the suffix
            # (the video's suffix is left out, the row's too, what that adds to the rank)
            for stem, cut, more in ((False, False, 0), (True, False, 1 - beside), (True, True, 1 + (count == 1))):
                for end, _, rank in ends:
                    video = self._table(stem, count).get(without_suffix(end) if cut else end, "")
                    if video is None:
                        return AMBIGUOUS
                    if video:
                        how: How = "path" if count != 1 else "stem" if stem else "file name"
                        return Match(video, how, rank + more, places[0])
        clip = next((key for key in (name, without_suffix(posixpath.basename(name))) if key in self._clips), None)
        return Match(self._clips[clip], "clip id", 0, clip=clip) if clip else NO_VIDEO

    def _two(self, place: str) -> bool:
        """Whether a sidecar, x.mp4.txt, is beside x.mp4 and x.mp4.mp4."""
        named, stemmed = (self._table(stem, 0).get(place, "") for stem in (False, True))
        return named != "" and stemmed != "" and named != stemmed

    def _table(self, stem: bool, count: int) -> dict[str, str | None]:
        """The last `count` parts of each video's path → its key, None where several share them; 0: the address."""
        if count > self._depth:
            return {}
        if (stem, count) not in self._tables:
            table: dict[str, str | None] = {}
            for place, key in self._places:
                text = place
                if count:
                    parts = _parts(place)
                    if len(parts) < count:
                        continue
                    text = "/".join(parts[len(parts) - count :])
                text = without_suffix(text) if stem else text
                table[text] = key if table.get(text, key) == key else None
            self._tables[stem, count] = table
        return self._tables[stem, count]


def settle(claims: Iterable[tuple[Row, Match]]) -> tuple[list[tuple[Row, Match]], list[tuple[Row, str]]]:
    """(accepted, refused with why), each in the order given: no video gets the captions of another.

    A video takes the rows that match it best, and of those that do not name its address only ones that all lead to
    the same address (a copy on another machine). Where rows with folders in their names match in a better way, those
    of the same file or set that do not are of videos that are not here.
    """
    claims = list(claims)
    ways: dict[str, int] = {}
    for row, match in claims:
        if _placed(row) and not match.clip:
            ways[row.group] = min(match.way, ways.get(row.group, 2))
    fitting = [not _placed(row) or match.way == ways.get(row.group) for row, match in claims]
    best: dict[str, int] = {}
    for (_, match), fits in zip(claims, fitting, strict=True):
        if fits and not match.clip:
            best[match.video] = min(match.rank, best.get(match.video, match.rank))
    identities: dict[str, set[str]] = {}
    for (_, match), fits in zip(claims, fitting, strict=True):
        if fits and not match.clip and match.rank == best[match.video]:
            identities.setdefault(match.video, set()).add(match.identity)
    accepted: list[tuple[Row, Match]] = []
    refused: list[tuple[Row, str]] = []
    for (row, match), fits in zip(claims, fitting, strict=True):
        if match.clip:
            accepted.append((row, match))
        elif not fits:
            refused.append((row, ELSEWHERE))
        elif match.rank > best[match.video]:
            refused.append((row, EXACTER))
        elif match.rank and len(identities[match.video]) > 1:
            refused.append((row, CONTESTED))
        else:
            accepted.append((row, match))
    return accepted, refused


def _placed(row: Row) -> bool:
    return row.sidecar or "/" in row.name.strip("/") or "\\" in row.name


def _parts(path: str) -> list[str]:
    scheme = SCHEME.match(path)
    text = unicodedata.normalize("NFC", path[scheme.end() :] if scheme else path)
    return [part for part in text.split("/") if part not in ("", ".")]
