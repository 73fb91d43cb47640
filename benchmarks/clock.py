"""Run a whole process and say what it cost: wall, user and system time, peak memory, exit code."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one process and all that it started. Memory is resident, in MiB."""

    wall_s: float
    user_s: float
    system_s: float
    peak_mib: float  # of the largest single process, from wait4
    tree_mib: float  # of all processes together, sampled ten times a second
    code: int
    load: float  # the machine's load average when it started
    output: str  # the end of stdout and stderr

    def record(self) -> dict[str, object]:
        """Plain values, rounded for a report."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def clocked(command: Sequence[str | Path], *, log: Path, limit_s: float = 3600) -> Cost:
    """Run `command` to its end; its output goes to `log`. Past `limit_s` it is killed."""
    load = os.getloadavg()[0]
    with log.open("wb") as sink:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=sink, stderr=subprocess.STDOUT
        )
        killer = threading.Timer(limit_s, process.kill)
        killer.start()
        peaks = [0.0]
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    killer.cancel()
    ended.set()
    watch.join()
    return Cost(
        wall_s=wall_s,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        tree_mib=max(peaks),
        code=process.returncode,
        load=load,
        output=log.read_text(errors="replace")[-600:],
    )


def _watch(pid: int, peaks: list[float], ended: threading.Event) -> None:
    while not ended.wait(0.1):
        peaks.append(sum(_resident_mib(member) for member in _tree(pid)))


def _tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(OSError):
                members.extend(int(child) for child in children.read_text().split())
    return members


def _resident_mib(pid: int) -> float:
    """Proportional share of resident pages, so that shared ones count once."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0
