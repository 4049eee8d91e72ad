"""What becomes of every codec in every container, and whether copies show exactly the source's frames.

    python benchmarks/lossless.py [VIDEO]

Makes sources from VIDEO (default: bikes.mp4 of the samples), cuts five clips of each, and compares ffmpeg's framemd5 of
every copied clip with that of the source's span. Prints a markdown table; exits 1 if a copy differs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from helpers_media import frame_md5, make_video, scan_video  # type: ignore[import-not-found]

from curation.cut import CutConfig, cut_clips

FOOTAGE = Path(__file__).parent.parent / ".cache/samples/videos/small/bikes.mp4"
SPANS = ((0, 20), (20, 29), (28, 62), (30, 60), (59, 88))
SOURCES: list[tuple[str, str, dict]] = [
    ("h264", "mp4", {"bframes": 0}),
    ("h264", "mp4", {"bframes": 3}),
    ("h264", "mp4", {"bframes": 3, "open_gop": True}),
    ("h264", "mp4", {"vfr": True}),
    ("h264", "mp4", {"interlaced": True}),
    ("h264", "mp4", {"pix_fmt": "yuv420p10le"}),
    ("h264", "mp4", {"rotation": 90, "sar": "4/3"}),
    ("h264", "mov", {"bframes": 3, "open_gop": True}),
    ("h264", "mkv", {"bframes": 3, "open_gop": True}),
    ("h264", "mkv", {"vfr": True}),
    ("h264", "ts", {"bframes": 3, "open_gop": True}),
    ("h264", "ts", {"interlaced": True}),
    ("h264", "flv", {}),
    ("h264", "avi", {"bframes": 0}),
    ("h264", "avi", {"bframes": 3}),
    ("hevc", "mp4", {"open_gop": True}),
    ("hevc", "mov", {"pix_fmt": "yuv420p10le"}),
    ("hevc", "mkv", {"open_gop": True}),
    ("hevc", "ts", {"open_gop": True}),
    ("av1", "mp4", {}),
    ("av1", "mkv", {}),
    ("av1", "webm", {}),
    ("vp9", "mp4", {}),
    ("vp9", "mkv", {}),
    ("vp9", "webm", {}),
    ("mpeg4", "mp4", {}),
    ("mpeg4", "mkv", {}),
    ("mpeg4", "avi", {"bframes": 0}),
    ("mpeg4", "avi", {}),
    ("mpeg2", "mp4", {"open_gop": True}),
    ("mpeg2", "mkv", {}),
    ("mpeg2", "ts", {"open_gop": True}),
    ("mpeg2", "mpg", {"open_gop": True}),
    ("mjpeg", "mov", {"pix_fmt": "yuvj420p"}),
    ("mjpeg", "avi", {"pix_fmt": "yuvj420p"}),
    ("ffv1", "mkv", {}),
    ("vp8", "webm", {}),
    ("prores", "mov", {"pix_fmt": "yuv422p10le"}),
    ("wmv2", "wmv", {}),
]


def main() -> None:
    footage = Path(sys.argv[1]) if len(sys.argv) > 1 else FOOTAGE
    if not footage.exists():
        sys.exit(f"{footage} is not there: name a video, or run `make samples`")
    differing = 0
    print("| codec | container | made with | cut | checked | framemd5 equal | why not copied |\n|" + "---|" * 7)
    for codec, container, how in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            source = make_video(Path(folder) / f"source.{container}", footage, codec, **how)
            scan = scan_video(source)
            requests = [scan.request(a, b, Path(folder) / f"{a}-{b}.mp4") for a, b in SPANS]
            results = cut_clips(source, requests, CutConfig())
            frames = frame_md5(source)
            pairs = [(q, r) for q, r in zip(requests, results, strict=True) if r.cut == "copy"]
            equal = [frame_md5(q.target) == frames[q.span.start : q.span.end] for q, _ in pairs]
        differing += equal.count(False)
        kinds = sorted({result.cut for result in results})
        cuts = ", ".join(f"{sum(r.cut == kind for r in results)} {kind}" for kind in kinds)
        checked = ", ".join(sorted({result.verified for _, result in pairs})) or "–"
        made = ", ".join(f"{key} {value}" for key, value in how.items()) or "–"
        why = "; ".join(sorted({r.reason for r in results if r.reason})) or "–"
        print(
            f"| {codec} | {container} | {made} | {cuts} | {checked} | {sum(equal)} of {len(pairs)} | {why} |",
            flush=True,
        )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
