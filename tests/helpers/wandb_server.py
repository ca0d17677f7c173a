"""A W&B server on the loopback interface, for W&B's real client: sweeps, agents, runs online and synced.

The client (0.31) posts GraphQL operations to /graphql, the rows and files of a run to
/files/<entity>/<project>/<run>/file_stream, and uploads to the addresses that CreateRunFiles has given. Each is
answered with what the client reads of the answer, no more. Whatever the server does not know is refused and noted in
`problems`, so that a newer client's new operation is seen and not guessed at.
"""

import collections
import contextlib
import dataclasses
import http.server
import itertools
import json
import os
import pathlib
import re
import secrets
import threading
import time
from typing import Any

import yaml

_ENTITY = "tester"
# Of the person who runs the tests; a child that saw them might log to the real server, or in another way.
_FOREIGN = ("WANDB_", "NETRC")


@dataclasses.dataclass
class Sweep:
    """A grid: the points that wait for an agent, in order, and those that one has got, by run."""

    config: dict[str, Any]
    project: str
    waiting: collections.deque[dict[str, Any]]
    points: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Run:
    """What the server has been told of a run."""

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    display_name: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    tags: tuple[str, ...] = ()
    sweep: str = ""
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    files: set[str] = dataclasses.field(default_factory=set)
    exit_code: int | None = None
    finished: bool = False


