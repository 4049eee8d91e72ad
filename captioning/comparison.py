"""`rushes caption --compare`: the same clips captioned in several ways, side by side."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from captioning.config import UNASKED, CaptionConfig
from captioning.report.write import write_comparison
from captioning.run import caption
from captioning.todo import chosen
from orchestration.config import parse_config
from orchestration.errors import ConfigError
from orchestration.storage import Storage


def compare(config: CaptionConfig, limit: int, console: Console) -> str:
    """Caption `limit` clips by the configuration and by each of its `compare`; the path of the page that shows them.

    The captions are kept like all others: a later run over the whole data set does not ask for them again. What trains
    stays as it is.
    """
    if not config.compare:
        raise ConfigError(
            "--compare: compare what? List the other ways in the configuration, as in "
            "compare: [{name: detailed, recipe: {prompt: ./detailed.jinja}}, {captions: {kind: local, model: FOLDER}}]"
        )
    ways = [config.model_copy(update={"limit": limit}), *laid_over(config, limit)]
    made = [caption(one, console, trains=False).version for one in ways]
    fingerprints = list(dict.fromkeys(version.fingerprint for version in made))
    if len(fingerprints) < 2:
        raise ConfigError("--compare: all of `compare` asks for the same as the configuration itself")
    storage = Storage(config.dataset)
    clips, most = sorted(chosen(storage, limit)), config.checks.max_tokens
    return write_comparison(storage, fingerprints, clips, config.cost, max_tokens=most)


def laid_over(config: CaptionConfig, limit: int) -> list[CaptionConfig]:
    """The configurations of its `compare`. Raises ConfigError that says which one is wrong."""
    base = config.model_dump(mode="json", exclude={"compare", "name"}, exclude_unset=True)
    base["limit"] = limit
    ways = [_laid_over(base, other) for other in config.compare]
    for way, other in zip(ways, config.compare, strict=True):
        if isinstance(way.get("captions"), dict) and way["captions"].get("kind") in UNASKED and "recipe" not in other:
            way.pop("recipe", None)
    return [parse_config(CaptionConfig, way, f"compare[{place}]") for place, way in enumerate(ways)]


def _laid_over(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A section of another `kind` takes the place of the whole, else single settings do."""
    found = dict(base)
    for name, value in other.items():
        below = found.get(name)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and value.get("kind", below.get("kind")) == below.get("kind")
        ):
            found[name] = _laid_over(below, value)
        else:
            found[name] = value
    return found
