"""The command line: light to start, exit codes."""

from __future__ import annotations

import subprocess
import sys

from helpers_curate import rushes

HEAVY = ("ray", "torch", "cv2", "av", "pyarrow", "numpy", "curation")


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
