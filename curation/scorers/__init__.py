"""Scorers: one file, one config, documented columns. A new one is one file here and one line in `AnyScorer`."""

from __future__ import annotations

from typing import Annotated, Union, get_args

from pydantic import Field

from curation.scorers.aesthetic import Aesthetic
from curation.scorers.blockiness import Blockiness
from curation.scorers.borders import Borders
from curation.scorers.brisque import Brisque
from curation.scorers.camera_motion import CameraMotion
from curation.scorers.embedding import Embedding
from curation.scorers.exposure import Exposure
from curation.scorers.faces import Faces
from curation.scorers.freeze import Freeze
from curation.scorers.labels import Labels
from curation.scorers.motion import Motion
from curation.scorers.nsfw import Nsfw
from curation.scorers.sharpness import Sharpness
from curation.scorers.text import Text
from curation.video import Column

AnyScorer = Annotated[
    Union[  # noqa: UP007 - one line a scorer
        Motion,
        CameraMotion,
        Freeze,
        Borders,
        Sharpness,
        Exposure,
        Blockiness,
        Text,
        Embedding,
        Nsfw,
        Brisque,
        Faces,
        Aesthetic,
        Labels,
    ],
    Field(discriminator="kind"),
]


def score_columns() -> tuple[Column, ...]:
    """Columns of all registered scorers, in the order of the registry."""
    return tuple(column for scorer in get_args(get_args(AnyScorer)[0]) for column in scorer().columns())
