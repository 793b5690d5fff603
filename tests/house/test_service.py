"""The systemd unit: well-formed, and its times fit those of the worker."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from store.settings import Settings

UNIT = Path(__file__).parents[2] / "deploy" / "liverseg-worker.service"


def section(name: str) -> dict[str, str]:
    read = configparser.ConfigParser(interpolation=None, strict=True)
    read.optionxform = str
    read.read_string(UNIT.read_text())
    return dict(read[name])


def test_systemd_accepts_it(tmp_path: Path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # It looks whether the program is there, and warns of users that are not.
    text = UNIT.read_text().replace("/opt/liverseg/bin/liverseg-worker", shutil.which("true") or "/bin/true")
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("User=liverseg", "User=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])


def test_a_broken_unit_is_refused(tmp_path: Path):
    """Else the test above would show nothing."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("KillMode=mixed", "KillMode=gently").replace("/opt/", "/nowhere/"))
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line]


def test_it_waits_for_longer_than_a_worker_takes_to_stop():
    grace = Settings.model_fields["grace_s"].default
    service = section("Service")
    assert float(service["TimeoutStopSec"]) >= 2 * grace + 10  # trainers end, then the ledger is told
    assert service["KillMode"] == "mixed"  # SIGTERM for the worker alone: it gives its runs back
    assert service["Restart"] == "on-failure"  # a drained worker rests


def test_it_may_do_no_more_than_it_needs():
    service = section("Service")
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["CapabilityBoundingSet"]) == (
        "yes",
        "strict",
        "",
    )
