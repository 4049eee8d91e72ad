"""What a caption says, in fields: the one thing that is asked of a model, from which short and dense text follow.

The fields are SkyCaptioner's (subjects, shot, camera, surroundings, light) and what happens, in order of time.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Subject(BaseModel):
    """Somebody or something that the clip shows. All text is English, lower case, without a full stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"\w")  # "a brown rabbit"
    appearance: str = ""  # "with a white belly and long ears"
    action: str = ""  # "stretches and looks up"


class Structured(BaseModel):
    """One clip's contents. What is not known or not there is empty: absence is never claimed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str = Field(pattern=r"\w")  # one sentence: who does what where
    subjects: tuple[Subject, ...] = ()
    events: tuple[str, ...] = ()  # what happens, one sentence each, in order of time
    shot_type: str = ""  # extreme close-up, close-up, medium shot, long shot, ...
    camera_angle: str = ""  # eye level, low angle, high angle, overhead, ...
    camera_motion: str = ""  # static, pan left, zoom in, ...
    environment: str = ""
    lighting: str = ""
    style: str = ""  # documentary, animation, ...
    text: tuple[str, ...] = ()  # on-screen text, verbatim
