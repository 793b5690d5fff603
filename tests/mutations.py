"""Takes a protection out of the code, one at a time, in a copy, and shows that a test fails without it.

    python -m tests.mutations

Ends with status 1 where a mutation survives: then a test does not test what it says.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SKIPPED = shutil.ignore_patterns(".*", "__pycache__", "static")
FAILED = 1
"""Status of pytest where tests failed; others mean that it could not run them."""


@dataclass(frozen=True)
class Mutation:
    """``before`` becomes ``after`` in ``file``; one of ``tests`` must then fail."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "the fencing check",
        "store/queue.py",
        "if run is None or run.fence != claim.fence:",
        "if run is None:",
        (
            "tests/store/test_queue.py::test_a_write_with_an_old_fence_is_refused_and_changes_nothing",
            "tests/store/test_races.py::test_reattach_against_claim_has_one_owner_each_time",
        ),
    ),
    Mutation(
        "the outbox",
        "store/queue.py",
        "    session.add(Announcement(run_id=run.id, pool=run.pool, number=run.announcements))\n",
        "    from store import broker\n\n    broker.send(run.pool, run.id, run.announcements)\n",
        (
            "tests/store/test_upkeep.py::test_nothing_is_sent_before_commit",
            "tests/store/test_upkeep.py::test_while_the_broker_is_away_rows_stay_and_go_out_when_it_returns",
        ),
    ),
    Mutation(
        "the receipt check",
        "store/batches.py",
        '    if session.scalar(RECEIVE, {**own, "batch": batch.number}) is None:\n        return False\n',
        '    session.execute(RECEIVE, {**own, "batch": batch.number})\n',
        (
            "tests/store/test_queue.py::test_a_batch_that_is_sent_twice_is_stored_once",
            "tests/worker/test_lost_replies.py",
        ),
    ),
    Mutation(
        "the wait for moves that commit late",
        "store/marks.py",
        "    return bool(oldest >= mark.transaction)\n",
        "    return True\n",
        (
            "tests/store/test_deliveries.py::test_an_end_that_commits_after_later_ones_is_not_missed",
            "tests/store/test_changes.py::test_a_move_is_not_missed_whose_transaction_is_younger_than_that_of_a_later_one",
        ),
    ),
    Mutation(
        "the claim of a message",
        "store/deliveries.py",
        " AND coalesce(claimed_until <= clock_timestamp(), true)",
        "",
        (
            "tests/store/test_deliveries.py::test_several_processes_claim_a_message_once",
            "tests/store/test_courier.py::test_two_processes_share_the_work_and_nothing_is_sent_twice",
        ),
    ),
    Mutation(
        "the check of a receiver's address",
        "store/receivers.py",
        " if reachable(str(address[0]))]",
        "]",
        (
            "tests/store/test_receivers.py::test_what_was_looked_at_is_what_is_connected_to",
            "tests/store/test_courier.py::test_a_private_receiver_gets_nothing",
        ),
    ),
)


def mutated(mutation: Mutation, root: Path) -> str:
    """The text of the file with the protection taken out.

    Raises:
        ValueError: the code has changed, so that it is not found exactly once.
    """
    text = (root / mutation.file).read_text()
    if text.count(mutation.before) != 1:
        raise ValueError(f"{mutation.what}: {mutation.file} does not hold once: {mutation.before!r}")
    return text.replace(mutation.before, mutation.after)


def failures(mutation: Mutation, copy: Path) -> list[str]:
    """The tests that fail in ``copy`` once ``mutation`` is made there, each with the first line of why."""
    original = (copy / mutation.file).read_text()
    (copy / mutation.file).write_text(mutated(mutation, copy))
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *mutation.tests]
    own = {**os.environ, "PYTHONPATH": str(copy)}  # not the code that was copied
    done = subprocess.run(command, cwd=copy, env=own, capture_output=True, text=True, check=False)
    (copy / mutation.file).write_text(original)
    if done.returncode not in (0, FAILED):
        sys.exit(f"{mutation.what}: the tests could not be run\n{done.stdout}{done.stderr}")
    return [line for line in done.stdout.splitlines() if line.startswith("FAILED")]


def main() -> int:
    survived = 0
    with tempfile.TemporaryDirectory(prefix="liverseg-mutations-") as name:
        copy = Path(name) / "copy"
        shutil.copytree(ROOT, copy, ignore=SKIPPED)
        for mutation in MUTATIONS:
            found = failures(mutation, copy)
            survived += not found
            sys.stdout.write(f"without {mutation.what}: {'caught' if found else 'SURVIVED'}\n")
            sys.stdout.writelines(f"    {line}\n" for line in found)
            sys.stdout.flush()
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
