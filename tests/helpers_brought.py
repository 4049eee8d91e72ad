"""A made dataset, and files of captions beside its videos."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from captioning.brought.bring import Brought, bring
from captioning.brought.config import BroughtConfig
from orchestration.config import Config, parse_config


class Run(Config):
    captions: BroughtConfig = BroughtConfig()


class World:
    """Videos by their path below `root`, with clips by seconds at 10 frames/s."""

    def __init__(self, root: str | Path):
        self.root = str(root)
        self.videos: list[dict] = []
        self.clips: list[dict] = []

    def add(self, name: str, *spans: tuple[float, float], duration: float = 10.0, status: str = "ok") -> str:
        """The video's id; without spans it has one clip, all of it. A failed one has no id and no clips."""
        video_id = f"{len(self.videos):064x}"[::-1] if status != "failed" else None
        self.videos.append(
            {
                "uri": f"{self.root}/{name}",
                "video_id": video_id,
                "status": status,
                "duration_s": duration,
                "frames_decoded": round(duration * 10),
            }
        )
        if not video_id:
            return ""
        for start, end in spans or [(0.0, duration)]:
            frames = round(start * 10), round(end * 10)
            self.clips.append(
                {
                    "clip_id": f"{video_id[:16]}-{frames[0]:07d}-{frames[1]:07d}",
                    "video_id": video_id,
                    "start_s": start,
                    "end_s": end,
                    "start_frame": frames[0],
                    "end_frame": frames[1],
                }
            )
        return video_id

    def bring(self, _path: str | Path = "", **captions) -> Brought:
        config = parse_config(Run, {"captions": {"path": str(_path or self.root), **captions}}, "run.yaml")
        return bring(config.captions, self.videos, self.clips)

    def texts(self, brought: Brought) -> dict[str, list[list[str]]]:
        """Video path → the texts of its clips, in order of time; without the clips that have none."""
        names = {video["video_id"]: video["uri"][len(self.root) + 1 :] for video in self.videos}
        found: dict[str, list[list[str]]] = {}
        for clip in self.clips:
            if clip["clip_id"] in brought.captions:
                found.setdefault(names[clip["video_id"]], []).append(list(brought.captions[clip["clip_id"]]))
        return found


def fresh_world(tmp_path: Path) -> World:
    """One whose root is an empty folder."""
    world = World(tmp_path / "raw")
    (tmp_path / "raw").mkdir()
    return world


def write(world: World, name: str, data: str | bytes) -> Path:
    path = Path(world.root) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def table(*rows: list) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