class WandbServer:
    """The server, as a context manager: `with WandbServer() as server: … server.runs …`.

    `sweeps` and `runs` are by id, `agents` gives an agent's sweep; `stopping` holds ids of runs whose agents are asked
    to stop them; `problems` are requests that could not be answered. `fault` is how every request is answered instead:
    with HTTP status "401" or "500", or "slow", after SLOW_SECONDS; `stop` closes the port and `start` opens it again.
    """

    SLOW_SECONDS = 8.0  # longer than a client should wait for

    def __init__(self) -> None:
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Run] = {}
        self.agents: dict[str, str] = {}
        self.stopping: set[str] = set()
        self.problems: list[str] = []
        self.fault = ""
        self._lock = threading.Lock()  # requests come in threads of their own
        self._port = 0  # any, until the first start
        self.start()
        self.url = f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "WandbServer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.running:
            self.stop()

    def start(self) -> None:
        """Answer requests, always at the same address."""
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), _Handler)
        self._http.owner, self._port = self, self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.running = True

    def stop(self) -> None:
        """Close the port: connections are refused from here on. What was being answered still is."""
        self._http.shutdown()
        self._http.server_close()
        self.running = False

    def environment(self, home: pathlib.Path) -> dict[str, str]:
        """Return the environment of a client of this server that knows nothing of the person's account and settings."""
        own = {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": "0" * 40,
            "WANDB_ERROR_REPORTING": "false",  # to W&B's own servers
            "WANDB_X_DISABLE_STATS": "true",
            "NETRC": str(home / "no-netrc"),
        }
        own |= {f"WANDB_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "CACHE", "DATA")}
        return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)} | own

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one operation; KeyError where it is unknown."""
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)[1]
        with self._lock:
            return getattr(self, f"_{operation}", self._unknown)(**variables)

    def stream(self, run_id: str, files: dict[str, Any], exit_code: int | None, complete: bool) -> None:
        """Take rows of a run's files, each at its offset: what the client sends again does not count twice."""
        with self._lock:
            run = self.runs[run_id]
            if chunk := files.get("wandb-history.jsonl"):
                offset = chunk["offset"]
                run.history[offset : offset + len(chunk["content"])] = map(json.loads, chunk["content"])
            if chunk := files.get("wandb-summary.json"):
                run.summary = json.loads(chunk["content"][-1])
            if complete:
                run.finished, run.exit_code = True, exit_code

    def upload(self, run_id: str, name: str) -> None:
        """Note that a file has come."""
        with self._lock:
            self.runs[run_id].files.add(name)

    # One method an operation, named as the client names it; its arguments are the operation's variables.

    def _unknown(self, **variables: Any) -> dict[str, Any]:
        raise KeyError(f"unknown operation with {sorted(variables)}")

    def _Viewer(self) -> dict[str, Any]:
        who = {"id": "1", "entity": _ENTITY, "username": _ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": who}

    def _ServerFeaturesQuery(self) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, **_: Any) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def _UpsertSweep(self, config: str, projectName: str, **_: Any) -> dict[str, Any]:
        settings = yaml.safe_load(config)
        if settings["method"] != "grid":
            raise ValueError(f"method {settings['method']!r}: this server hands out grids only")
        values = [field.get("values", [field.get("value")]) for field in settings["parameters"].values()]
        grid = [dict(zip(settings["parameters"], point, strict=True)) for point in itertools.product(*values)]
        name = secrets.token_hex(4)
        self.sweeps[name] = Sweep(settings, projectName, collections.deque(grid))
        answer = {"name": name, "project": _project(projectName)}
        return {"upsertSweep": {"sweep": answer, "configValidationWarnings": []}}

    def _SweepWithRuns(self, sweep: str, **_: Any) -> dict[str, Any]:
        config = yaml.safe_dump(self.sweeps[sweep].config)
        return {"project": {"sweep": {"id": sweep, "name": sweep, "config": config, "runs": {"edges": []}}}}

    def _CreateAgent(self, sweep: str, **_: Any) -> dict[str, Any]:
        agent = secrets.token_hex(4)
        self.agents[agent] = sweep
        return {"createAgent": {"agent": {"id": agent}}}

    def _Heartbeat(self, id: str, runState: str, **_: Any) -> dict[str, Any]:
        sweep, running = self.sweeps[self.agents[id]], json.loads(runState)
        # The agent kills its children on `exit`: only one without any may hear it.
        if running:
            commands = [{"type": "stop", "run_id": run_id} for run_id in running if run_id in self.stopping]
        elif sweep.waiting:
            run_id, point = secrets.token_hex(4), sweep.waiting.popleft()
            sweep.points[run_id] = point
            arguments = {name: {"value": value} for name, value in point.items()}
            program = sweep.config["program"]
            commands = [{"type": "run", "run_id": run_id, "program": program, "args": arguments}]
        else:
            commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": id}, "commands": json.dumps(commands)}}

    def _UpsertBucket(self, name: str, project: str, **sent: Any) -> dict[str, Any]:
        """Make or change a run; what is not sent stays as it is."""
        inserted = name not in self.runs
        run = self.runs.setdefault(name, Run(project=project))
        if sent.get("config"):
            run.config = {key: field["value"] for key, field in json.loads(sent["config"]).items()}
        for field, key in _FIELDS.items():
            if sent.get(key):
                setattr(run, field, type(getattr(run, field))(sent[key]))
        bucket = {"id": name, "name": name, "displayName": run.display_name, "description": "", "config": "{}"}
        bucket |= {"sweepName": run.sweep, "project": _project(project), "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _RunResumeStatus(self, name: str, project: str, **_: Any) -> dict[str, Any]:
        run = self.runs.get(name)
        if run is None:
            return {"model": None}
        run.finished, run.exit_code = False, None
        bucket = {"id": name, "name": name, "displayName": run.display_name, "tags": run.tags, "notes": ""}
        bucket |= {"summaryMetrics": json.dumps(run.summary), "wandbConfig": json.dumps({"t": 1})}
        bucket |= {"config": json.dumps({key: {"value": value} for key, value in run.config.items()})}
        # The client goes on from here: rows at this offset, steps after the last row's.
        bucket |= {"historyLineCount": len(run.history), "historyTail": json.dumps(_tail(run.history))}
        bucket |= {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        return {"model": _project(project) | {"bucket": bucket}}

    def _CreateRunFiles(self, run: str, files: list[str], **_: Any) -> dict[str, Any]:
        urls = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in files]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": urls}}


# Field of a run: variable of UpsertBucket.
_FIELDS = {"display_name": "displayName", "group": "groupName", "job_type": "jobType", "tags": "tags", "sweep": "sweep"}


def _project(name: str) -> dict[str, Any]:
    return {"id": name, "name": name, "entity": {"id": _ENTITY, "name": _ENTITY}}


def _tail(rows: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(row) for row in rows[-1:]]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails():
            return
        try:
            request = json.loads(body)
            if self.path == "/graphql":
                answer = {"data": owner.graphql(request["query"], request.get("variables") or {})}
            else:
                *_, run_id, _stream = self.path.split("/")
                files, complete = request.get("files") or {}, request.get("complete", False)
                owner.stream(run_id, files, request.get("exitcode"), complete)
                answer = {}
        except Exception as error:  # to the test, which shows it; the client would only try again
            owner.problems.append(f"{self.path}: {error!r} for {body[:500]!r}")
            self._answer(400, {"errors": [{"message": repr(error)}]})
        else:
            self._answer(200, answer)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails():
            return
        _, _upload, run_id, name = self.path.split("/", 3)
        self.server.owner.upload(run_id, name)
        self._answer(200, {})

    def _fails(self) -> bool:
        """Answer as the server's fault says, if it has one that is an answer."""
        fault = self.server.owner.fault
        if fault == "slow":
            time.sleep(self.server.owner.SLOW_SECONDS)
        elif fault:
            self._answer(int(fault), {"errors": [{"message": f"fault {fault}"}]})
        return fault.isdigit()

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        with contextlib.suppress(ConnectionError):  # a client that did not want to wait so long
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
