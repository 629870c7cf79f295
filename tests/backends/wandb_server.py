"""A stand-in for the W&B service on loopback: it answers what W&B asks and keeps what it is sent.

It knows as much GraphQL as wandb 0.31.0 uses for runs, files and artifacts, and keeps history by
line number as the real service does, so a row that is sent twice for two lines counts twice.
"""

import contextlib
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789" * 4
ENTITY = "ann"


class ServedRun:
    """What the service knows of one run."""

    def __init__(self, name):
        self.name = name
        self.facts = {}
        self.lines = defaultdict(dict)
        self.complete = None
        self.exit_code = None
        self.files = {}

    @property
    def rows(self):
        """The history, in the order of its lines."""
        lines = self.lines["wandb-history.jsonl"]
        return [json.loads(lines[number]) for number in sorted(lines)]

    @property
    def summary(self):
        lines = self.lines["wandb-summary.json"]
        return json.loads(lines[max(lines)]) if lines else {}

    @property
    def config(self):
        return {key: one["value"] for key, one in self.facts.get("config", {}).items()}


class WandbServer:
    """The service; ``pause()`` drops every connection until ``go_on()``."""

    def __init__(self):
        self.runs = {}
        self.artifacts = []
        self.uploads = {}
        self.asked = []
        self.paused = False
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def pause(self):
        self.paused = True

    def go_on(self):
        self.paused = False

    def variables(self):
        """Return the variables that send W&B here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def answer(self, query, variables):
        """Answer one question of GraphQL."""
        operation = query.split("(")[0].split("{")[0].split()[-1]
        self.asked.append(operation)
        answer = getattr(self, f"_on_{_words(operation)}", None)
        if answer is None:
            return {"errors": [{"message": f"{operation} is not known here"}]}
        return {"data": answer(variables)}

    def _on_viewer(self, _variables):
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": viewer | {"teams": {"edges": []}, "name": ENTITY, "admin": False}}

    def _on_server_features_query(self, _variables):
        return {"serverInfo": {"features": []}}

    def _on_organization_core_weave_organization_id(self, _variables):
        return {"entity": {"organization": None}}

    def _on_run_resume_status(self, variables):
        run = self.runs.get(variables["name"])
        entity = {"id": "1", "name": ENTITY}
        project = {"id": "2", "name": variables["project"], "entity": entity, "bucket": None}
        if run is not None:
            project["bucket"] = self._bucket(run)
        return {"model": project}

    def _bucket(self, run):
        rows = run.rows
        return {
            "id": run.name,
            "name": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.facts.get("displayName") or run.name,
            "logLineCount": 0,
            "historyLineCount": len(rows),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(run.facts.get("config", {})),
            "tags": run.facts.get("tags") or [],
            "notes": run.facts.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _on_upsert_bucket(self, variables):
        name = variables["name"] or variables["id"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, ServedRun(name))
        given = {key: value for key, value in variables.items() if value is not None}
        if "config" in given:
            given["config"] = json.loads(given["config"])
        run.facts.update(given)
        entity = {"id": "1", "name": ENTITY}
        bucket = {
            "id": name,
            "name": name,
            "displayName": run.facts.get("displayName") or name,
            "description": "",
            "config": json.dumps(run.facts.get("config", {})),
            "sweepName": None,
            "project": {"id": "2", "name": run.facts.get("project"), "entity": entity},
            "historyLineCount": len(run.rows),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _on_create_run_files(self, variables):
        run = variables["run"]
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _on_mark_run_files_uploaded(self, _variables):
        return {"markRunFilesUploaded": {"success": True}}

    def _on_create_artifact(self, variables):
        given = variables["input"]
        same = [a for a in self.artifacts if a["digest"] == given["digest"]]
        if not same:
            self.artifacts.append(given | {"state": "PENDING", "id": str(len(self.artifacts))})
        artifact = (same or self.artifacts)[-1]
        sequence = {"latestArtifact": None}
        kept = {"id": artifact["id"], "state": artifact["state"], "artifactSequence": sequence}
        return {"createArtifact": {"artifact": kept}}

    def _on_create_artifact_manifest(self, variables):
        number = variables["artifactID"]
        url = f"{self.url}/upload/artifact-{number}/{variables['name']}"
        file = {"id": number, "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": number, "file": file}}}

    def _on_update_artifact_manifest(self, variables):
        number = variables["artifactManifestID"]
        url = f"{self.url}/upload/artifact-{number}/wandb_manifest.json"
        file = {"id": number, "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": number, "file": file}}}

    def _on_create_artifact_files(self, variables):
        edges = []
        for file in variables["input"]["artifactFiles"]:
            number, name = file["artifactID"], file["name"]
            url = f"{self.url}/upload/artifact-{number}/{name}"
            node = {"storagePath": name, "uploadUrl": url, "uploadHeaders": []}
            node |= {"uploadMultipartUrls": None, "artifact": {"id": number}}
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _on_artifact_by_id(self, variables):
        given = self.artifacts[int(variables["id"])]
        name = given["artifactCollectionName"]
        entity = {"name": ENTITY}
        project = {"id": "2", "internalId": "2", "name": given["projectName"], "entity": entity}
        sequence = {"__typename": "ArtifactSequence", "name": name, "project": project}
        alias = {"id": "1", "alias": "v0", "artifactCollection": sequence}
        return {
            "artifact": {
                "__typename": "Artifact", "id": given["id"], "artifactSequence": sequence,
                "versionIndex": 0, "artifactType": {"name": given["artifactTypeName"]},
                "description": given.get("description"), "metadata": given.get("metadata"),
                "ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [], "historyStep": None,
                "state": given["state"], "size": 0, "digest": given["digest"], "commitHash": "",
                "fileCount": 1, "createdAt": "2026-11-21T00:00:00", "updatedAt": None,
                "aliases": [alias],
            }
        }  # fmt: skip

    def _on_commit_artifact(self, variables):
        artifact = self.artifacts[int(variables["artifactID"])]
        artifact["state"] = "COMMITTED"
        kept = {"id": artifact["id"], "digest": artifact["digest"]}
        return {"commitArtifact": {"artifact": kept}}

    def take_stream(self, run, sent):
        """Take rows, summary and the end of a run, each line at the number it is sent for."""
        served = self.runs.setdefault(run, ServedRun(run))
        for name, piece in (sent.get("files") or {}).items():
            for number, line in enumerate(piece["content"], piece["offset"]):
                served.lines[name][number] = line
        if "complete" in sent:
            served.complete = sent["complete"]
        if "exitcode" in sent:
            served.exit_code = sent["exitcode"]

    def take_file(self, run, name, data):
        self.uploads[f"{run}/{name}"] = data
        if run in self.runs:
            self.runs[run].files[name] = data


def _words(operation):
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", operation).lower()


def _handler(served):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _reply(self, content, status=200):
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _is_cut(self):
            if served.paused:
                self.close_connection = True
            return served.paused

        def do_POST(self):
            body = self._body()
            if self._is_cut():
                return
            with served.lock:
                self._post(body)

        def _post(self, body):
            if self.path == "/graphql":
                asked = json.loads(body)
                self._reply(*self._answer(asked))
            elif self.path.endswith("/file_stream"):
                served.take_stream(self.path.split("/")[-2], json.loads(body))
                self._reply({"limits": {}})
            else:
                self._reply({})

        def _answer(self, asked):
            import base64

            given = base64.b64encode(f"api:{KEY}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {given}":
                return {"errors": [{"message": "invalid API key"}]}, 401
            return (served.answer(asked["query"], asked.get("variables") or {}),)

        def do_PUT(self):
            body = self._body()
            if self._is_cut():
                return
            _, _, run, name = self.path.split("/", 3)
            with served.lock:
                served.take_file(run, name, body)
            self._reply({})

        def do_GET(self):
            if not self._is_cut():
                self._reply({})

        def handle(self):
            # A client that was killed does not say good-bye.
            with contextlib.suppress(ConnectionError):
                super().handle()

        def log_message(self, *_words):
            pass

    return Handler
