"""`rushes doctor`: every finding has advice where something is wrong, a broken check does not hide the others."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestration import machine
from orchestration.doctor import Check, as_json, examine, run_checks
from orchestration.errors import RushesError


def broken() -> Check:
    raise OSError("no such sensor")


FINE = Check("fine", "ok", "works")
SLOW = Check("slow", "warn", "slowly", "buy time")


def test_checks_keep_their_order_and_a_broken_one_is_a_finding():
    found = run_checks([("fine", lambda: FINE), ("broken", broken), ("slow", lambda: SLOW)])
    assert [check.name for check in found] == ["fine", "broken", "slow"]
    assert found[1].status == "fail"
    assert "no such sensor" in found[1].detail


@pytest.mark.parametrize("as_text", [True, False])
def test_warnings_pass_failures_end_with_code_1(as_text: bool):
    out = io.StringIO()
    console = Console(file=out, width=100)
    examine([FINE, SLOW], not as_text, console)
    assert "buy time" in out.getvalue()
    with pytest.raises(RushesError, match="broken") as caught:
        examine([FINE, *run_checks([("broken", broken)])], not as_text, console)
    assert caught.value.exit_code == 1


def test_json_has_the_worst_status_and_every_check():
    found = json.loads(as_json([FINE, SLOW]))
    assert found["status"] == "warn"
    assert found["checks"][1] == {"name": "slow", "status": "warn", "detail": "slowly", "advice": "buy time"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    found = machine.disk(tmp_path / "absent")
    assert found.status == "fail"
    assert "absent" in found.detail
    assert "scratch=" in found.advice


def test_what_does_not_answer_is_told():
    assert "no answer" in machine.last_line(machine.run_python("import time; time.sleep(30)", timeout=0.5))


def test_this_machine_can_curate():
    from curation.doctor import checks

    found = {check.name: check for check in checks(start_ray=False)}
    assert len(found) == 17
    for name in ("Python", "packages", "decoders", "encoders", "guard", "Ray", "models", "storage"):
        assert found[name].status == "ok", found[name]
    for check in found.values():
        assert check.status == "ok" or check.advice


def test_ray_is_really_started():
    from curation.doctor import ray
    from orchestration.session import RayConfig

    found = ray(RayConfig(workers=1), start=True)
    assert found.status == "ok", found
    assert "gives 1 workers" in found.detail
