"""What captioning's cleaner and checks catch, and what they catch wrongly.

Texts: benchmarks/caption_checks.jsonl. Written ones were written before the rules, by the rules' author; half of each
kind was set aside while they were tuned. SmolLM2's are what it gave, labelled by reading (`source` has the sampling).
Each has a `kind` (`good`, or what is wrong with it), `half`, `finish`, `row` (what curation would have measured) and,
where cleaning is the remedy, `want`: the caption that should be left.

    python benchmarks/caption_checks.py [--half tuning|held-out] [--show]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from captioning.checks.check import ChecksConfig, check
from captioning.checks.clean import clean

DATA = Path(__file__).with_suffix(".jsonl")
HALVES = ("tuning", "held-out")


def load() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DATA.read_text().splitlines()]


def judge(sample: dict[str, Any], config: ChecksConfig) -> tuple[bool, str, list[str]]:
    """(whether cleaner and checks did right, what is left, names of flags). Good: unchanged and without a flag. With
    `want`: cleaned to it, word for word. Else bad: flagged, or nothing is left."""
    left = clean(sample["text"])
    flags = [flag.name for flag in check(left, sample.get("row", {}), config, finish=sample["finish"])]
    if sample["kind"] == "good":
        return left == sample["text"] and not flags, left, flags
    if "want" in sample:
        return left == sample["want"], left, flags
    return bool(flags), left, flags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", choices=HALVES, help="only this half")
    parser.add_argument("--show", action="store_true", help="print each text that went wrong")
    options = parser.parse_args()
    samples = [sample for sample in load() if options.half in (None, sample["half"])]
    config = ChecksConfig()
    judge(samples[0], config)  # loads the language model
    right: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    names: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    start = time.perf_counter()
    for sample in samples:
        source = sample["source"].split("-")[0]
        did, left, flags = judge(sample, config)
        right[sample["kind"], source, sample["half"]].append(did)
        names[sample["kind"], source].update(set(flags))
        if options.show and not did:
            print(f"{sample['half']} {sample['kind']}: {sample['text']!r}\n    -> {left!r} {flags}")
    each = (time.perf_counter() - start) / len(samples)
    print("| kind | source | tuning half | held-out half | flags |\n|---|---|---|---|---|")
    for kind, source in sorted(names, key=lambda key: (key[0] != "good", key[1] != "written", key[0])):
        cells = [_share(right[kind, source, half], kind == "good") for half in HALVES]
        flags = ", ".join(f"{name} {count}" for name, count in names[kind, source].most_common(5))
        print(f"| {kind} | {source} | {' | '.join(cells)} | {flags} |")
    for title, good in (("good, wrongly caught or changed", True), ("bad, caught or cleaned", False)):
        cells = [
            _share(
                [x for key, did in right.items() if (key[0] == "good") == good and key[2] == half for x in did], good
            )
            for half in HALVES
        ]
        print(f"| **{title}** | all | {' | '.join(cells)} | |")
    print(f"\n{each * 1e3:.2f} ms a caption, one thread.")


def _share(did: list[bool], good: bool) -> str:
    """Good: how many were wrongly caught; bad: how many were caught."""
    count = did.count(not good)
    return f"{count} of {len(did)} ({count / len(did):.0%})" if did else "–"


if __name__ == "__main__":
    main()
