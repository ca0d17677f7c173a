"""The dashboard as code: the same spec offline as at a server, and only names that a run really has."""

import http.server
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import urllib.parse

import pytest

from eanet import cli, dashboard, train
from eanet.config import rules as config
from eanet.model import vision_transformer as model
from helpers import runs
from helpers.tiny import tiny_config

SNAPSHOT = pathlib.Path(__file__).with_name("dashboard.json")
KEY = {"WANDB_API_KEY": "0" * 40}

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="pip install -e '.[dashboard]'"
)

# Like  python -m eanet.dashboard,  but in a process where any connection or other process is an error.
OFFLINE = """
import runpy, sys
def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(forbid)
runpy.run_module("eanet.dashboard", run_name="__main__", alter_sys=True)
"""


def _run(*arguments, start=("-m", "eanet.dashboard"), **environment):
    """Run the command without what the person who runs the tests has: no key, no settings, no proxy."""
    own = {name: os.environ[name] for name in os.environ if not name.upper().startswith(("WANDB", "HTTP"))}
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, env=own | environment, capture_output=True, text=True, timeout=60)


@pytest.mark.system
@needs_workspaces
def test_the_dry_run_prints_the_stored_spec_without_a_network():
    """Where the dashboard has changed: python -m eanet.dashboard --dry-run > tests/dashboard.json"""
    done = _run("--dry-run", start=("-c", OFFLINE))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == SNAPSHOT.read_text()


def _names(node):
    """Find what the spec takes from runs, as (section, name) with W&B's own path for fields of the configuration."""
    if isinstance(node, str) and node.startswith(("config:", "summary:")):
        yield tuple(node.split(":", 1))
    elif isinstance(node, list):
        for item in node:
            yield from _names(item)
    elif isinstance(node, dict):
        if {"section", "name"} <= set(node):
            yield node["section"], node["name"]
        for key, value in node.items():
            yield from (("config", name) for name in re.findall(r"config:([\w.]+)", urllib.parse.unquote(key)))
            if key == "metrics":
                yield from (("summary" if node.get("vertical") is not None else "row", name) for name in value)
            elif key == "xAxis" and ":" not in value and value != "_step":
                yield "row", value
            elif key == "targetKey":
                yield "summary", value
            elif key == "groupBy":
                yield ("run" if value == "group" else "config"), value
            else:
                yield from _names(value)


def test_every_name_in_the_spec_is_one_that_a_run_has(tmp_path):
    results = train.train(tiny_config(), tmp_path)
    rows = runs.rows(tmp_path, timings=True)
    exists = {
        "row": set(rows[-1]),
        "summary": set(rows[-1]) | set(results),
        "config": set(config.RULES) | {"parameters", "mmac"},
        "run": {"group", "jobType"},
    }
    found = set(_names(json.loads(SNAPSHOT.read_text())))
    assert {section for section, _ in found} == set(exists)
    for section, name in found:
        if section == "config":  # W&B keeps {"model": {"value": {"num_heads": 4}}}
            field, envelope, *rest = name.split(".")
            assert envelope == "value", name
            name = ".".join([field, *rest])
        assert name in exists[section], f"{section} {name}"
    wanted = {  # what the dashboard is for; also, that names are found at all
        "row": {"epoch", "val/accuracy", "val/loss", "train/images_per_second"},
        "summary": {"val/accuracy_best", "test/accuracy", "images_per_second"},
        "config": {f"model.value.{name}" for name in ("attention", "num_heads", "memory_size", "mlp_dropout")}
        | {"optimizer.value.learning_rate", "optimizer.value.weight_decay", "parameters.value", "mmac.value"},
        "run": {"group", "jobType"},
    }
    assert found == {(section, name) for section, names in wanted.items() for name in names}


def test_runs_are_chosen_and_colored_by_values_that_occur():
    assert set(dashboard.COLORS) == set(model.ATTENTIONS)
    assert f"'{tiny_config().wandb.job_type}'" in dashboard.TRAINING


