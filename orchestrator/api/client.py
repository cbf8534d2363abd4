"""A small client of the daemon's own socket."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from orchestrator.domain.spans import Span

ANSWER_WITHIN: Span = 10.0


class NoDaemon(RuntimeError):
    """Nobody listens on the socket, or whoever does does not answer."""


class Refused(RuntimeError):
    """The daemon answered, and said no; the text is its reason."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: Span) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class ApiClient:
    def __init__(self, path: Path, timeout: Span = ANSWER_WITHIN) -> None:
        self.path = path
        self._timeout = timeout

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, json.dumps(body))

    def text(self, path: str) -> str:
        return self._raw("GET", path, None)[1].decode()

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        status, data = self._raw(method, path, body)
        try:
            answer = json.loads(data)
        except ValueError:
            raise Refused(f"the daemon answered {status} with what is not JSON: {data[:80]!r}", status) from None
        if status >= 400:
            raise Refused(str(answer.get("error", answer)), status)
        return answer

    def _raw(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self.path, self._timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        except PermissionError:
            raise NoDaemon(f"no permission to speak with the daemon at {self.path}: use sudo") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoDaemon(f"no daemon runs for this node: nobody listens at {self.path}") from None
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            raise NoDaemon(f"the daemon at {self.path} does not answer: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()
