"""The report's page about latents: sets, accounts, buckets, reconstructions, what the latents are like."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from captioning.records import versions
from latents.config import LatentsConfig
from latents.derive import Tally
from latents.report.pictures import Decoder, Gallery
from latents.report.survey import Holding, SetSurvey, Survey, choose, survey_latents, tally_of
from orchestration.report import Page, Section, environment, formats, strips
from orchestration.storage import Storage

TEMPLATES = Path(__file__).parent / "templates"
POOL = 10  # samples of a bucket to choose each shown one from


@dataclass(frozen=True)
class Amounts:
    """How much of each thing the page shows."""

    sets: int = 3  # whose samples are decoded
    reasons: int = 20  # of clips without samples
    seconds: float = 180.0  # for decoding; a sample that was begun is finished
    picture_bytes: int = 3_000_000


def latents_page(
    storage: Storage,
    config: LatentsConfig,
    *,
    latest: str | None = None,
    scratch: Path | None = None,
    amounts: Amounts | None = None,
) -> Page:
    """Read the indexes, `encoded/sets/`, `samples/`, `captions/`, `clips/` and some samples; all may be missing.

    latest: fingerprint of the set that the last run filled; None: the one that was made last. Only of that one it is
    written down which clips gave no sample. Rows of all kept clips are gone through, one at a time.
    """
    amounts = amounts or Amounts()
    samples = config.report.samples
    survey = survey_latents(storage, POOL * samples)
    newest = next(reversed([name for name, one in survey.sets.items() if one.facts]), None)
    latest = latest or newest
    found = sorted(survey.sets.values(), key=lambda one: one.fingerprint != latest)  # stable
    found[1:] = reversed(found[1:])
    chosen = {one.fingerprint: choose(one, samples) for one in found[: amounts.sets]}
    wanted = {candidate.clip_id for some in chosen.values() for candidate in some}
    tally, rows = tally_of(storage, survey.sets.get(latest or ""), config.buckets, wanted)
    folder = scratch or Path(config.scratch or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rushes-latents-", dir=folder) as decoding:
        decoder = Decoder(config, decoding, amounts.seconds, amounts.picture_bytes)
        galleries = [decoder(one, chosen[one.fingerprint], rows) for one in found[: amounts.sets]]
    env = environment(TEMPLATES)

    def section(title: str, slug: str, lead: str = "", **context: Any) -> Section:
        html = env.get_template(f"{slug}.html").render(survey=survey, latest=latest, **context)
        return Section(title, slug, Markup(html), lead)  # the template escaped it

    names = {version.fingerprint: version.name for version in versions(storage).values()}
    table = [_set_row(one, newest, latest, names) for one in found]
    groups = [_bucket_rows(one, tally if one.fingerprint == latest else None) for one in found]
    shown = [gallery for gallery in galleries if gallery.samples or gallery.why or gallery.damaged]
    measured = [
        strips([*gallery.channels.rows, gallery.channels.whole]) | {"gallery": gallery}
        for gallery in galleries
        if gallery.channels.samples
    ]
    decoded = {"galleries": shown, "asked": samples, "decoded": len(galleries)}
    return Page(
        title="Latents",
        slug="latents",
        sections=(
            section("Sets", "sets", _lead(survey, latest), rows=table),
            section("Accounts", "accounts", _accounts_lead(survey), sets=found, most=amounts.reasons),
            section("Buckets", "buckets", groups=groups),
            section("Reconstructions", "reconstructions", _decoded_lead(shown), **decoded),
            section("Statistics", "statistics", galleries=measured),
        ),
        style=(TEMPLATES / "latents.css").read_text(encoding="utf-8"),
    )


def _lead(survey: Survey, latest: str | None) -> str:
    one = survey.sets.get(latest or "")
    if one is None:
        return "There are no latents yet: rushes latents makes them."
    total = one.total
    said = f"{formats.plural(total.samples, 'sample')} in {formats.plural(total.shards, 'shard')}"
    others = len(survey.sets) - 1
    return f"{said}, and {formats.plural(others, 'set')} beside them." if others else f"{said}."


def _accounts_lead(survey: Survey) -> str:
    if survey.kept is None:
        return ""
    without = survey.kept - survey.captioned
    kept = formats.plural(survey.kept, "kept clip")
    said = f"{formats.count(survey.captioned)} of {kept} have a caption to train with"
    return f"{said}; the other {formats.count(without)} can give no sample." if without else f"{said}."


def _decoded_lead(galleries: Sequence[Gallery]) -> str:
    decoded = [gallery for gallery in galleries if gallery.psnr is not None]
    if not decoded:
        return ""
    return "Source left, reconstruction right: the middle frame. PSNR is over all frames of a sample; more is nearer."


def _set_row(one: SetSurvey, newest: str | None, latest: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    vae, text = one.vae, one.encoder.get("text")
    facts = one.facts
    tags = ["newest"] * (one.fingerprint == newest) + ["last run"] * (one.fingerprint == latest != newest)
    settings: dict[str, Any] = {"encoder": dict(one.encoder)}
    if facts is not None:
        shapes = ["x".join(map(str, shape)) for shape in facts.buckets]
        settings |= {"buckets": shapes, "bucket settings": facts.settings, "caption versions": list(facts.captions)}
    return {
        "set": one,
        "tags": tags,
        "vae": vae.get("model") or "not written down",
        "how": _how(vae),
        "keeps": _keeps(vae),
        "text": text if isinstance(text, Mapping) else None,
        "captions": [names.get(name) or name[:8] for name in (facts.captions if facts else ())],
        "bytes": one.total.bytes + one.empty_bytes,
        "settings": formats.short(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), 20_000),
    }


def _how(vae: Mapping[str, Any]) -> list[str]:
    """How the VAE saw pictures, in words."""
    if not vae:
        return []
    chunk, tiling = vae.get("chunk_frames"), vae.get("tiling")
    said = [f"computed in {vae.get('dtype')}", f"{chunk} frames at once" if chunk else "all frames at once"]
    if isinstance(tiling, Mapping):
        overlap = [f"{100 * float(tiling.get(f'overlap_{side}') or 0):.0f} %" for side in ("height", "width")]
        said += [f"tiles of {tiling.get('height')} × {tiling.get('width')} px, overlapping by {' and '.join(overlap)}"]
    else:
        said += ["pictures whole, no tiling"]
    return said


def _keeps(vae: Mapping[str, Any]) -> str:
    if not vae:
        return "–"
    moments = "mean only" if vae.get("moments") == "mean" else "mean and log-variance"
    return f"{moments}, {vae.get('store')}"


def _bucket_rows(one: SetSurvey, tally: Tally | None) -> dict[str, Any]:
    """The set's buckets; what is known of clips only where there is a tally."""
    facts = tally.to_dict() if tally is not None else {"buckets": [], "total": None}
    lines = {line["bucket"]: line for line in facts["buckets"]}
    names = sorted({*lines, *one.buckets}, key=lambda name: [int(side) for side in name.split("x")])
    rows = [(name, one.buckets.get(name, Holding()), lines.get(name)) for name in names]
    total = facts["total"]
    return {
        "set": one,
        "rows": rows,
        "total": total,
        "most": max((held.samples for _, held, _ in rows), default=0),
        "unknown": one.total.samples - total["windows"] if total else 0,
    }