def test_nothing_is_chosen_by_test_accuracy():
    spec = json.loads(SNAPSHOT.read_text())
    assert ("summary", "test/accuracy") not in set(_names(spec["workspace"]))
    *_, test_grid, _ = spec["report"]["spec"]["blocks"]  # the last block is an empty paragraph
    assert json.dumps(spec).count("test/accuracy") == json.dumps(test_grid).count("test/accuracy") == 1


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_missing_dependency_says_what_to_install(monkeypatch, capsys, arguments):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    monkeypatch.setattr(sys, "argv", ["dashboard", *arguments])
    assert cli.run(dashboard.main) == 1
    assert "pip install -e '.[dashboard]'" in capsys.readouterr().err


@pytest.mark.system
@needs_workspaces
@pytest.mark.parametrize(
    "environment, says",
    [
        pytest.param({}, "no W&B API key", id="no key"),
        pytest.param({"WANDB_API_KEY": "x"}, "API key must have 40+ characters", id="bad key"),
        pytest.param(KEY, "W&B did not save the dashboard of me/p: Failed to authenticate", id="no server"),
    ],
)
def test_no_key_or_no_server_is_one_line(tmp_path, environment, says):
    """Against a closed port, within seconds."""
    environment = environment | {"WANDB_BASE_URL": "http://127.0.0.1:9", "NETRC": str(tmp_path / "none")}
    done = _run("--entity=me", "--project=p", HOME=str(tmp_path), **environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and says in line


class _Server(http.server.BaseHTTPRequestHandler):
    """W&B, as far as saving goes: `someone` has an account without projects, and nobody else has one."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/graphql":  # the client's own telemetry
            self.send_error(404)
            return
        request = json.loads(body)
        operation = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        self.server.asked.append((operation, request.get("variables") or {}))
        answer = json.dumps(self._answer(*self.server.asked[-1])).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _answer(self, operation, variables):
        if operation in ("Viewer", "GetDefaultEntity"):
            viewer = {"id": "1", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        if operation == "GetProjects":
            page = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": []}
            return {"data": {"models": page if variables["entity"] == "someone" else None}}
        if "someone" not in json.dumps(variables):
            return {"data": None, "errors": [{"message": "permission denied"}]}
        if operation == "CreateProject":
            return {"data": {"result": {"inserted": True}}}
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {"id": "VmlldzoxMjM=", "name": variables["name"], "spec": variables["spec"], "project": project}
        return {"data": {"upsertView": {"view": view, "inserted": True}}}

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as own:
        own.asked, own.address = [], f"http://127.0.0.1:{own.server_port}"
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield own
        own.shutdown()


@pytest.mark.system
@needs_workspaces
def test_what_is_saved_is_what_the_dry_run_prints(tmp_path, server):
    done = _run("--project=p", WANDB_BASE_URL=server.address, HOME=str(tmp_path), **KEY)
    assert (done.returncode, done.stderr) == (0, "")
    views = [variables for operation, variables in server.asked if operation.lower().startswith("upsertview")]
    assert [(view["type"], view["entityName"], view["projectName"]) for view in views] == [
        ("runs", "someone", "p"),
        ("project-view", "someone", "p"),
    ]
    snapshot = json.loads(SNAPSHOT.read_text())
    for view, name in zip(views, ("report", "workspace"), strict=True):
        assert view["displayName"] == snapshot[name]["displayName"] == dashboard.NAME
        assert json.loads(view["spec"]) == snapshot[name]["spec"]
    operations = [operation for operation, _ in server.asked]
    assert operations.index("CreateProject") < operations.index("upsertView") < operations.index("UpsertView2")
    report, workspace = done.stdout.splitlines()
    assert report.startswith(f"report: {server.address}/someone/p/reports/")
    assert workspace.startswith(f"workspace: {server.address}/someone/p?nw=")


@pytest.mark.system
@needs_workspaces
def test_an_unknown_entity_is_one_line(tmp_path, server):
    done = _run("--entity=nobody", WANDB_BASE_URL=server.address, HOME=str(tmp_path), **KEY)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: W&B did not save the dashboard of nobody/eanet-jax: ")
