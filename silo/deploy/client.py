"""A researcher's requests to an aggregator: submit a run, see how it goes on, fetch what it left.

Invariant: each request is signed for this one aggregator (:mod:`silo.deploy.requests`), and its certificate is checked.
What comes back is the aggregator's word: the model counts only once the researcher has opened
what the silos sealed.
"""

from __future__ import annotations

import json
import time
from typing import Any, Self

from silo_crypto.keys import Identity

from silo.deploy.requests import signed_headers
from silo.deploy.runs import encode_submission
from silo.errors import BudgetExceeded, ConfigError, PeerError, PolicyDenied, SiloError, VerificationFailed
from silo.submission import Submission

SECONDS = 30.0
BUSY, TRIES, AGAIN_SECONDS = 503, 3, 1.0
MAX_ANSWER = 2 << 30
_ERRORS: dict[int, type[SiloError]] = {
    error.exit_code: error for error in (ConfigError, PolicyDenied, BudgetExceeded, VerificationFailed)
}


class ResearcherClient:
    """Requests of one researcher to one aggregator.

    Args:
        address: ``host:port`` of the edge.
        root_certificate: PEM of the authority behind its certificate; None for the system's own.
        researcher: the keys that the consortium's manifest names.
        aggregator: the aggregator's name in the manifest.
    """

    def __init__(self, address: str, root_certificate: bytes | None, researcher: Identity, aggregator: str) -> None:
        import ssl

        import httpx

        self._address, self._researcher, self._aggregator = address, researcher, aggregator
        try:
            trust = ssl.create_default_context(cadata=root_certificate.decode("ascii") if root_certificate else None)
        except (ValueError, ssl.SSLError) as error:
            raise ConfigError("the root certificate cannot be read", fix="it is a PEM file") from error
        self._client = httpx.Client(base_url=f"https://{address}", verify=trust, timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def submit(self, submission: Submission) -> str:
        """Submit a signed run; return its id. Submitting the same again is no error."""
        return str(json.loads(self._send("POST", "/silo/v1/runs", encode_submission(submission)))["run"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the researcher's runs, each with its state."""
        return list(json.loads(self._send("GET", "/silo/v1/runs"))["runs"])

    def state(self, run: str) -> dict[str, Any]:
        """Return ``state`` (waiting, running, finished, failed), ``events``, ``files``, and perhaps ``failure``."""
        return dict(json.loads(self._send("GET", f"/silo/v1/runs/{run}")))

    def file(self, run: str, name: str) -> bytes:
        """Return one of the files that a finished run left."""
        return self._send("GET", f"/silo/v1/runs/{run}/{name}")

    def _send(self, method: str, path: str, body: bytes = b"") -> bytes:
        import httpx

        for left in reversed(range(TRIES)):
            headers = signed_headers(self._researcher, self._aggregator, method, path, body)
            try:
                answer = self._client.request(method, path, content=body, headers=headers)
            except httpx.HTTPError as error:
                raise PeerError(f"no connection: {error}", where=self._address, fix="is the aggregator up?") from error
            if answer.is_success:
                return answer.content
            if answer.status_code != BUSY or not left:
                break
            time.sleep(AGAIN_SECONDS)  # it has only just started, for example; every request may come twice
        raise _error(answer.content, answer.status_code, self._address)


def _error(content: bytes, status: int, address: str) -> SiloError:
    """Return the aggregator's refusal as the error it was there."""
    try:
        told = json.loads(content)
        kind = _ERRORS.get(told["exit_code"], PeerError)
        return kind(str(told["error"]), where=str(told["where"]) or address, fix=str(told["fix"]))
    except (ValueError, KeyError, TypeError):
        return PeerError(f"the aggregator answered {status}", where=address, fix="is this its edge?")
