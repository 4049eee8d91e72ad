"""Prompts: Jinja files of this package by their names, or files of the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestration.errors import ConfigError

FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """name: of the file, or its path as it was given. source: its text; variables are filled in by `render`."""

    name: str
    source: str

    @property
    def version(self) -> str:
        """Changes with any letter of the prompt."""
        return f"{self.name}#{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"

    def render(self, **variables: Any) -> str:
        return self._template.render(**variables).strip()

    @cached_property
    def _template(self) -> Template:
        return _environment().from_string(self.source)

    def __getstate__(self) -> tuple[str, str]:  # a template cannot be pickled
        return self.name, self.source

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.__dict__.update(zip(("name", "source"), state, strict=True))


def load(name: str, variables: frozenset[str] = frozenset()) -> Prompt:
    """A prompt of this package (`structured-1`), or a file's (`./mine.jinja`).

    Raises ConfigError where it is not there, is no template, asks for other `variables` than it will be given, or is
    empty. Prompts of one kind begin alike for every clip, so that servers compute that beginning once: what differs
    between clips belongs at a prompt's end.
    """
    path = FOLDER / f"{name}.jinja"
    if not (name.replace("-", "").isalnum() and path.is_file()):
        path = Path(name)
    try:
        source = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(sorted(found.stem for found in FOLDER.glob("*.jinja")))
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"prompt {name!r}: {reason}. Give a file, or one of {known}") from error
    try:
        wanted = meta.find_undeclared_variables(_environment().parse(source))
        prompt = Prompt(name if path.parent == FOLDER else path.name, source)
        if unknown := wanted - variables:
            given = f"; it is given {', '.join(sorted(variables))}" if variables else "; it is given none"
            raise ConfigError(f"prompt {name!r} asks for {', '.join(sorted(unknown))}{given}")
        if not (wanted or prompt.render()):
            raise ConfigError(f"prompt {name!r} is empty")
    except TemplateError as error:
        where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""  # type: ignore[attr-defined]
        raise ConfigError(f"prompt {name!r}{where}: {error}") from error
    return prompt


def _environment() -> ImmutableSandboxedEnvironment:
    """Templates cannot reach anything but what they are given; nothing is escaped, prompts are plain text."""
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False, autoescape=False
    )
