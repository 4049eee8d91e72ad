"""Which text is laid over the picture and which belongs to the scene.

Between two pictures of a clip text is looked for in two places: where it was (an overlay stands still), and where the
camera has carried the scene (a sign goes with it). Edges are compared, not boxes: a box of another text in the same
place is no evidence, and a translucent logo keeps its edges over any background. Where camera and surroundings stand
still both places are the same, and only position and rendering are left to judge by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import cv2
import numpy as np

from curation.scorers.text_boxes import Kind, Place, TextBox, angle_of, crispness, height_of, judge_place, overlap
from curation.scorers.text_edges import TEXTURE, Edges, agreement, edges_of, gradient

SAME = 0.6  # agreement of edges from which on two crops show the same thing
OTHER = 0.4  # and below which they do not
MOVED = 3.0  # px; the camera must carry a box further than this for the two places to differ
STEADY = 0.45  # agreement of the surroundings from which on the scene goes on
STRONG = 4.0  # votes that position and rendering cannot overrule
BLOCKS = (16, 9)  # across and down, in which pictures are compared as wholes
OTHERS = 3  # pictures nearest in time that one is compared with
MOST_BOXES = 120  # of a picture, largest first; the rest of it takes the kind that covers most


def tell_apart(
    pictures: Sequence[np.ndarray], boxes: Sequence[np.ndarray], moves: bool | None = None
) -> list[list[TextBox]]:
    """Kinds of text.

    pictures: each [H, W, 3] uint8 RGB, in order of time.
    boxes: for each picture [N, 4, 2] px.
    moves: whether the camera does; None where that has to be seen in the pictures.

    Returns the boxes of each picture, largest first, with those added that were overlooked in it but found in
    another and stand there unchanged.
    """
    shots = [_Shot(picture, found) for picture, found in zip(pictures, boxes, strict=True)]
    pairs: dict[tuple[int, int], _Pair] = {}
    scores: list[list[float]] = []
    stays: list[list[dict[int, float]]] = []
    for number, shot in enumerate(shots):
        scores.append([])
        stays.append([])
        nearest = sorted((other for other in range(len(shots)) if other != number), key=lambda o: abs(o - number))
        for at, corners in enumerate(shot.boxes[:MOST_BOXES]):
            place = shot.places[at]
            votes, stay = [], {}
            for other in nearest[:OTHERS]:
                if shots[other].grey.shape != shot.grey.shape:
                    continue
                if (number, other) not in pairs:
                    pairs[number, other] = _Pair(shot, shots[other], moves)
                vote, stay[other] = pairs[number, other].evidence(corners, place.kind)
                votes.append(vote)
            # What once went with the scene belongs to it; it stands still where the camera comes back.
            scores[-1].append(-STRONG if -STRONG in votes else sum(votes) + place.score)
            stays[-1].append(stay)
    return _settle(shots, scores, stays)


def _settle(
    shots: Sequence[_Shot], scores: Sequence[Sequence[float]], stays: Sequence[Sequence[Mapping[int, float]]]
) -> list[list[TextBox]]:
    """The same text in the same place is of one kind; what stands still is in every picture it stands still in."""
    told: list[list[TextBox]] = []
    added: list[list[TextBox]] = [[] for _ in shots]
    for number, shot in enumerate(shots):
        told.append([])
        for at, score in enumerate(scores[number]):
            alike = [score]
            missing = []
            for other, same in stays[number][at].items():
                if same < SAME:
                    continue
                twin = shots[other].at(shot.boxes[at])
                if twin is None:
                    missing.append(other)
                elif twin < len(scores[other]):
                    alike.append(scores[other][twin])
            overlay = float(np.mean(alike)) > 0 and min(alike) > -STRONG
            box = TextBox(shot.boxes[at], shot.places[at].kind if overlay else "scene")
            told[-1].append(box)
            if overlay:
                for other in missing:
                    added[other].append(box)
        if len(shot.boxes) > MOST_BOXES:
            overlay = sum(cv2.contourArea(box.corners) for box in told[-1] if box.kind != "scene")
            scene = sum(cv2.contourArea(box.corners) for box in told[-1] if box.kind == "scene")
            told[-1] += [TextBox(c, "overlay" if overlay > scene else "scene") for c in shot.boxes[MOST_BOXES:]]
    for number, more in enumerate(added):
        for box in more:
            if not any(overlap(box.corners, known.corners) > 0.5 for known in told[number]):
                told[number].append(box)
    return told


class _Shot:
    """A picture with its boxes, largest first."""

    def __init__(self, rgb: np.ndarray, boxes: np.ndarray) -> None:
        self.rgb = rgb
        self.grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        areas = [cv2.contourArea(corners) for corners in boxes]
        self.boxes = [boxes[number] for number in np.argsort(areas, kind="stable")[::-1]] if len(boxes) else []

    @cached_property
    def covered(self) -> np.ndarray:
        """[H, W] uint8, 255 where there is text."""
        mask = np.zeros(self.grey.shape, np.uint8)
        for corners in self.boxes:
            cv2.fillConvexPoly(mask, corners.round().astype(np.int32), 255)
        return mask

    @cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray | None]:
        """[N, 2] px and descriptors of corners outside of text."""
        scale = min(1.0, 512 / max(self.grey.shape))
        small = cv2.resize(self.grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        free = cv2.resize(cv2.bitwise_not(cv2.dilate(self.covered, np.ones((9, 9), np.uint8))), small.shape[::-1])
        points, descriptors = cv2.ORB.create(600, fastThreshold=10).detectAndCompute(small, free)
        return np.array([point.pt for point in points], np.float32).reshape(-1, 2) / scale, descriptors

    @cached_property
    def lines(self) -> list[tuple[float, float, float, float]]:
        """For each box the left, top, right, bottom (shares of the picture) of the line of words it stands in."""
        height, width = self.grey.shape
        rects = np.array([[*c.min(0), *c.max(0)] for c in self.boxes[:MOST_BOXES]]).reshape(-1, 4)
        lines = []
        for rect in rects:
            left, top, right, bottom = rect
            tall = bottom - top
            alike = (np.abs(rects[:, 1] - top) < 0.4 * tall) & (np.abs(rects[:, 3] - bottom) < 0.4 * tall)
            for other in sorted(rects[alike].tolist(), key=lambda r: abs(r[0] - rect[0])):
                if other[0] - right < 1.5 * tall and left - other[2] < 1.5 * tall:
                    left, right = min(left, other[0]), max(right, other[2])
            lines.append((left / width, top / height, right / width, bottom / height))
        return lines

    @cached_property
    def places(self) -> list[Place]:
        return [
            judge_place(line, angle_of(corners), crispness(self.rgb, corners))
            for line, corners in zip(self.lines, self.boxes, strict=False)
        ]

    def at(self, corners: np.ndarray) -> int | None:
        """The box in this place."""
        for number, other in enumerate(self.boxes):
            if overlap(corners, other) > 0.4:
                return number
        return None


class _Pair:
    """Text of one picture, sought in another."""

    def __init__(self, here: _Shot, there: _Shot, moves: bool | None) -> None:
        self._moves = moves
        self._both = self._here, self._there = here, there

    @cached_property
    def camera(self) -> np.ndarray | None:
        """3 x 3, from px here to px there, by what is no text; None where it cannot be told."""
        (points, mine), (targets, theirs) = self._here.features, self._there.features
        if mine is None or theirs is None or min(len(points), len(targets)) < 16:
            return None
        matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(mine, theirs)
        if len(matches) < 16:
            return None
        source = points[[match.queryIdx for match in matches]]
        target = targets[[match.trainIdx for match in matches]]
        cv2.setRNGSeed(0)  # RANSAC draws from it; the same clip gets the same scores
        matrix, inliers = cv2.findHomography(source, target, cv2.RANSAC, 4.0)
        if matrix is None or inliers.sum() < max(14, 0.2 * len(matches)):
            return None
        return matrix if 0.2 < np.linalg.det(matrix[:2, :2]) < 5 else None

    @cached_property
    def changed(self) -> float:
        """Share, 0-1, of the picture outside of text that is not as it was; exposure aside."""
        scale = min(1.0, 384 / max(self._here.grey.shape))
        mine, theirs = (cv2.resize(s.grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for s in self._both)
        covered = cv2.resize(cv2.bitwise_or(self._here.covered, self._there.covered), mine.shape[::-1])
        free = (covered == 0).astype(np.float32)
        (ax, ay), (bx, by) = gradient(mine), gradient(theirs)
        square = ax * ax + ay * ay
        weight = np.where(square > TEXTURE**2, np.sqrt(square), 0) * free
        same = weight * np.clip((ax * bx + ay * by) / np.maximum(square, 1e-6), 0, 1)
        # Means of blocks: edges, edges that agree, levels, what is free.
        edges, agree, level, other, open_ = (
            cv2.resize(plane.astype(np.float32), BLOCKS, interpolation=cv2.INTER_AREA)
            for plane in (weight, same, mine * free, theirs * free, free)
        )
        counts = open_ > 0.3
        if not counts.any():
            return 0.0
        drift = (other - level)[counts] / open_[counts]
        agree, edges = agree[counts], edges[counts]
        moved = (edges > 0.1) & (agree < 0.5 * edges) | (np.abs(drift - np.median(drift)) > 8)
        return float(moved.mean())

    def evidence(self, corners: np.ndarray, kind: Kind) -> tuple[float, float]:
        """Votes for an overlay (negative: for the scene), and how well the text agrees with what is in its place."""
        here, there = self._here, self._there
        height, width = here.grey.shape
        tall = height_of(corners)
        margin = max(10.0, 0.8 * tall)
        left, top = np.maximum(np.floor(corners.min(0) - margin), 0).astype(int).tolist()
        right, bottom = np.minimum(np.ceil(corners.max(0) + margin), (width, height)).astype(int).tolist()
        if right - left < 4 or bottom - top < 4:
            return 0.0, 0.0
        crop = np.s_[top:bottom, left:right]
        text = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(text, (corners - (left, top)).round().astype(np.int32), 1)
        around = (cv2.dilate(here.covered[crop], np.ones((5, 5), np.uint8)) == 0) & (there.covered[crop] == 0)
        mine, theirs = gradient(here.grey[crop]), gradient(there.grey[crop])
        strokes, scene = edges_of(mine, text > 0), edges_of(mine, around, TEXTURE)
        stays, still = agreement(strokes, theirs) or 0.0, agreement(scene, theirs)
        if stays >= SAME:
            moves = self._moves if self._moves is not None else self.changed >= 0.6
            if moves and (self.changed >= 0.6 or (still is not None and still < OTHER)):
                return STRONG, stays
            return (0.5 if still is not None and still < OTHER else 0.0), stays  # something moves behind it, or past it
        follows, steady, far = self._carried(corners, strokes, scene, (left, top, right, bottom))
        if follows is not None and far > MOVED and follows >= SAME and follows > stays + 0.15:
            return -STRONG, stays
        if stays < OTHER and (follows is None or follows < OTHER):
            goes_on = steady if follows is not None and steady is not None else still
            if goes_on is None:
                goes_on = 1 - self.changed
            if goes_on >= STEADY:
                return (2.5 if kind != "watermark" else 1.0), stays  # the scene goes on without the text
        return 0.0, stays

    def _carried(
        self, corners: np.ndarray, strokes: Edges | None, scene: Edges | None, rect: tuple[int, int, int, int]
    ) -> tuple[float | None, float | None, float]:
        """Agreement of text and surroundings with where the camera carried them (None where it is out of sight), and
        how far in px that is. The edges are those within rect: left, top, right, bottom."""
        camera = self.camera
        if camera is None:
            return None, None, 0.0
        carried = cv2.perspectiveTransform(corners[None].astype(np.float64), camera)[0]
        height, width = self._there.grey.shape
        if (carried < 0).any() or (carried >= (width, height)).any():
            return None, None, 0.0
        slack = 2  # px that a text may be off, as its plane is not that of the scene
        left, top, right, bottom = rect
        back = np.array([[1, 0, slack - left], [0, 1, slack - top], [0, 0, 1.0]]) @ np.linalg.inv(camera)
        size = (right - left + 2 * slack, bottom - top + 2 * slack)
        theirs = gradient(cv2.warpPerspective(self._there.grey, back, size, borderMode=cv2.BORDER_REPLICATE))
        shifts = [(down, across) for down in range(2 * slack + 1) for across in range(2 * slack + 1)]
        agree = [agreement(strokes, theirs, *shift) or 0.0 for shift in shifts]
        best = int(np.argmax(agree))
        return (
            agree[best],
            agreement(scene, theirs, *shifts[best]),
            float(np.linalg.norm(carried - corners, axis=1).max()),
        )
