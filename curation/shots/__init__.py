"""Shot detectors. A new one is a file here and a line below."""

from typing import Annotated

from pydantic import Field

from curation.shots.adaptive import Adaptive
from curation.shots.content import Content
from curation.shots.none import Whole
from curation.shots.stride import Stride
from curation.shots.transnetv2 import TransNetV2

Shots = Annotated[
    Adaptive | Content | TransNetV2 | Stride | Whole,
    Field(discriminator="kind"),
]
