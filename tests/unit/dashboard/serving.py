"""The command `silo dashboard` as a process of its own, and requests to it as a browser or an attacker sends them."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

COMMAND = "from silo.cli import main; main()"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Served:
    """A running dashboard. `said` is everything it wrote, once it has ended."""

    home: Path
    arguments: tuple[str, ...] = ()
    address: str = ""
    said: str = ""
    _err: Any = field(default=None, repr=False)

    def __enter__(self) -> Self:
        words = ["dashboard", "--home", str(self.home), "--port", "0", *self.arguments]
        self._err = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", COMMAND, *words], stdout=subprocess.PIPE, stderr=self._err, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http://"), self._errors()
        parts = urlsplit(self.address)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path
        self.token = parts.query.removeprefix("token=")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        rest, _error = self.process.communicate(timeout=20)
        self.process.stdout.close()
        self.said = rest + self._errors()
        self._err.close()

    def _errors(self) -> str:
        self._err.seek(0)
        return self._err.read()

    def get(self, path: str | None = None, *, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path of the server; a header `Sec_Fetch_Site` is sent as `Sec-Fetch-Site`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path or self.path, skip_host="Host" in given, skip_accept_encoding=True)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def cookie(self) -> str:
        """Open the printed address, and return the cookie it gives."""
        answer = self.get(f"{self.path}?token={self.token}")
        assert answer.status == 303, answer
        match = re.match(r"silo-dashboard=[\w-]+", answer.headers["set-cookie"])
        assert match is not None
        return match.group()
