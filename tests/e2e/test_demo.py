"""``liverseg demo --exit`` from an empty machine to Table 6, and nothing left of it."""

import re
import signal
import subprocess
from pathlib import Path

import httpx

from tests.e2e.conftest import LIVERSEG, Up, environment, processes_of
from tests.processes import wait_for


def modes(folder: Path) -> dict[Path, int]:
    return {parent: parent.stat().st_mode for parent in [folder, *folder.parents]}


def test_the_demo_prints_table_6_and_leaves_nothing(home: Path) -> None:
    before = modes(home)
    command = [str(LIVERSEG), "demo", "--exit", "--tiny"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    head = next(place for place, line in enumerate(lines) if line.startswith("Run  Name"))
    assert re.split(" {2,}", lines[head]) == [
        *["Run", "Name", "Without scans", "Shuffle", "Loss", "Dice Coef.", "Precision", "Recall"],
        *["Dice Coef. Liver", "Dice Coef. Tumor", "Liver Dice, pooled", "Lesion Dice, pooled"],
    ]
    rows = [re.split(" {2,}", line.strip()) for line in lines[head + 1 : head + 4]]
    assert [row[1:4] for row in rows] == [
        ["Shuffled", "none", "yes"],
        ["Not shuffled", "none", "no"],
        ["Scans 0 and 1 removed", "0, 1", "yes"],
    ]
    for row in rows:
        assert abs(float(row[4]) + float(row[5]) - 100) < 0.002  # loss = 1 - Dice, each rounded
    assert "\x1b" not in done.stdout + done.stderr
    assert "run 1 Shuffled: succeeded" in done.stderr
    assert processes_of(home) == []
    assert modes(home) == before
    assert [path for path in home.iterdir() if path.name.startswith("liverseg")] == []


def test_the_demo_stays_up_until_interrupted(home: Path) -> None:
    demo = Up(home, "demo", "--tiny")
    demo.told("It stays up until Ctrl-C, and its runs go with it", timeout=240)
    page = re.search(r"The same as a page: (\S+)", demo.output.read_text())[1]
    answer = httpx.get(page, timeout=60)
    assert answer.status_code == 200
    assert "Scans 0 and 1 removed" in answer.text
    assert demo.stop(signal.SIGINT, signal.SIGINT) == 0
    assert processes_of(home) == []


def test_an_interrupted_demo_says_so_and_leaves_nothing(home: Path) -> None:
    demo = Up(home, "demo", "--tiny")
    demo.told("data set phantom")
    assert demo.stop(signal.SIGTERM) == 130
    wait_for("everything to be gone", lambda: processes_of(home) == [], 10)  # a killed process takes its time
    assert [path for path in home.iterdir() if path.name.startswith("liverseg")] == []
