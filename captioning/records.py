"""Rows of captions: what workers commit, and the captions table's columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from captioning.recipes.base import Said
from captioning.structured import Structured
from curation.video import Column
from orchestration.errors import ConfigError
from orchestration.ledger import Ledger
from orchestration.storage import Storage

LEDGER = "captioned"
VERSIONS = f"{LEDGER}/versions"

CAPTIONS: tuple[Column, ...] = (
    Column("clip_id", pa.string(), "", "the clip"),
    Column("fingerprint", pa.string(), "", "names who was asked what: model, prompt, frames, sampling"),
    Column("version", pa.string(), "", "that in a word, as the configuration calls it"),
    Column("status", pa.string(), "", "ok, or failed"),
    Column("short", pa.string(), "", "one sentence"),
    Column("dense", pa.string(), "", "a paragraph of at most 226 tokens"),
    Column("others", pa.list_(pa.string()), "", "further captions that were brought"),
    Column("structured", pa.string(), "", "fields as JSON (captioning/structured.py); null where none were asked for"),
    Column("tokens", pa.int32(), "", "of `dense`, by the tokenizer of the checks, or an estimate"),
    Column("whole_tokens", pa.int32(), "", "the same before it was trimmed"),
    Column("flags", pa.list_(pa.string()), "", "what the checks found"),
    Column("flag_reasons", pa.list_(pa.string()), "", "the evidence of each"),
    Column("train", pa.bool_(), "", "the trainer is given this one: at most one of a clip"),
    Column("model", pa.string(), "", "what identifies the weights"),
    Column("recipe", pa.string(), "", "single, hierarchical, rewrite or brought"),
    Column("finish", pa.string(), "", "stop, or length: cut off"),
    Column("prompt_tokens", pa.int64(), "", "of all its questions; null where the backend does not count"),
    Column("output_tokens", pa.int64(), "", "of all their answers"),
    Column("tries", pa.int32(), "", "questions and repetitions"),
    Column("seconds", pa.float64(), "s", "of the backend, the clip's share of batches"),
    Column("matched", pa.float32(), "", "cosine with its pictures; null where that was not looked at"),
    Column("matched_by", pa.string(), "", "the network of `matched`"),
    Column("reason", pa.string(), "", "why it failed, or why a rewrite was not taken"),
    Column("retry", pa.bool_(), "", "failed for a reason that may pass; the next run asks again"),
    Column("text", pa.string(), "", "the model's own words"),
    Column("checked", pa.string(), "", "settings that short, dense and flags were made with"),
)
# What a worker leaves of a clip: the columns, but for those that depend on other rows or are the same for all of them.
SHARED = ("fingerprint", "version", "model", "recipe", "train")
_CAPTION = pa.struct(
    [
        *(pa.field(column.name, column.type) for column in CAPTIONS if column.name not in SHARED),
        pa.field("said", pa.string()),
    ]
)


def schema() -> pa.Schema:
    """Of the captions table."""
    return pa.schema([pa.field(column.name, column.type) for column in CAPTIONS])


def ledger(storage: Storage) -> Ledger:
    """One row a handful of clips; of several rows of a clip and fingerprint the one of the latest run counts."""
    fields = [
        pa.field("key", pa.string()),
        pa.field("fingerprint", pa.string()),
        pa.field("run", pa.int64()),
        pa.field("captions", pa.list_(_CAPTION)),
    ]
    return Ledger(storage, LEDGER, pa.schema(fields), "key")


def said_json(said: Said) -> str:
    fields = said.structured.model_dump(exclude_defaults=True) if said.structured is not None else None
    return json.dumps({"structured": fields, "short": said.short, "dense": said.dense, "others": said.others})


def said_of(text: str) -> Said:
    fields = json.loads(text)
    structured = fields["structured"]
    return Said(
        Structured.model_validate(structured) if structured is not None else None,
        fields["short"],
        fields["dense"],
        tuple(fields["others"]),
    )


@dataclass(frozen=True)
class Version:
    """What captions of one fingerprint have in common; kept as `captioned/versions/FINGERPRINT.json`."""

    fingerprint: str
    name: str
    run: int  # that made it first
    model: str
    recipe: str
    prompts: Mapping[str, str]  # their texts by what they are for
    settings: Mapping[str, Any]  # captions, text, recipe, frames, sampling as they were

    @property
    def asked(self) -> str:
        """All that models were told, to find it again in answers."""
        return "\n".join(self.prompts.values())

    def write(self, storage: Storage) -> None:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        storage.write_bytes(f"{VERSIONS}/{self.fingerprint}.json", json.dumps(data, indent=1).encode())


def versions(storage: Storage) -> dict[str, Version]:
    """By fingerprint, in the order in which they were made first."""
    found = [Version(**json.loads(storage.read_bytes(name))) for name in storage.list(VERSIONS, ".json")]
    return {version.fingerprint: version for version in sorted(found, key=lambda one: (one.run, one.fingerprint))}


def find_version(known: Mapping[str, Version], name: str, what: str) -> Version:
    """By name, or by a fingerprint or its beginning. Raises ConfigError; `what` names the setting."""
    found = [one for one in known.values() if one.name == name]
    if not found and len(name) >= 6:
        found = [one for one in known.values() if one.fingerprint.startswith(name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{one.name} ({one.fingerprint})" for one in (found or known.values()))
    if found:
        raise ConfigError(f"{what}: several versions are called {name!r}: {listed}; give the fingerprint")
    raise ConfigError(f"{what}: there is no version {name!r}; there are {listed or 'none yet'}")


def clip_row(row: Mapping[str, Any], **changed: Any) -> dict[str, Any]:
    """A worker's row with every column; what is not given is null."""
    names: Sequence[str] = [field.name for field in _CAPTION]
    return {name: {**row, **changed}.get(name) for name in names}
