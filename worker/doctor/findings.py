"""What a check found, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    """A worker would run, and something will be missed."""
    FAIL = "fail"
    """A worker would take no run, or spoil some."""


@dataclass(frozen=True)
class Finding:
    """One line of a report; ``todo`` is empty where nothing is to be done."""

    check: str
    level: Level
    told: str
    todo: str = ""

    def __str__(self) -> str:
        end = f"; {self.todo}" if self.todo else ""
        return f"{self.level:4}  {self.check}: {self.told}{end}"


def ok(check: str, told: str) -> Finding:
    return Finding(check, Level.OK, told)


def warn(check: str, told: str, todo: str) -> Finding:
    return Finding(check, Level.WARN, told, todo)


def fail(check: str, told: str, todo: str) -> Finding:
    return Finding(check, Level.FAIL, told, todo)
