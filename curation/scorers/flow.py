"""The meter that motion and camera_motion share: optical flow, split into the camera's part and the objects'.

Every 1/rate seconds dense DIS flow (Kroeger et al., ECCV 2016) runs from the last grid frame to the new one on a luma
of 129-256 px. The camera's part is the flow of a moving plane (eight parameters: a homography to first order), fitted
robustly. The rest counts as object motion only as far as moving the pixels explains the picture better than the camera
alone does: flow errors in flat areas, noise, flicker and dissolves are not motion.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import cv2
import numpy as np

from curation.scorers.sampling import Clock
from curation.video import Frame, Span, halve

RATE = 6.0  # grid frames per second
MIN_SIDE = 32  # px of the working picture; DIS needs a few 8 px patches
CORNER = 4.0  # codes^2: smaller eigenvalue of the structure tensor at which a block's flow is fully trusted
NOISE = 4.0  # codes^2 of difference that need no explanation
INEXACT_PX, INEXACT_SHARE = 0.1, 0.03  # error of DIS flow on still pictures, px and share of the camera's shift
MEAN_RADIUS = 0.52  # mean distance of a 16:9 picture's points from its centre, in half diagonals


class CameraFit:
    """Fits camera motion to the flow of 4 px blocks. Positions are in half diagonals from the centre."""

    STEP = 4

    def __init__(self, height: int, width: int) -> None:
        self.radius = float(np.hypot(width, height)) / 2
        self.size = (width, height)
        rows, columns = height // self.STEP, width // self.STEP
        middle = (self.STEP - 1) / 2
        x, y = np.meshgrid(np.arange(columns) * self.STEP + middle, np.arange(rows) * self.STEP + middle)
        self.x, self.y = x, y  # [rows, columns] px
        u, v = (x - (width - 1) / 2) / self.radius, (y - (height - 1) / 2) / self.radius
        # Objects are in the middle more often than at the rim, where background shows.
        border = np.maximum(np.abs(u) / np.abs(u).max(), np.abs(v) / np.abs(v).max())
        self._prior = (0.5 + 0.5 * border)[::2, ::2].ravel()
        self._plane = _plane_basis(u.ravel(), v.ravel())
        some_u, some_v = u[::2, ::2].ravel(), v[::2, ::2].ravel()
        # The less a texture constrains the higher terms, the more they are held at zero.
        self._some_plane = _Model(_plane_basis(some_u, some_v), [1e-6, 1e-4, 1e-4, 1e-6, 1e-4, 1e-4, 3e-3, 3e-3])
        self._some_similarity = _Model(_similarity_basis(some_u, some_v), [1e-6, 1e-6, 1e-4, 1e-4])
        self._centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, self.radius]])
        self._uncentre = np.linalg.inv(self._centre)

    def fit(self, flow: np.ndarray, trust: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Flow [2, rows, columns] px and trust [rows, columns] 0-1 -> 8 parameters (px), the camera's flow, support.

        Support is the trusted share of blocks that follow the camera. Iteratively reweighted least squares with
        Geman-McClure weights, from the median shift over a similarity to a plane.
        """
        some = flow[:, ::2, ::2].reshape(2, -1).astype(np.float64)
        trusted = trust[::2, ::2].ravel()
        weight = trusted * self._prior + 1e-6
        sure = some[:, trusted >= _middle(trusted)]
        square = (some[0] - _middle(sure[0])) ** 2 + (some[1] - _middle(sure[1])) ** 2
        similarity, square = self._some_similarity.fit(some, weight, square, widest=8.0, steps=4)
        plane, square = self._some_plane.fit(some, weight, square, widest=2.0, steps=2)
        near = 0.5 + 0.05 * np.hypot(*similarity[:2])
        support = float(trusted[square < near * near].sum() / max(trusted.sum(), 1e-6))
        return plane, (self._plane @ plane).reshape(2, *trust.shape), support

    def homography(self, plane: np.ndarray) -> np.ndarray:
        """[3, 3] px to px: where each point of the earlier picture is in the later one."""
        a = plane / self.radius
        moved = np.array([[1 + a[1], a[2], a[0]], [a[4], 1 + a[5], a[3]], [-a[6], -a[7], 1]])
        return self._uncentre @ moved @ self._centre


