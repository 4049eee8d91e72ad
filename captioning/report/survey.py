"""One streamed pass over the captions table: counts, lengths, flags, costs, and which captions the report shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioning.cost import Usage
from captioning.publish import reason_kind
from captioning.report.vocabulary import Sample
from curation.report.data import KEPT, Decisions, Part, Tables, hashes
from curation.report.survey import Smallest
from orchestration.report import formats

COLUMNS = (
    *("clip_id", "fingerprint", "version", "status", "short", "dense", "tokens", "whole_tokens", "flags"),
    *("flag_reasons", "train", "model", "recipe", "prompt_tokens", "output_tokens", "seconds", "reason"),
)
OK, FLAGGED, FAILED = "ok", "flagged", "failed"
MOST = 1000  # words or tokens; what is longer counts as so many
DISTINCT = 200  # flags, and reasons of failures, that are told apart
WORD = r"[\p{L}\p{N}]+(?:['’][\p{L}\p{N}]+)*"  # as checks.words.WORD


@dataclass
class Example:
    """A flag's count, and one of its captions: of the smallest hash, so always the same one."""

    count: int = 0
    key: int = 2**64
    clip_id: str = ""
    why: str = ""


@dataclass
class Lengths:
    """Exact counts of lengths 0 to MOST, of captions without and with flags."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros((2, MOST + 1), np.int64))

    def add(self, lengths: np.ndarray, flagged: np.ndarray) -> None:
        """[n] NaN where there is none; [n] bool."""
        known = ~np.isnan(lengths)
        whole = np.minimum(lengths[known], MOST).astype(int)
        for side in (0, 1):
            self.counts[side] += np.bincount(whole[flagged[known] == bool(side)], minlength=MOST + 1)

    @property
    def mean(self) -> float | None:
        total = self.counts.sum(0)
        return float(total @ np.arange(MOST + 1) / total.sum()) if total.any() else None

    def above(self, limit: int) -> int:
        return int(self.counts[:, limit + 1 :].sum())


@dataclass
class VersionSurvey:
    """The captions of one fingerprint."""

    fingerprint: str
    name: str = ""
    model: str = ""
    recipe: str = ""
    states: Counter[str] = field(default_factory=Counter)  # of kept clips: OK (without flags), FLAGGED, FAILED
    not_kept: int = 0  # captions of clips that are not kept now; counted nowhere else
    train: int = 0
    usage: Usage = field(default_factory=Usage)
    short_words: Lengths = field(default_factory=Lengths)
    dense_words: Lengths = field(default_factory=Lengths)
    tokens: Lengths = field(default_factory=Lengths)  # as they train
    whole_tokens: Lengths = field(default_factory=Lengths)  # before trimming
    flags: dict[str, Example] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    sample: Sample = field(default_factory=Sample)

    @property
    def captions(self) -> int:
        """That did not fail."""
        return self.states[OK] + self.states[FLAGGED]

    @property
    def total(self) -> int:
        return self.states.total()


@dataclass
class Survey:
    """What the page says of all captions."""

    kept: int | None  # clips; None where nothing was selected yet
    versions: dict[str, VersionSurvey] = field(default_factory=dict)
    flagged: dict[str, Smallest] = field(default_factory=dict)  # by flag
    failed: Smallest = field(default_factory=lambda: Smallest(0))
    captioned: Smallest = field(default_factory=lambda: Smallest(0))


@dataclass(frozen=True)
class Only:
    """A comparison: of these versions, and these clips, which then count as the kept ones."""

    versions: tuple[str, ...]  # fingerprints
    clip_ids: tuple[str, ...]


def survey_captions(
    tables: Tables, decisions: Decisions, order: Iterable[str], *, pool: int, only: Only | None = None
) -> Survey:
    """`order`: fingerprints that are known, in the order in which they are shown. `pool`: clips of each kind to choose
    from for the gallery. 8 bytes a kept clip, and the sample of each version (see Sample), are held in memory."""
    kept: int | None = int((decisions.states == KEPT).sum()) if len(decisions.keys) else None
    survey = Survey(len(set(only.clip_ids)) if only else kept, {name: VersionSurvey(name) for name in order})
    survey.failed, survey.captioned = Smallest(pool), Smallest(pool)
    for part, keys in _parts(tables, only):
        every = only is not None or kept is None
        inside = np.ones(len(keys), bool) if every else decisions.of(keys)[0] == KEPT
        names = part.strings("fingerprint").fill_null("").dictionary_encode()
        codes = names.indices.to_numpy(zero_copy_only=False)
        for code, name in enumerate(names.dictionary.to_pylist()):
            version = survey.versions.setdefault(name, VersionSurvey(name))
            mine = codes == code
            version.not_kept += int((mine & ~inside).sum())
            (at,) = np.nonzero(mine & inside)
            if len(at):
                own = Part(part.file, part.row, part.table.take(pa.array(at)))
                _survey(survey, version, own, keys[at], part.row + at)
    return survey


def _parts(tables: Tables, only: Only | None) -> Iterator[tuple[Part, np.ndarray]]:
    missing = [name for name in COLUMNS if name not in tables.schema.names]
    for part in tables.scan(COLUMNS) if not missing else ():
        table = part.table
        if only is not None:
            chosen = pc.and_(
                pc.is_in(table.column("clip_id"), value_set=pa.array(only.clip_ids, pa.string())),
                pc.is_in(table.column("fingerprint"), value_set=pa.array(only.versions, pa.string())),
            )
            part = part._replace(table=table.filter(chosen))
        yield part, hashes(part.strings("clip_id"))


def _survey(survey: Survey, version: VersionSurvey, part: Part, keys: np.ndarray, rows: np.ndarray) -> None:
    """Count some rows of one version."""
    ids, table = part.strings("clip_id"), part.table
    version.name, version.model, version.recipe = (
        part.strings(name)[0].as_py() or "" for name in ("version", "model", "recipe")
    )
    ok = pc.equal(part.strings("status"), "ok").fill_null(False).to_numpy(zero_copy_only=False)
    flagged = (pc.list_value_length(table.column("flags")).fill_null(0).to_numpy(zero_copy_only=False) > 0) & ok
    version.states += Counter({OK: int((ok & ~flagged).sum()), FLAGGED: int(flagged.sum()), FAILED: int((~ok).sum())})
    version.train += int((part.flags("train") & ok).sum())
    version.usage = _used(version.usage, part)
    short, dense = part.strings("short"), part.strings("dense")
    for lengths, texts in ((version.short_words, short), (version.dense_words, dense)):
        words = pc.count_substring_regex(texts, WORD).cast(pa.float64()).fill_null(np.nan)
        lengths.add(words.to_numpy(zero_copy_only=False)[ok], flagged[ok])
    tokens, whole = part.numbers("tokens"), part.numbers("whole_tokens")
    version.tokens.add(tokens[ok], flagged[ok])
    version.whole_tokens.add(np.where(np.isnan(whole), tokens, whole)[ok], flagged[ok])
    version.sample.offer(keys, dense, ok)
    for reason, n in _reasons(part.strings("reason").filter(pa.array(~ok))).items():
        known = reason in version.reasons or len(version.reasons) < DISTINCT
        version.reasons[reason if known else "other reasons"] += n
    priorities = keys / 2.0**64

    def offer(pool: Smallest, at: np.ndarray) -> None:
        pool.offer(priorities[at], keys[at], ids.take(pa.array(at)), rows[at], part.file)

    offer(survey.captioned, np.flatnonzero(ok))
    offer(survey.failed, np.flatnonzero(~ok))
    parents = pc.list_parent_indices(table.column("flags")).to_numpy()
    marks = pc.list_flatten(table.column("flags")).cast(pa.string()).fill_null("").dictionary_encode()
    codes = marks.indices.to_numpy(zero_copy_only=False)
    for code, flag in enumerate(marks.dictionary.to_pylist()):
        at = np.unique(parents[(codes == code) & ok[parents]])
        if not len(at) or (flag not in version.flags and len(version.flags) >= DISTINCT):
            continue
        offer(survey.flagged.setdefault(flag, Smallest(survey.captioned.size)), at)
        example = version.flags.setdefault(flag, Example())
        example.count += len(at)
        first = int(at[np.argmin(keys[at])])
        if int(keys[first]) < example.key:
            names, whys = (table.column(name)[first].as_py() or [] for name in ("flags", "flag_reasons"))
            found = dict(zip(names, whys, strict=False)).get(flag)
            example.key, example.clip_id, example.why = int(keys[first]), ids[first].as_py() or "", str(found or "")


def _used(usage: Usage, part: Part) -> Usage:
    seconds, sent, answered = (part.numbers(name) for name in ("seconds", "prompt_tokens", "output_tokens"))
    timed, counted = seconds > 0, ~np.isnan(sent) & ~np.isnan(answered)
    return Usage(
        usage.clips + len(seconds),
        usage.seconds + float(seconds[timed].sum()),
        usage.timed + int(timed.sum()),
        usage.prompt_tokens + int(sent[counted].sum()),
        usage.output_tokens + int(answered[counted].sum()),
        usage.counted + int(counted.sum()),
    )


def _reasons(texts: pa.Array) -> Counter[str]:
    """By kind: see publish.reason_kind."""
    counts: Counter[str] = Counter()
    encoded = texts.fill_null("").dictionary_encode()
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    for text, n in zip(
        encoded.dictionary.to_pylist(), np.bincount(indices, minlength=len(encoded.dictionary)), strict=True
    ):
        counts[formats.short(reason_kind(text) or "no reason recorded", 160)] += int(n)
    return counts
