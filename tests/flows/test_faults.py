"""What may pass is tried again, with pauses; what cannot is told at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from flows import faults
from flows.faults import STEP_RETRIES, is_transient, patiently
from flows.outages import outliving_the_api
from flows.runs import RunError
from srpo_core.rollout.errors import EngineUnavailableError


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[int]]]:
    """A server that answers with these statuses, one after the other, and the list of those that it gave."""
    left, given = list(statuses), list[int]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(left.pop(0))
            self.send_response(given[-1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", given
        server.shutdown()


def get(url: str) -> int:
    return httpx.get(url).raise_for_status().status_code


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 5.0)


def test_a_server_that_fails_inside_is_asked_again() -> None:
    with answering(503, 500, 429, 200) as (url, given):
        assert patiently(get, url) == 200
        assert given == [503, 500, 429, 200]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_wrong_question_is_asked_once(status: int) -> None:
    with answering(status) as (url, given):
        with pytest.raises(httpx.HTTPStatusError):
            patiently(get, url)
        assert given == [status]


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE_SECONDS", 1.0)
    with answering(*[503] * 100) as (url, given):
        with pytest.raises(httpx.HTTPStatusError):
            patiently(get, url)
        assert len(given) > 1


def test_nobody_listening_may_pass_and_a_wrong_setting_does_not() -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        get("http://127.0.0.1:9")
    assert is_transient(caught.value)
    assert not is_transient(RunError("a setting"))
    assert not is_transient(ValueError("a bug"))


def test_the_steps_of_rollout_and_update_are_tried_again_for_what_may_pass_alone() -> None:
    from flows.rollout import sample_step
    from flows.update import update_step

    for step in (sample_step, update_step):
        assert step.retries == STEP_RETRIES["retries"]
        assert step.retry_condition_fn is faults.may_pass
        assert step.retry_jitter_factor


def test_a_run_that_loses_the_api_goes_on_once_it_is_back() -> None:
    with answering(503, 500, 200) as (url, given):
        back = list[int]()
        outliving_the_api(lambda: get(url), lambda: back.append(len(given)))
        assert given == [503, 500, 200]
        assert back == [1, 2]


def test_a_run_ends_when_the_api_does_not_come_back_or_when_it_failed_for_another_reason() -> None:
    def gone() -> None:
        raise RunError("no API in ten minutes")

    def lost_engines() -> None:
        raise EngineUnavailableError("no engine: its own retries are over")

    with pytest.raises(RunError):
        outliving_the_api(lambda: get("http://127.0.0.1:9"), gone)
    with pytest.raises(EngineUnavailableError):
        outliving_the_api(lost_engines, lambda: None)
