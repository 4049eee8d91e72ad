"""All checks of one caption: `clean` it, `check` what is left, `trim` it to the trainer's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from captioning.checks.camera import CameraConfig, camera
from captioning.checks.content import ContentConfig, content
from captioning.checks.degenerate import DegenerateConfig, degenerate
from captioning.checks.flag import Flag
from captioning.checks.language import LanguageConfig, language
from captioning.checks.match import MatchConfig
from captioning.checks.screen_text import ScreenTextConfig, screen_text
from captioning.checks.tokens import LIMIT
from orchestration.config import Config


class ChecksConfig(Config):
    """A section that is null is a check not made."""

    degenerate: DegenerateConfig | None = DegenerateConfig()
    language: LanguageConfig | None = LanguageConfig()
    content: ContentConfig | None = ContentConfig()
    screen_text: ScreenTextConfig | None = ScreenTextConfig()
    camera: CameraConfig | None = CameraConfig()
    match: MatchConfig | None = Field(default=None, description="caption against pictures; needs CLIP weights")
    tokenizer: str | None = Field(default=None, description="hub name or folder of the trainer's; null: an estimate")
    max_tokens: int = Field(default=LIMIT, ge=1, description="what the trainer sees of a caption")


def check(text: str, row: Mapping[str, Any], config: ChecksConfig, *, finish: str = "", prompt: str = "") -> list[Flag]:
    """What is wrong with a cleaned caption; none: fit for training.

    Args:
        row: the clip's; `text`, `camera_motion`, `camera_confidence` and `camera_pan/tilt/zoom` are looked at.
        finish: the backend's finish reason; `length`: cut off.
        prompt: what was asked, so that its echo is found.

    `config.match` needs pictures and a network: `match.Matcher` scores, `MatchConfig.flags` flags.
    """
    flags: list[Flag] = []
    if config.degenerate:
        flags += degenerate(text, config.degenerate, finish)
    if not text.strip():
        return flags
    if config.content:
        flags += content(text, config.content, prompt)
    if config.language:
        flags += language(text, config.language)
    if config.screen_text:
        flags += screen_text(text, row, config.screen_text)
    if config.camera:
        flags += camera(text, row, config.camera)
    return flags
