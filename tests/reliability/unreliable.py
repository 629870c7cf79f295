"""A service on loopback that fails in every way in turn, in front of one that does not."""

import http.client
import http.server
import itertools
import socket
import struct
import threading
from collections import deque
from urllib.parse import urlsplit

MOODS = (
    "500", "answers 500", "429", "resets", "resets behind it", "hangs", "half an answer",
    "wrong JSON", "another's page",
)  # fmt: skip
"""Behind "it", the request, those marked so or half answered have been done: only nobody knows."""

_DONE_FIRST = ("answers 500", "resets behind it", "half an answer", "wrong JSON")


class Unreliable:
    """Pass requests on to ``address``; from :meth:`fail` on, treat every second one badly.

    Parameters
    ----------
    address
        Of the service behind.
    hangs_s
        For how long one that hangs does not answer.
    """

    def __init__(self, address, hangs_s=3.0):
        self.behind = urlsplit(address)
        self.hangs_s = hangs_s
        self.had = []
        self.asked_with = []
        self._moods = deque()
        self._turns = itertools.count(1)
        handler = type("Handler", (_Handler,), {"service": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def fail(self, *moods):
        """Have one request after another meet these moods, with a good one between them."""
        self._moods.extend(moods)

    def mood(self):
        """Take the next request's mood, None for a good one."""
        if not self._moods or next(self._turns) % 2:
            return None
        self.had.append(self._moods.popleft())
        return self.had[-1]

    def ask(self, method, path, headers, body):
        """Have the service behind do what is asked."""
        connection = http.client.HTTPConnection(self.behind.hostname, self.behind.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # of clients that have gone meanwhile


class _Handler(http.server.BaseHTTPRequestHandler):
    service = None

    def do(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mood = self.service.mood()
        self.service.asked_with.append(f"{self.path}\n{self.headers}".encode() + body)
        answer = None
        if mood is None or mood in _DONE_FIRST:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host",)}
            answer = self.service.ask(self.command, self.path, headers, body)
        self._answer(mood, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815

    def _answer(self, mood, answer):
        self.close_connection = True
        if mood in ("500", "answers 500"):
            self._send(500, b"<html>Internal Server Error</html>")
        elif mood == "429":
            self._send(429, b'{"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slower"}')
        elif mood == "wrong JSON":
            self._send(200, b'{"run": [tr')
        elif mood == "another's page":
            self._send(200, b"<html>Log in to the network, please</html>", "text/html")
        elif mood in ("resets", "resets behind it"):
            self._reset()
        elif mood == "hangs":
            threading.Event().wait(self.service.hangs_s)
            self._reset()
        else:
            self._pass_on(answer, half=mood == "half an answer")

    def _send(self, code, body, kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _pass_on(self, answer, half):
        code, headers, body = answer
        self.send_response(code)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if half else body)

    def _reset(self):
        # With nothing to linger for, a socket is closed by a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.rfile = self.wfile = open("/dev/null", "w+b", buffering=0)  # noqa: SIM115

    def log_message(self, *args):
        pass
