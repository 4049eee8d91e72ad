"""Keeps every frame's thumbnail for the refiner and for TransNetV2."""

from __future__ import annotations

import tempfile

import numpy as np

from curation.video import Frame

SHAPE = (27, 48, 3)


class Thumbs:
    """Leaves `rgb`: [N, 27, 48, 3] uint8.

    Three hours at 24 fps are 1 GB, so rows go to an unlinked temporary file and come back as a memory map: only the
    pages in use are resident, and the file disappears with its last reference.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="rushes-thumbs-")  # noqa: SIM115 (lives as long as the map)
        self._count = 0

    def see(self, frame: Frame) -> None:
        self._file.write(np.ascontiguousarray(frame.thumb).data)
        self._count += 1

    def finish(self) -> dict[str, np.ndarray]:
        self._file.flush()
        if not self._count:  # an empty file cannot be mapped
            return {"rgb": np.zeros((0, *SHAPE), np.uint8)}
        return {"rgb": np.memmap(self._file, np.uint8, "r", shape=(self._count, *SHAPE))}
