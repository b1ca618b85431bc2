"""Flower 1.41 still offers every private name that Silo uses, in the form in which it is used."""

from __future__ import annotations

import inspect
import time

import flwr
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from silo.flower import compat, control, fleet


def test_the_version_is_the_one_that_was_read() -> None:
    assert flwr.__version__.startswith("1.41.")


@pytest.mark.parametrize("name", compat.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(compat, name) is not None


@pytest.mark.parametrize(
    ("client", "calls"),
    [
        (
            compat.FleetHttpClient,
            "ActivateNode DeactivateNode SendNodeHeartbeat PullMessages PushMessages GetRun PullObject PushObject "
            "ConfirmMessageReceived",
        ),
        (compat.ControlHttpClient, "ListNodes RegisterNode UnregisterNode StartRun ListRuns StopRun"),
    ],
)
def test_the_clients_make_the_calls(client: type, calls: str) -> None:
    for call in calls.split():
        assert list(inspect.signature(getattr(client, call)).parameters) == ["self", "request"]


def test_the_requests_have_the_fields() -> None:
    node = compat.Node(node_id=7)
    compat.ActivateNodeRequest(public_key=b"k", heartbeat_interval=fleet.HEARTBEAT_SECONDS)
    compat.DeactivateNodeRequest(node_id=7)
    compat.SendNodeHeartbeatRequest(node=node, heartbeat_interval=1.0)
    compat.PullMessagesRequest(node=node)
    compat.GetRunRequest(node=node, run_id=1)
    compat.RegisterNodeRequest(public_key=b"k", name="n")
    compat.ListRunsRequest(run_id=1)
    assert compat.ErrorCode.NODE_UNAVAILABLE == 5


def test_a_node_signs_and_names_itself() -> None:
    """What the edge passes on: the key and a signature of the time, in headers."""
    import httpx

    key = ec.generate_private_key(ec.SECP384R1())
    request = httpx.Request("POST", "https://edge/v1/fleet/pull-messages")
    seen: list[httpx.Request] = []

    class _Context:
        def __init__(self) -> None:
            self.request = request

    compat.NodeAuthHttpInterceptor(key, key.public_key()).intercept(
        _Context(), lambda context: seen.append(context.request)
    )
    assert len(seen[0].headers) - len(httpx.Request("POST", "https://edge/").headers) >= 3


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's own use of pathspec
def test_the_bundle_is_small_constant_and_ours() -> None:
    files = {"pyproject.toml": control.BUNDLE.encode(), "silo_run.py": b'"""No code."""\n'}
    bundle, _ = compat.build_fab_from_files(files)
    assert bundle == compat.build_fab_from_files(files)[0]
    assert len(bundle) < 4096
    assert f'publisher = "{fleet.APP_ID.split("/")[0]}"' in control.BUNDLE
    assert fleet.APP_ID.endswith(f"/{fleet.APP_NAME}")


def test_a_reply_whose_content_never_comes_is_given_up_soon() -> None:
    """Flower's own bound is two hours, spent inside the call that serves every node of a run."""
    from flwr.superlink.grid import http_grid

    from silo.flower import server_app

    assert http_grid.HttpGrid.pull_messages.__globals__["pull_objects"] is compat.pull_while_it_comes
    assert server_app.compat.IDLE_SECONDS <= 30

    def never(_: str) -> bytes:
        raise compat.ObjectUnavailableError("not yet")

    started = time.monotonic()
    with pytest.raises(compat.ObjectPullError, match=r"nothing came for 0\.2 seconds"):
        compat.pull_while_it_comes(["content"], never, idle=0.2)
    assert time.monotonic() - started < 10


def test_content_that_goes_on_coming_is_waited_for() -> None:
    """A large reply on a slow line takes longer than any bound on the whole of it."""
    begun, pieces = time.monotonic(), [str(number) for number in range(8)]

    def slowly(piece: str) -> bytes:
        if time.monotonic() - begun < 0.2 * int(piece):
            raise compat.ObjectUnavailableError(piece)
        return piece.encode()

    assert compat.pull_while_it_comes(pieces, slowly, idle=0.9) == {piece: piece.encode() for piece in pieces}
    assert time.monotonic() - begun > 1.3
