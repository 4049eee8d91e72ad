"""The entry: captions of files → captions of clips, with an account of what was recognised and what was not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from captioning.brought.assign import assign, clips_of
from captioning.brought.columns import CAPTIONS, PATHS
from captioning.brought.config import FAMILIES, BroughtConfig
from captioning.brought.files import TABLES, Files, find_files, label, suffix
from captioning.brought.match import Index, Match, settle, videos_of
from captioning.brought.rows import Problem, Row, quoted
from captioning.brought.sidecars import list_rows, pair_lists, sidecar_rows
from captioning.brought.tables import Table
from curation.fetch import shown
from curation.ingest import Listed
from orchestration.errors import ConfigError

EXAMPLES = 3
LISTED = 10_000  # unmatched captions and problems that are kept by name; all are counted


@dataclass(frozen=True)
class Brought:
    """What was brought. lines: the account, one plain text line each, for printing.

    unmatched_captions and problems hold the first 10,000 of each; `counts` has the whole numbers.
    """

    captions: Mapping[str, tuple[str, ...]]  # clip_id → texts, in the order of the files
    lines: tuple[str, ...]
    unmatched_clips: tuple[str, ...]  # clip_ids
    unmatched_captions: tuple[Problem, ...]
    problems: tuple[Problem, ...]  # rows and files that cannot be read
    counts: Mapping[str, int]  # rows, matched, unmatched, problems, videos, clips, captioned


@dataclass
class _Noted:
    """Problems, counted; the first ones kept."""

    count: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(problem)


def bring(
    config: BroughtConfig,
    videos: Iterable[Mapping[str, Any]],
    clips: Iterable[Mapping[str, Any]],
    source: str = "",
    exclude: str = "",
) -> Brought:
    """Read the captions at `config.path` (empty: at `source`, the folder of the videos) and match them to `clips`.

    videos: rows of the whole videos table (uri, video_id, status, duration_s, frames_decoded): also of failed ones,
    whose captions must not go to others. clips: rows of the clips table that are to have captions (clip_id, video_id,
    start_s, end_s, start_frame, end_frame). exclude: a folder that is passed over, the dataset.
    Raises ConfigError where nothing is found, nothing matches, or it is unclear what is meant.
    """
    path = config.path or source
    if not path:
        raise ConfigError("captions.path: where do the captions lie? A folder, a glob or a file")
    by_key, by_video = videos_of(videos), clips_of(clips)
    owners = {clip.clip_id: video for video, found in by_video.items() for clip in found}
    files = find_files(path, exclude)
    index = Index(by_key.values(), files.root, owners, config.strip_prefix)
    reading = _Reading(config, files, index, shown(path))

    problems, unmatched = _Noted(), _Noted()
    for item in files.unreadable:
        problems.add(Problem(label(item, files.root), item.version))
    rows = 0
    claims: list[tuple[Row, Match]] = []
    for row in reading.rows():
        if isinstance(row, Problem):
            problems.add(row)
            continue
        rows += 1
        found = index.find(row)
        if isinstance(found, str):
            unmatched.add(_unmatched(row, found))
        else:
            claims.append((row, found))
    if not rows:
        raise ConfigError(reading.nothing(problems))
    accepted, refused = settle(claims)
    for row, why in refused:
        unmatched.add(_unmatched(row, why))

    captions: dict[str, dict[str, None]] = {}  # a text that comes twice, as from name.txt and name.json, counts once
    hows: Counter[str] = Counter()
    matched = 0
    used: set[str] = set()
    for row, match in accepted:
        given, missed = assign(
            row, match.clip, by_key[match.video], by_video.get(match.video, []), config.spread, config.min_overlap
        )
        for clip_id, text in given:
            captions.setdefault(clip_id, {})[text] = None
        for why in missed:
            unmatched.add(_unmatched(row, why))
        if given:
            matched += 1
            hows[match.how] += 1
            used.add(match.video)
    without = tuple(clip_id for clip_id in owners if clip_id not in captions)
    counts = {
        "rows": rows,
        "matched": matched,
        "unmatched": unmatched.count,
        "problems": problems.count,
        "videos": len(used),
        "clips": len(owners),
        "captioned": len(captions),
    }
    uris = {clip_id: by_key[video].uris[0] for clip_id, video in owners.items()}
    lines = [*reading.lines, *_account(counts, hows, unmatched, problems, without, uris)]
    if not captions:
        raise ConfigError("captions: none of the captions found belongs to a clip\n" + "\n".join(lines))
    texts = {clip_id: tuple(captions[clip_id]) for clip_id in owners if clip_id in captions}
    return Brought(texts, tuple(lines), without, tuple(unmatched.first), tuple(problems.first), counts)


class _Reading:
    """Which of the files are read, and as what."""

    def __init__(self, config: BroughtConfig, files: Files, index: Index, path: str):
        self._config, self._files, self._index, self._path = config, files, index, path
        self.lines: list[str] = []
        self._notes: list[str] = []  # tables that are none of captions
        self._lists: list[tuple[Listed, Listed]] = []
        self._tables: dict[str, list[Table]] = {}
        family = config.family
        if family in ("auto", "sidecar"):
            self._lists = pair_lists(files)
        self._skip = {item.uri for pair in self._lists for item in pair}
        self._open_tables(family)
        present = {name: self._example(name) for name in FAMILIES if family in ("auto", name)}
        present = {name: example for name, example in present.items() if example}
        if len(present) > 1:
            several = " and ".join(f"{name} ({example})" for name, example in present.items())
            raise ConfigError(f"captions.from: {path} has captions as {several}; choose: {', '.join(present)}")
        # Sidecars of which none has a video's name: reading on names them, and the videos.
        self.family = next(iter(present), "sidecar" if family == "auto" and files.sidecars else family)

    def rows(self) -> Iterator[Row | Problem]:
        if self.family == "sidecar":
            yield from self._sidecars()
        tables = self._tables.get(self.family, [])
        alike: dict[str, list[str]] = {}
        for table in tables:
            alike.setdefault(str(table.mapping), []).append(table.name)
        for mapping, names in alike.items():
            more = f" and {len(names) - EXAMPLES:,} more" * (len(names) > EXAMPLES)
            self.lines.append(f"captions.from {self.family}: {', '.join(names[:EXAMPLES])}{more}: {mapping}")
        for table in tables:
            yield from table.rows()
        self.lines += self._notes[:20]

    def nothing(self, problems: _Noted) -> str:
        """The message where no row was read: what was looked for, and what was found."""
        looked = {
            "sidecar": "name.txt, name.caption or name.json beside name.mp4, or prompts.txt with videos.txt",
            "csv": f"*.csv or *.tsv with a column for the path ({', '.join(PATHS[:5])}, …) and one for the caption "
            f"({', '.join(CAPTIONS[:5])}, …)",
            "jsonl": "*.jsonl, or a JSON array, with the same keys as the columns of a CSV",
            "parquet": "*.parquet with the same columns as a CSV",
        }
        wanted = [text for name, text in looked.items() if self._config.family in ("auto", name)]
        lines = [f"captions: no caption in {self._path}; looked for {'; '.join(wanted)}; found {self._files.found()}"]
        return "\n".join([*lines, *self._notes[:20], *map(str, problems.first[:20])])

    def _open_tables(self, family: str) -> None:
        items = [(TABLES[suffix(item.uri)], item) for item in self._files.tables]
        single = len(self._files.sidecars) == 1 and not items and self._files.suffixes.total() == 1
        if family == "jsonl" or (family == "auto" and single):
            items += [("jsonl", item) for item in self._files.sidecars if suffix(item.uri) == "json"]
        for name, item in items:
            if family in ("auto", name):
                table = Table(item, self._files.root, self._config)
                if isinstance(table.mapping, str):
                    self._notes.append(f"not read: {table.name}: {table.mapping}")
                else:
                    self._tables.setdefault(name, []).append(table)

    def _example(self, family: str) -> str:
        """A file of the family that holds captions; empty where there is none."""
        if family != "sidecar":
            return self._tables[family][0].name if family in self._tables else ""
        if self._lists:
            return label(self._lists[0][1], self._files.root)
        if self._config.family == "sidecar":
            return "sidecars"
        probes = sidecar_rows(self._files, self._config, self._skip, lambda row: False)
        known = (row for row in probes if isinstance(row, Row) and isinstance(self._index.find(row), Match))
        first = next(known, None)
        return first.where if first else ""

    def _sidecars(self) -> Iterator[Row | Problem]:
        root = self._files.root
        for videos, texts in self._lists:
            self.lines.append(f"captions.from sidecar: line by line: {label(videos, root)} with {label(texts, root)}")
            yield from list_rows(videos, texts, root)
        count = sum(item.uri not in self._skip for item in self._files.sidecars)
        if count:
            self.lines.append(f"captions.from sidecar: {count:,} text files in {self._path}, by the names of videos")
        known = self._index.find
        yield from sidecar_rows(self._files, self._config, self._skip, lambda row: isinstance(known(row), Match))


def _unmatched(row: Row, why: str) -> Problem:
    return Problem(row.where, f"{quoted(row.name.rpartition('/')[2] if row.sidecar else row.name)}: {why}")


def _account(
    counts: Mapping[str, int],
    hows: Counter[str],
    unmatched: _Noted,
    problems: _Noted,
    without: tuple[str, ...],
    uris: Mapping[str, str],
) -> Iterator[str]:
    by = ", ".join(f"{count:,} by {how}" for how, count in hows.most_common())
    yield f"rows {counts['rows']:,}: {counts['matched']:,} matched{f' ({by})' if by else ''}"
    yield f"clips {counts['clips']:,}: {counts['captioned']:,} of {counts['videos']:,} videos have captions"
    yield from _some("captions without a clip", unmatched.count, map(str, unmatched.first))
    yield from _some("clips without a caption", len(without), (f"{c} of {quoted(uris[c])}" for c in without))
    yield from _some("could not be read", problems.count, map(str, problems.first))


def _some(title: str, count: int, items: Iterable[str]) -> Iterator[str]:
    if count:
        yield f"{title}: {count:,}"
        yield from (f"  {text}" for text, _ in zip(items, range(EXAMPLES), strict=False))
        if count > EXAMPLES:
            yield f"  and {count - EXAMPLES:,} more"