class _Model:
    """Flow as a linear combination of `basis` [2N, K]; `ridge` [K] holds coefficients at zero."""

    def __init__(self, basis: np.ndarray, ridge: list[float]) -> None:
        self._basis, self._ridge = basis, np.array(ridge)
        self._dx, self._dy = np.split(basis, 2)
        # Every point's share of the normal matrix; weights are all that changes from step to step.
        self._normals = (self._dx[:, :, None] * self._dx[:, None] + self._dy[:, :, None] * self._dy[:, None]).reshape(
            len(self._dx), -1
        )

    def fit(
        self, flow: np.ndarray, weight: np.ndarray, square: np.ndarray, widest: float, steps: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flow [2, N] and squared distances [N] from a first guess -> coefficients, and squared distances from them."""
        size = len(self._ridge)
        right = self._dx * flow[0][:, None] + self._dy * flow[1][:, None]
        solved = np.zeros(size)
        for _ in range(steps):
            scale = min(widest * widest, max(0.09, _middle(square)))
            now = scale / (scale + square)
            now *= now * weight
            normal = (now @ self._normals).reshape(size, size)
            normal.flat[:: size + 1] += self._ridge * now.sum()
            solved = np.linalg.solve(normal, now @ right)
            rest = flow - (self._basis @ solved).reshape(flow.shape)
            square = rest[0] * rest[0] + rest[1] * rest[1]
        return solved, square


def _plane_basis(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[2N, 8]: dx = p0 + p1 u + p2 v + p6 u^2 + p7 uv, dy = p3 + p4 u + p5 v + p6 uv + p7 v^2."""
    one, zero = np.ones_like(u), np.zeros_like(u)
    dx = np.stack([one, u, v, zero, zero, zero, u * u, u * v], axis=1)
    dy = np.stack([zero, zero, zero, one, u, v, u * v, v * v], axis=1)
    return np.concatenate([dx, dy])


def _similarity_basis(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[2N, 4]: dx = p0 + p2 u - p3 v, dy = p1 + p2 v + p3 u."""
    one, zero = np.ones_like(u), np.zeros_like(u)
    return np.concatenate([np.stack([one, zero, u, -v], axis=1), np.stack([zero, one, v, u], axis=1)])


class FlowMeter:
    """Leaves one row a pair of neighbouring grid frames:

    first, last [P] int32: frame numbers of both ends; pairs chain over the whole video.
    camera [P, 4] float32: content's shift (x in frame widths/s, y in frame heights/s), log-scale/s, rotation rad/s
        (clockwise), display orientation.
    objects [P] float32: mean object motion over the picture, % of the diagonal per second.
    texture, support [P] float32: share of blocks with trusted flow, and share of those that follow the camera.
    """

    def __init__(self, rate: float) -> None:
        self._clock = Clock(rate)
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._dis.setFinestScale(1)  # half of the working size; the preset's quarter misses pedestrians
        self._fit: CameraFit | None = None
        self._grid = np.empty((0, 0, 2), np.float32)
        self._last: tuple[int, float, np.ndarray] | None = None
        self._pairs, self._rows = array("i"), array("f")  # flat: a film has tens of thousands of pairs

    def see(self, frame: Frame) -> None:
        if not self._clock.ticks(frame.time):
            return
        picture = frame.small
        if min(picture.shape) < MIN_SIDE:
            return
        if self._last is not None:
            index, time, before = self._last
            if before.shape == picture.shape and frame.time > time:
                self._pairs.extend((index, frame.index))
                self._rows.extend(self._measure(before, picture, frame.time - time))
        self._last = (frame.index, frame.time, picture)

    def finish(self) -> dict[str, np.ndarray]:
        pairs = np.array(self._pairs, np.int32).reshape(-1, 2)
        rows = np.array(self._rows, np.float32).reshape(-1, 7)
        return {
            "first": pairs[:, 0],
            "last": pairs[:, 1],
            "camera": rows[:, :4],
            "objects": rows[:, 4],
            "texture": rows[:, 5],
            "support": rows[:, 6],
        }

    def _measure(self, before: np.ndarray, after: np.ndarray, seconds: float) -> tuple[float, ...]:
        height, width = before.shape
        if self._fit is None or self._fit.size != (width, height):
            self._fit = CameraFit(height, width)
            x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
            self._grid = np.dstack([x, y])
        fit = self._fit
        flow = self._dis.calc(before, after, None)  # pyright: ignore[reportCallIssue, reportArgumentType]
        corner, contrast = _texture(before)
        trust = np.minimum(corner / CORNER, 1)
        block_flow = np.stack([_blocks(part) for part in cv2.split(flow)])
        plane, camera, support = fit.fit(block_flow, trust)

        rest = np.hypot(*(block_flow - camera))
        # Flow is less exact the further things move.
        rest = np.maximum(rest - INEXACT_PX - INEXACT_SHARE * np.hypot(camera[0], camera[1]), 0)
        by_camera = cv2.warpPerspective(
            after,
            fit.homography(plane),
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        by_flow = cv2.remap(after, self._grid + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore[reportCallIssue, reportArgumentType]
        explained = np.maximum(_difference(before, by_camera) - 2 * _difference(before, by_flow) - NOISE, 0)
        # A difference d where luma changes by g a pixel stands for d / g px; differences saturate, hence the factor.
        evidence = 3 * np.sqrt(explained) / np.maximum(contrast, 2)
        x, y = fit.x + camera[0], fit.y + camera[1]
        inside = (x >= 2) & (x < width - 3) & (y >= 2) & (y < height - 3)
        objects = float((np.minimum(rest, evidence) * inside).mean()) / (2 * fit.radius) * 100

        p = plane / seconds
        zoom, roll = (p[1] + p[5]) / 2 / fit.radius, (p[4] - p[2]) / 2 / fit.radius
        return (p[0] / width, p[3] / height, zoom, roll, objects / seconds, float(np.mean(trust > 0.1)), support)


def _middle(values: np.ndarray) -> float:
    """The upper median; np.median spends most of its time on other matters at this size."""
    return float(np.partition(values, len(values) // 2)[len(values) // 2])


def _blocks(values: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 px blocks; two exact halvings of a single channel are the fastest way in OpenCV."""
    return halve(halve(values))


def _texture(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks' smaller structure-tensor eigenvalue (codes^2 per px^2) and RMS gradient (codes per px)."""
    gx = cv2.Sobel(picture, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(picture, cv2.CV_32F, 0, 1, scale=1 / 8)
    xx, xy, yy = _blocks(gx * gx), _blocks(gx * gy), _blocks(gy * gy)
    return (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy), np.sqrt(xx + yy)


def _difference(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Blocks' mean squared difference, codes^2, after matching mean and contrast: a fade is not motion."""
    mean, spread = cv2.meanStdDev(picture)
    other_mean, other_spread = cv2.meanStdDev(other)
    gain = float(spread[0, 0] / other_spread[0, 0]) if other_spread[0, 0] > 1 else 1.0
    scaled = cv2.addWeighted(picture, 1.0, other, -gain, float(gain * other_mean[0, 0] - mean[0, 0]), dtype=cv2.CV_32F)
    return _blocks(scaled * scaled)


def pairs_within(meter: Mapping[str, np.ndarray], span: Span) -> slice:
    """Pairs whose both frames lie in `span`: a pair over a cut compares two scenes."""
    start = int(np.searchsorted(meter["first"], span.start))
    return slice(start, max(start, int(np.searchsorted(meter["last"], span.end))))
