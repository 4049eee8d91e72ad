"""One YAML a run, strict: defaults < YAML < `key=value` overrides."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestration.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration section: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    def fingerprint(self, exclude: set[str] | None = None) -> str:
        """16 hex digits that change whenever a setting outside `exclude` changes."""
        text = json.dumps(self.model_dump(mode="json", exclude=exclude), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_SECRET = re.compile(r"(?:^|_)(?:api_?key|hf_token|access_token|auth_token|secret|password|authorization)$", re.I)


def secret_key(value: Any) -> str:
    """The first name in a mapping, at any depth, that looks as if it named a secret; empty where none does."""
    for name, below in value.items() if isinstance(value, dict) else ():
        if found := name if _SECRET.search(str(name)) else secret_key(below):
            return str(found)
    return ""


C = TypeVar("C", bound=Config)


def load_config(model: type[C], path: str | Path, overrides: Iterable[str] = ()) -> C:
    """Read `path`, apply `a.b=value` overrides, validate as `model`.

    A list whose items have a `kind` is addressed by it: `scorers.motion.fps=4`.
    Raises ConfigError with the key, what is wrong with it and the nearest valid name.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror or error}") from error
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top level, found a {type(data).__name__}")
    for override in overrides:
        _apply_override(data, override)
    return parse_config(model, data, str(path))


def from_settings(model: type[C], settings: Iterable[str], name: str) -> C:
    """`model` without a file: `a.b=value` over its defaults; `name` is what error messages call it."""
    data: dict[str, Any] = {}
    for setting in settings:
        _apply_override(data, setting)
    return parse_config(model, data, name)


def parse_config(model: type[C], data: dict[str, Any], name: str) -> C:
    """Validate `data` as `model`; `name` is what error messages call it."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, item) for item in error.errors()]
        raise ConfigError(f"{name}: " + "; ".join(dict.fromkeys(lines))) from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"override {override!r} is not of the form key=value (as in cut.audio=true)")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        node[_position(node, last, key)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"override {key}: {'.'.join(parents)} is a plain value, it has no key {last!r}")


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, key)]
    if not isinstance(node, dict):
        raise ConfigError(f"override {key}: nothing to descend into at {part!r}")
    if not isinstance(node.get(part), dict | list):
        node[part] = {}
    return node[part]


def _position(items: list[Any], part: str, key: str) -> int:
    kinds = [item.get("kind") if isinstance(item, dict) else None for item in items]
    if part in kinds:
        return kinds.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = ", ".join(str(kind) for kind in kinds if kind) or f"0 to {len(items) - 1}"
    raise ConfigError(f"override {key}: no item {part!r} in the list; there are {names}")


def _explain(model: type[BaseModel], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] != "extra_forbidden":
        return f"{location or 'configuration'}: {item['msg'].removeprefix('Value error, ')}"
    known = _known_keys(model, item["loc"][:-1])
    near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}" if known else ""
    return f"unknown key {location!r}{hint}"


def _known_keys(model: Any, path: tuple[Any, ...]) -> list[str]:
    """Field names of every model that `path` may lead to (unions and lists are searched)."""
    candidates = _models(model)
    for part in path:
        following = []
        for candidate in candidates:
            field = candidate.model_fields.get(part) if isinstance(part, str) else None
            if field is not None:
                following += _models(field.annotation)
            elif isinstance(part, str) and "kind" in candidate.model_fields:
                if part in get_args(candidate.model_fields["kind"].annotation):
                    following.append(candidate)
            elif isinstance(part, int):
                following.append(candidate)
        candidates = following or candidates
    return sorted({name for candidate in candidates for name in candidate.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models(argument)]
