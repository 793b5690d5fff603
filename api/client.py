"""The API from Python: what the `liverseg` command and notebooks use.

Every method returns the JSON that the API answers with; lists are unwrapped.
"""

import contextlib
import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self
from urllib.parse import quote

import httpx

from liverseg_core.errors import InputError, LiversegError

Json = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with (bytes sent, all bytes)."""

CHUNK = 1 << 20
PAUSES_S = (0.1, 0.3, 1.0, 2.0)
"""Waits before a request is sent again; only those requests whose repetition changes nothing are."""


MOST_WAITS = 5
"""How often a request waits for its turn where too much was sent at once."""


class ApiError(LiversegError):
    """The API refused a request; ``problem`` is its RFC 9457 document, empty where it sent none."""

    def __init__(self, status: int, problem: Json) -> None:
        self.status = status
        self.problem = problem
        super().__init__(_told(status, problem))


class Unreachable(LiversegError):
    """No API answers at the address."""


class Client:
    """A connection to one API.

    Args:
        url: where it listens, e.g. ``http://127.0.0.1:8421``.
        token: one of the API's tokens, once it has any.
        timeout: seconds to wait for an answer; uploads and downloads wait that long for each part.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ---- experiments and runs --------------------------------------------------------------------------------

    def submit(self, body: Json, key: str | None = None, dry_run: bool = False) -> Json:
        """Submit ``{spec, grid?, variants?, seeds?, reuse?}``: the experiment with its runs, or the plan.

        The request carries an idempotency key (a new one when none is given), so it is safe to send it again
        after a lost answer; that is done here.
        """
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        params = {"dry_run": "true"} if dry_run else {}
        return self._json("POST", "/v1/experiments", again=True, json=body, headers=headers, params=params)

    def experiments(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """Experiments, newest first; ``before`` is the id to go on from."""
        return self._list("/v1/experiments", limit=limit, before=before)

    def experiment(self, experiment: int) -> Json:
        """One experiment with its runs."""
        return self._get(f"/v1/experiments/{experiment}")

    def runs(
        self,
        *,
        state: str | None = None,
        experiment: int | None = None,
        name: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        before: int | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[Json]:
        """Runs, newest first; ``before`` is the id to go on from.

        ``fields``: of each run only these fields and settings (``["name", "training.epochs"]``), which is several
        times as fast as all of it.
        """
        asked = {
            "state": state,
            "experiment": experiment,
            "name": name,
            "kind": kind,
            "limit": limit,
            "before": before,
        }
        return self._list("/v1/runs", **asked, fields=None if fields is None else ",".join(fields))

    def run(self, run: int) -> Json:
        """One run with attempts, events, artifacts and why it waits."""
        return self._get(f"/v1/runs/{run}")

    def rescore(self, runs: Sequence[int], evaluation: Json, name: str = "") -> Json:
        """Score finished runs under other evaluation options, as safely as :meth:`submit`: the experiment."""
        body = {"runs": list(runs), "evaluation": evaluation, "name": name}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._json("POST", "/v1/rescores", again=True, json=body, headers=headers)

    def references(self, spec: Json) -> list[Json]:
        """Score the reference predictors where ``spec`` would be scored; the runs that were missing."""
        found: list[Json] = self._json("POST", "/v1/references", json={"spec": spec})["runs"]
        return found

    def cancel(self, run: int) -> Json:
        """Ask a run to end; 409 when it has ended otherwise."""
        return self._json("POST", f"/v1/runs/{run}/cancel", again=True)

    def pause(self, run: int) -> Json:
        """Ask a run to wait at its last checkpoint; 409 when it has ended."""
        return self._json("POST", f"/v1/runs/{run}/pause", again=True)

    def resume(self, run: int) -> Json:
        """Queue a paused run again; 409 when it is not paused."""
        return self._json("POST", f"/v1/runs/{run}/resume")

    def first(self, run: int) -> Json:
        """Put a run before all that wait in its pool; 409 when it neither waits nor is paused."""
        return self._json("POST", f"/v1/runs/{run}/first", again=True)

    def edit(self, run: int, **changes: Any) -> Json:
        """Change a run's ``name``, ``notes``, ``tags`` or ``priority``; what is not given stays."""
        return self._json("PATCH", f"/v1/runs/{run}", again=True, json=changes)

    def queue(self, limit: int = 100) -> list[Json]:
        """Every pool: what runs and what waits, and when it begins and ends at the latest."""
        found: list[Json] = self._get("/v1/queue", limit=limit)["pools"]
        return found

    def workers(self) -> list[Json]:
        """Every worker process that is or was there, and whether it is alive."""
        return self._list("/v1/workers")

    def drain(self, worker: str, now: bool = False) -> Json:
        """Ask a worker to finish what it runs (``now``: to give it back), take nothing more and end."""
        path = f"/v1/workers/{quote(worker, safe='')}/drain"
        return self._json("POST", path, again=True, params={"now": str(now).lower()})

    def requeue(self, run: int) -> Json:
        """Give a dead run a new set of attempts; 409 when it is not dead."""
        return self._json("POST", f"/v1/runs/{run}/requeue")

    def retry(self, run: int) -> Json:
        """Try a failed or cancelled run again, as another run; 409 when it has not ended so."""
        return self._json("POST", f"/v1/runs/{run}/retry", again=True)

    def epochs(self, run: int) -> list[Json]:
        """Values by epoch."""
        return self._list(f"/v1/runs/{run}/epochs")

    def images(
        self, run: int, *, sort: str = "scan", descending: bool = False, limit: int = 500, offset: int = 0
    ) -> list[Json]:
        """The per-image table, sorted by one of its columns; at most 5000 rows a call."""
        return self._list(f"/v1/runs/{run}/images", sort=sort, descending=descending, limit=limit, offset=offset)

    def images_text(
        self,
        run: int,
        format: Literal["csv", "md", "latex", "json"],  # noqa: A002 - the API's own name
        *,
        sort: str = "scan",
        descending: bool = False,
        limit: int | None = None,
    ) -> str:
        """The study's table of images (its Figure 4) in percent, all images unless limited; in JSON the API's own."""
        params = _given({"format": format, "sort": sort, "descending": descending, "limit": limit})
        return self._send("GET", f"/v1/runs/{run}/images", again=True, params=params).text

    def logs(self, run: int, lines: int = 200, attempt: int | None = None) -> str:
        """The last lines of a run's log, as it trains or as it was left; 404 where there is none.

        ``attempt``: of this one, which left no result.
        """
        params = _given({"lines": lines, "attempt": attempt})
        return self._send("GET", f"/v1/runs/{run}/logs", again=True, params=params).text

    def download(self, run: int, kind: str, to: Path) -> Path:
        """Fetch an artifact (``weights``, ``probabilities``) into the file ``to``, whole or not at all."""
        return self._fetch(f"/v1/runs/{run}/artifacts/{quote(kind, safe='')}", to)

    def figure(self, path: str, to: Path, **params: Any) -> Path:
        """Fetch a PNG below ``/v1`` (``runs/3/figures/curves.png``) into the file ``to``, whole or not at all."""
        return self._fetch(f"/v1/{path}", to, **params)

    def _fetch(self, path: str, to: Path, **params: Any) -> Path:
        partial = to.with_name(f".{to.name}.{uuid.uuid4().hex}.partial")
        try:
            with self._http.stream("GET", path, params=_given(params)) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _error(answer)
                with partial.open("wb") as file:
                    file.writelines(answer.iter_bytes(CHUNK))
            return partial.replace(to)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            partial.unlink(missing_ok=True)

    # ---- comparisons -----------------------------------------------------------------------------------------

    def compare(
        self,
        runs: Sequence[int] | None = None,
        *,
        experiment: int | None = None,
        profile: str = "overview",
        level: str | None = None,
        baseline: int | None = None,
        tables: Sequence[str] = (),
        column: str | None = None,
        sort: str | None = None,
        descending: bool = False,
        filter: str | None = None,  # noqa: A002 - the API's own names
        format: Literal["json", "csv", "md", "latex"] = "json",  # noqa: A002
    ) -> Any:
        """Table 6 of the runs given, or of an experiment's: a dictionary, or text for csv, md and latex.

        ``baseline``, one of the runs, asks for tests by subject on ``column``; ``tables`` are printed tables to pin;
        ``sort`` is a column of the table, a setting's path or a score's key; ``filter`` shows only rows with all its
        words, parts of a name or ``setting=value``.
        """
        params: Json = {"profile": profile, "level": level, "baseline": baseline, "column": column}
        params |= {"tables": list(tables) or None, "experiment": experiment, "format": format}
        params |= {"sort": sort, "descending": descending or None, "filter": filter or None}
        if runs is not None:
            params["runs"] = ",".join(map(str, runs))
        answer = self._send("GET", "/v1/comparisons", again=True, params=_given(params))
        return answer.json() if format == "json" else answer.text

    def matrix(
        self, runs: Sequence[int] | None = None, *, experiment: int | None = None, limit: int = 500, **asked: Any
    ) -> Json:
        """One score of every evaluated image under every run, at most 5000 ``lines`` a call.

        ``asked``: ``column``, ``by``, ``baseline``, ``sort``, ``of``, ``descending``, ``scan``, ``subject`` and
        ``offset``, as the API's.
        """
        params = _given({"experiment": experiment, "limit": limit, **asked})
        if runs is not None:
            params["runs"] = ",".join(map(str, runs))
        return self._json("GET", "/v1/comparisons/images", again=True, params=params)

    def profiles(self) -> list[Json]:
        """Every profile: columns with formulas and empty rules, and levels."""
        return self._list("/v1/profiles")

    def freeze(self, runs: Sequence[int] | None = None, **asked: Any) -> Json:
        """Keep a comparison as it is now, for good; takes what :meth:`compare` does but ``format``."""
        body = _given({"runs": None if runs is None else list(runs), **asked})
        return self._json("POST", "/v1/comparisons/frozen", json=body)

    def frozen_comparisons(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """Frozen comparisons, newest first, without their numbers."""
        return self._list("/v1/comparisons/frozen", limit=limit, before=before)

    def frozen(self, key: str) -> Json:
        """One frozen comparison: ``comparison`` as it was, ``deleted`` the runs that are gone since."""
        return self._get(f"/v1/comparisons/frozen/{quote(key, safe='')}")

    def frozen_text(self, key: str, format: Literal["json", "csv", "md", "latex"]) -> str:  # noqa: A002
        """A frozen comparison as text; its JSON is byte for byte what it was."""
        path = f"/v1/comparisons/frozen/{quote(key, safe='')}/result"
        return self._send("GET", path, again=True, params={"format": format}).text

    # ---- disk and deletion -----------------------------------------------------------------------------------

    def disk(self) -> Json:
        """What the project takes on disk, by kind and data set, and its largest runs."""
        return self._get("/v1/disk")

    def delete(
        self,
        runs: Sequence[int] | None = None,
        *,
        what: Literal["run", "files"] = "run",
        experiment: int | None = None,
        tag: str | None = None,
        older_than_days: int | None = None,
        dry_run: bool = True,
    ) -> Json:
        """Delete runs, or their maps and checkpoints (``files``); what stays is in ``stays``, with the reason.

        Unless ``dry_run`` is set to False, nothing is deleted and the answer says what would be.
        """
        fits = {"experiment": experiment, "tag": tag, "older_than_days": older_than_days}
        body = _given({"what": what, "runs": None if runs is None else list(runs), **fits})
        return self._json("POST", "/v1/deletions", json=body, params={"dry_run": str(dry_run).lower()})

    def delete_dataset(self, name: str, dry_run: bool = True) -> Json:
        """Delete a data set that no run refers to; 409 where some do. As :meth:`delete` dry unless told otherwise."""
        params = {"dry_run": str(dry_run).lower()}
        return self._json("DELETE", f"/v1/datasets/{quote(name, safe='')}", params=params)

    def deletions(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """What was deleted, by whom, newest first."""
        return self._list("/v1/deletions", limit=limit, before=before)

    # ---- data sets and weights -------------------------------------------------------------------------------

    def datasets(self, limit: int = 500, before: int | None = None) -> list[Json]:
        """Data sets, newest first; ``before`` is the id to go on from."""
        return self._list("/v1/datasets", limit=limit, before=before)

    def dataset(self, name: str) -> Json:
        """One data set by name or content hash."""
        return self._get(f"/v1/datasets/{quote(name, safe='')}")

    def check_dataset(self, name: str, timeout: float = 1800) -> Json:
        """Look for scans that may show one person: the data set with its ``similarity``; may take minutes."""
        return self._json("POST", f"/v1/datasets/{quote(name, safe='')}/check", timeout=timeout)

    def import_dataset(
        self, folder: Path, name: str, subjects: Path | None = None, progress: Progress | None = None
    ) -> Json:
        """Pack a folder of PNG pairs and hand it in; importing the same pixels twice is once."""
        from liverseg_core.data.archive import pack_folder

        with tempfile.TemporaryDirectory(prefix="liverseg-") as scratch:
            packed = Path(scratch) / "dataset.zip"
            pack_folder(folder, packed, subjects)
            return self._upload("/v1/datasets", packed, "application/zip", {"name": name}, progress, again=True)

    def import_weights(self, file: Path, spec: Json, progress: Progress | None = None) -> Json:
        """Hand in an HDF5 weights file; answers with the run that will score it."""
        name = re.sub(r"[^A-Za-z0-9_.+-]", "_", file.name)[:100].lstrip(".+-") or "weights.h5"
        params = {"spec": json.dumps(spec, separators=(",", ":")), "name": name}
        return self._upload("/v1/weights", file, "application/x-hdf5", params, progress, again=False)

    def predict(self, run: int, packed: Path, progress: Progress | None = None) -> Json:
        """Hand in a zip of unlabelled SCAN_SLICE.png; answers with the run that makes masks by ``run``'s weights.

        Its artifact ``masks`` is the zip of masks. ``liverseg_core.data.unlabelled.pack_slices`` makes the zip.
        """
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        path = f"/v1/runs/{run}/predictions"
        return self._upload(path, packed, "application/zip", {}, progress, again=True, headers=headers)

    # ---- printed tables --------------------------------------------------------------------------------------

    def import_table(self, name: str, files: Mapping[str, str]) -> Json:
        """Hand in a printed table, file name -> text; an older one of this name is replaced."""
        body = {"files": [{"name": file, "text": text} for file, text in files.items()]}
        return self._json("POST", "/v1/tables", again=True, params={"name": name}, json=body)

    def tables(self, limit: int = 500, after: str | None = None) -> list[Json]:
        """Printed tables by name; ``after`` is the name to go on from."""
        return self._list("/v1/tables", limit=limit, after=after)

    def table(self, name: str) -> Json:
        """One printed table: rows, and notes on what looks wrong in them."""
        return self._get(f"/v1/tables/{quote(name, safe='')}")

    # ---- nnU-Net's files -------------------------------------------------------------------------------------

    def nnunet_summary(self, run: int) -> str:
        """The run's ``summary.json`` as text; NaN stands in it as nnU-Net writes it."""
        return self._send("GET", f"/v1/runs/{run}/summary.json", again=True).text

    def nnunet_splits(self, dataset: str, folds: int | str = "subject") -> str:
        """``splits_final.json`` of a data set's subjects, as text."""
        path = f"/v1/datasets/{quote(dataset, safe='')}/splits_final.json"
        return self._send("GET", path, again=True, params={"folds": folds}).text

    # ---- projects and tokens ---------------------------------------------------------------------------------

    def projects(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """Projects, newest first; ``before`` is the id to go on from."""
        return self._list("/v1/projects", limit=limit, before=before)

    def create_project(self, name: str) -> Json:
        """A new, empty project."""
        return self._json("POST", "/v1/projects", json={"name": name})

    def rename_project(self, project: int, name: str) -> Json:
        """Another name for the project with this id."""
        return self._json("PATCH", f"/v1/projects/{project}", again=True, json={"name": name})

    def tokens(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """Tokens of every project without secrets, newest first."""
        return self._list("/v1/tokens", limit=limit, before=before)

    def create_token(
        self, name: str, scope: str = "write", project: str | None = None, expires_at: str | None = None
    ) -> Json:
        """A new token with its ``secret``, which is never told again; ``expires_at`` as ISO 8601 with a zone."""
        body = {"name": name, "scope": scope, "project": project, "expires_at": expires_at}
        return self._json("POST", "/v1/tokens", json=_given(body))

    def revoke_token(self, token: int) -> Json:
        """End the token with this id."""
        return self._json("POST", f"/v1/tokens/{token}/revoke", again=True)

    # ---- webhooks --------------------------------------------------------------------------------------------

    def add_webhook(
        self,
        url: str,
        events: Sequence[str] | None = None,
        states: Sequence[str] | None = None,
        key: str | None = None,
    ) -> Json:
        """A new webhook with its ``secret``; as safe to send again as :meth:`submit`.

        ``events``: of ``run.ended`` and ``experiment.ended``; ``states``: in which runs end that are told of.
        """
        chosen = {"events": list(events) if events else None, "states": list(states) if states else None}
        body = _given({"url": url, **chosen})
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._json("POST", "/v1/webhooks", again=True, json=body, headers=headers)

    def webhooks(self, limit: int = 50, before: int | None = None) -> list[Json]:
        """Webhooks without secrets, newest first."""
        return self._list("/v1/webhooks", limit=limit, before=before)

    def webhook(self, webhook: int, limit: int = 20) -> Json:
        """One webhook with its last messages and what became of them."""
        return self._get(f"/v1/webhooks/{webhook}", limit=limit)

    def switch_webhook(self, webhook: int, active: bool) -> Json:
        """Switch a webhook on or off; what ends while it is off is not told later."""
        return self._json("PATCH", f"/v1/webhooks/{webhook}", again=True, json={"active": active})

    def remove_webhook(self, webhook: int) -> Json:
        """Remove a webhook and its messages."""
        return self._json("DELETE", f"/v1/webhooks/{webhook}")

    def test_webhook(self, webhook: int) -> Json:
        """Send a message of type ``test`` now: its ``status`` and ``error``."""
        return self._json("POST", f"/v1/webhooks/{webhook}/test")

    # ---- the service -----------------------------------------------------------------------------------------

    def ready(self) -> Json:
        """Whether the API can work: ``{ready, database, schema, broker, degraded}``.

        Raises:
            Unreachable: nothing answers.
        """
        try:
            answer = self._http.get("/readyz")
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.status_code not in (200, 503):
            raise _error(answer)
        found: Json = answer.json()
        return found

    # ---- sending ---------------------------------------------------------------------------------------------

    def _get(self, path: str, **params: Any) -> Json:
        return self._json("GET", path, again=True, params=_given(params))

    def _list(self, path: str, **params: Any) -> list[Json]:
        """The list in a document that is named after the last word of the path."""
        found: list[Json] = self._get(path, **params)[path.rpartition("/")[2]]
        return found

    def _json(self, method: str, path: str, *, again: bool = False, **rest: Any) -> Json:
        found: Json = self._send(method, path, again=again, **rest).json()
        return found

    def _upload(
        self,
        path: str,
        file: Path,
        media: str,
        params: Json,
        progress: Progress | None,
        *,
        again: bool,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        total = file.stat().st_size
        headers = {"Content-Type": media, "Content-Length": str(total), **(headers or {})}

        def send() -> httpx.Response:
            with file.open("rb") as source:
                content = _chunks(source, total, progress)
                return self._http.request("POST", path, content=content, headers=headers, params=params)

        found: Json = self._try(send, again=again).json()
        return found

    def _send(self, method: str, path: str, *, again: bool, **rest: Any) -> httpx.Response:
        return self._try(lambda: self._http.request(method, path, **rest), again=again)

    def _try(self, send: Callable[[], httpx.Response], *, again: bool) -> httpx.Response:
        """One answer; where ``again`` says that repeating is harmless, lost connections are tried anew.

        Behind a proxy a connection to a node that ended is lost as well: the proxy says so by a 502, the API never.
        """
        for pause in PAUSES_S if again else ():
            with contextlib.suppress(httpx.TransportError):
                answer = _when_allowed(send)
                if answer.status_code != httpx.codes.BAD_GATEWAY:
                    return _checked(answer)
            time.sleep(pause)
        try:
            return _checked(_when_allowed(send))
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(f"no answer from {self.url} ({error or type(error).__name__}); is `liverseg up` running?")


def _given(params: Json) -> Json:
    return {name: value for name, value in params.items() if value is not None}


def _chunks(source: BinaryIO, total: int, progress: Progress | None) -> Iterator[bytes]:
    sent = 0
    while chunk := source.read(CHUNK):
        yield chunk
        sent += len(chunk)
        if progress:
            progress(sent, total)


def _when_allowed(send: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer, after the waits that the API asks for (429); a request that was refused so has done nothing."""
    for _ in range(MOST_WAITS):
        answer = send()
        if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
            break
        time.sleep(int(answer.headers.get("retry-after", 1)))
    return answer


def _checked(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise _error(answer)
    return answer


def _error(answer: httpx.Response) -> ApiError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    return ApiError(answer.status_code, problem if isinstance(problem, dict) else {})


def _told(status: int, problem: Json) -> str:
    lines = [str(problem.get("detail") or problem.get("title") or f"HTTP status {status}")]
    errors = problem.get("errors", [])
    lines += [str(InputError(str(one.get("path")), str(one.get("message")), one.get("received"))) for one in errors]
    return "\n".join(lines if len(lines) == 1 else lines[1:])
