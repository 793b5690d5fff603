"""The API process: seconds from start to ready with Postgres already up, and its memory.

Run as ``python benchmarks/server.py``; it uses a throw-away home.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from store import bundled, schema

STARTS = 5


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
    os.environ["LIVERSEG_HOME"] = str(home)
    os.environ.pop("LIVERSEG_TOKEN", None)
    postgres, valkey = bundled.start_postgres(home), bundled.start_valkey(home)
    try:
        schema.upgrade()
        seconds, cpu, megabytes = zip(*(start() for _ in range(STARTS)), strict=True)
    finally:
        valkey.stop()
        postgres.stop()
        shutil.rmtree(home)
    median, least, most = statistics.median(seconds), min(seconds), max(seconds)
    print(f"ready after {median:.2f} s (median of {STARTS}; {least:.2f} to {most:.2f})")
    print(f"of which {statistics.median(cpu):.2f} s of CPU time; the rest is waiting for one on a busy machine")
    print(f"resident memory {max(megabytes):.0f} MiB after 200 requests")


def start() -> tuple[float, float, float]:
    """Seconds until ``/readyz`` says 200, CPU seconds until then, and MiB after some work."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "api.serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        seconds = time.perf_counter() - began
        used = psutil.Process(process.pid).cpu_times()
        for path in ("/", "/v1/runs", "/docs", "/openapi.json") * 50:
            httpx.get(url + path).raise_for_status()
        megabytes = psutil.Process(process.pid).memory_info().rss / 2**20
        process.terminate()
    return seconds, used.user + used.system, megabytes


if __name__ == "__main__":
    main()
