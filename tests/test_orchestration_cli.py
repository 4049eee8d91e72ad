"""The command line: light to start, every entry there, exit codes."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
from helpers_curate import rushes

from orchestration.cli import COMMANDS, app

HEAVY = ("ray", "torch", "cv2", "av", "pyarrow", "numpy", "curation")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_resolves_and_explains_itself(command):
    module, _, function = COMMANDS[command].partition(":")
    assert callable(getattr(import_module(module), function))
    assert command in {entry.callback.__name__ for entry in app.registered_commands if entry.callback}


def test_help_loads_no_stage():
    code = (
        "import sys, orchestration.cli as cli\n"
        "try: cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "forget" in done.stdout


def test_exit_codes(tmp_path):
    assert "cannot read configuration" in rushes("curate", tmp_path / "none.yaml", code=2)
    assert "holds no curated dataset" in rushes("status", tmp_path, code=1)
    rushes("curate", code=2)
    assert "--install-completion" in rushes("--help")
