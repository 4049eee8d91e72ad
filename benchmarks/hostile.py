"""Hostile input: broken, odd, lying and treacherous files through `rushes curate`, OpenCV, PyAV and decord.

    python benchmarks/hostile.py [--folder FOLDER] [--small] [--no-tools] [--seed N] [--config YAML]

Makes the files (hostile_files.py; what FOLDER holds from an earlier run stays), curates them in one run with
`select=all`, and checks each row and each kept clip (hostile_check.py): a clip is true where its frames are, to the
bit, frames of the undamaged file in order and without a gap, and read_clip shows the numbers that they carry. Then each
file is read by three usual libraries with limits of memory and time (hostile_tools.py). Playlists and references name a
canary, a file and a server on this machine, that nobody may touch; where strace is installed, the system calls of our
decoder are looked through as well. Prints a Markdown table and everything that is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from hostile_check import Verdict, judge
from hostile_files import make_files
from hostile_foreign import KIND, Canary
from hostile_tools import OUTCOMES, TOOLS, Reader, Seen, outcome
from hostile_truth import Made

ROOT = Path(__file__).parents[1]
TRACED = """
import json, sys
from curation.sandbox import JobFailed, Sandbox
from curation.plan import MeasurePlan
from curation.decode import DecodeConfig
sandbox = Sandbox()
for path in json.load(sys.stdin):
    try:
        sandbox.run("decode", path=path, folder=sys.argv[1], config=DecodeConfig().model_dump(mode="json"),
                    plan=MeasurePlan().model_dump(mode="json"))
    except JobFailed:
        pass
sandbox.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files are made and stay; without it they are removed")
    parser.add_argument("--config", default=str(ROOT / "tests" / "frames.yaml"), help="default: no models")
    parser.add_argument("--small", action="store_true", help="one or two files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--no-tools", action="store_true", help="do not read the files with other libraries")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        run(
            (options.folder or Path(spare)).resolve(), options.config, options.small, options.seed, not options.no_tools
        )


def run(folder: Path, config: str, small: bool, seed: int, tools: bool) -> None:
    canary = Canary(folder / "canary")
    files = make_files(folder, canary, small, seed)
    size = sum((folder / "raw" / made.name).stat().st_size for made in files)
    print(f"{len(files):,} files of {len({made.kind for made in files})} kinds, {size / 1e6:,.0f} MB\n", flush=True)
    canary.touched()
    dataset, begun = folder / "dataset", time.monotonic()
    shutil.rmtree(dataset, ignore_errors=True)
    settings = (f"input={folder / 'raw'}", f"output={dataset}", "select=all")
    command = [sys.executable, "-m", "orchestration.cli", "curate", config, *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    seconds, touched = time.monotonic() - begun, canary.touched()
    print(f"rushes curate: exit {done.returncode}, {seconds:,.0f} s; canary touched: {touched or 'no'}", flush=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    print(f"strace of the decoder on files that refer to others: {traced(files, folder, canary)}\n", flush=True)
    verdicts = judge(files, folder, dataset)
    theirs = read_with_tools(files, folder, canary) if tools else {}
    print(table(verdicts, theirs))
    for verdict in verdicts:
        for complaint in verdict.complaints[:2]:
            print(f"- {verdict.made.name!r} ({verdict.made.kind}; {verdict.made.note}): {complaint}")
    canary.close()


def traced(files: Sequence[Made], folder: Path, canary: Canary) -> str:
    """Which files and addresses the decoder opened, in words."""
    if not shutil.which("strace"):
        return "strace is not installed"
    log = folder / "strace"
    paths = [str(folder / "raw" / made.name) for made in files if made.kind in (KIND, "names that are patterns")]
    with tempfile.TemporaryDirectory() as scratch:
        calls = ("-f", "-qq", "-s", "4096", "-e", "trace=open,openat,connect,execve", "-o", str(log))
        command = ["strace", *calls, sys.executable, "-c", TRACED, scratch]
        subprocess.run(command, input=json.dumps(paths), text=True, check=True, capture_output=True)
    lines = log.read_text(errors="replace").splitlines()
    foreign = [line for line in lines if f'"{canary.folder}' in line or re.search(r"connect\(.*AF_INET", line)]
    return (
        f"{len(lines):,} calls for {len(paths)} files, none to the canary" if not foreign else f"TOUCHED: {foreign[:3]}"
    )


def read_with_tools(files: Sequence[Made], folder: Path, canary: Canary) -> dict[str, dict[str, Counter[str]]]:
    """Kind -> tool -> how often each outcome."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: {tool: Counter() for tool in TOOLS})
    known: dict[tuple[str, str], Seen] = {}
    reader = Reader()
    for made in files:
        for tool in TOOLS:
            counts[made.kind][tool][outcome(tool, made, folder, canary, reader, known)] += 1
    reader.close()
    return counts


def table(verdicts: Sequence[Verdict], theirs: dict[str, dict[str, Counter[str]]]) -> str:
    """Markdown, a row a kind. Of the tools: right / wrong without a word / error / crash or hang / foreign."""
    kinds: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        kinds[verdict.made.kind].append(verdict)
    rows = [
        f"| kind | files | ok | failed | clips kept | wrong | unseen | {' | '.join(TOOLS)} |",
        f"|---|{'---|' * (6 + len(TOOLS))}",
    ]
    for kind in sorted(kinds):
        tools = " | ".join(_told(counts) for counts in theirs[kind].values()) if theirs else ""
        rows.append(f"| {kind} | {_counted(kinds[kind])} | {tools} |")
    sums = {tool: sum((counts[tool] for counts in theirs.values()), Counter()) for tool in TOOLS}
    rows.append(f"| **all** | {_counted(verdicts)} | {' | '.join(_told(sums[tool]) for tool in TOOLS if theirs)} |")
    return "\n".join(rows) + "\n"


def _told(counts: Counter[str]) -> str:
    merged = {**counts, "crash": counts["crash"] + counts["hang"]}
    return " / ".join(str(merged.get(name, 0)) for name in OUTCOMES if name != "hang")


def _counted(verdicts: Sequence[Verdict]) -> str:
    """The columns about rushes."""
    counts = Counter("ok" if verdict.status == "duplicate" else verdict.status for verdict in verdicts)
    clips = sum(verdict.clips for verdict in verdicts)
    wrong, unseen = sum(bool(each.complaints) for each in verdicts), sum(bool(each.unseen) for each in verdicts)
    columns = (len(verdicts), counts["ok"], counts["failed"], clips, wrong, unseen)
    return " | ".join(f"{number:,}" for number in columns)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
