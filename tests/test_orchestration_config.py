"""Strict configuration: unknown keys, overrides, exit codes' errors."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from orchestration.config import Config, load_config
from orchestration.errors import ConfigError


class Sharp(Config):
    kind: Literal["sharp"] = "sharp"
    tiles: int = 8


class Flow(Config):
    kind: Literal["flow"] = "flow"
    rate: float = 6.0


class Inner(Config):
    threshold: float = Field(0.5, ge=0)


class Settings(Config):
    name: str
    inner: Inner = Inner()
    parts: tuple[Annotated[Sharp | Flow, Field(discriminator="kind")], ...] = ()


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: a\ninner: {threshold: 0.7}\nparts: [{kind: sharp}, {kind: flow, rate: 2}]\n")
    return file


def test_defaults_then_yaml_then_overrides(path):
    loaded = load_config(Settings, path, ["inner.threshold=0.9", "parts.flow.rate=4", "name=b"])
    assert (loaded.name, loaded.inner.threshold, loaded.parts[1].rate, loaded.parts[0].tiles) == ("b", 0.9, 4.0, 8)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inner.treshold=1", ["inner.treshold", "did you mean 'threshold'"]),
        ("parts.flow.rats=1", ["rats", "did you mean 'rate'"]),
        ("parts.blur.rate=1", ["'blur'", "sharp, flow"]),
        ("inner.threshold=-1", ["inner.threshold", "greater than or equal"]),
        ("nonsense", ["key=value"]),
        ("name.x.y=1", []),
    ],
)
def test_errors_name_the_key_and_the_nearest_valid_one(path, override, words):
    with pytest.raises(ConfigError) as caught:
        load_config(Settings, path, [override])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_broken_files_are_usage_errors(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1,")
    (tmp_path / "list.yaml").write_text("- 1")
    for name in ("missing.yaml", "broken.yaml", "list.yaml"):
        with pytest.raises(ConfigError, match=name):
            load_config(Settings, tmp_path / name)


def test_fingerprint_follows_values(path):
    first = load_config(Settings, path)
    assert first.fingerprint() == load_config(Settings, path).fingerprint()
    assert first.fingerprint() != load_config(Settings, path, ["name=b"]).fingerprint()
    assert first.fingerprint({"name"}) == load_config(Settings, path, ["name=b"]).fingerprint({"name"})
