"""Samples a training's captions and looks which clip each looks most like: python -m train.demo --help.

Exit code 1 where fewer than four of five look most like their own clip.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from orchestration.config import load_config
from orchestration.errors import RushesError
from train.config import TrainConfig
from train.demo.run import demonstrate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.demo", description=__doc__)
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the training's configuration, as for rushes train")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="override settings of it")
    given = parser.parse_args()
    try:
        demonstrate(load_config(TrainConfig, given.config, given.overrides), Console())
    except RushesError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
