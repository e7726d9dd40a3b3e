"""Injected faults, as the real clients meet them."""

from __future__ import annotations

import time

import pytest
from kubernetes import watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from tests.apiserver import Fault
from tests.apiserver.faults import Faults


def test_too_many_requests_says_when_to_come_back(server, core):
    server.faults.add(Fault(verb="list", path="/pods", status=429, retry_after=7, times=1))
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default")
    assert (error.value.status, error.value.headers["Retry-After"]) == (429, "7")
    assert core.list_namespaced_pod("default").items == []


@pytest.mark.parametrize("status", [500, 503])
def test_server_errors_strike_the_verb_they_are_meant_for(server, core, make_pod, status):
    server.faults.add(Fault(verb="create", status=status))
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", make_pod("a"))
    assert error.value.status == status
    assert core.list_namespaced_pod("default").items == []
    server.faults.clear()
    core.create_namespaced_pod("default", make_pod("a"))


def test_reset_does_nothing_but_a_lost_answer_has_done_it(server, core, make_pod):
    server.faults.add(Fault(verb="create", reset=True, times=1))
    with pytest.raises((HTTPError, ConnectionError)):
        core.create_namespaced_pod("default", make_pod("a"))
    assert core.list_namespaced_pod("default").items == []
    server.faults.add(Fault(verb="create", lose_answer=True))
    with pytest.raises((HTTPError, ConnectionError)):
        core.create_namespaced_pod("default", make_pod("a"))
    assert [pod.metadata.name for pod in core.list_namespaced_pod("default").items] == ["a"]
    assert [exchange.code for exchange in server.exchanges] == [0, 200, 0, 200]


def test_a_body_cut_short_is_noticed(server, core, make_pod):
    core.create_namespaced_pod("default", make_pod("a"))
    server.faults.add(Fault(verb="list", cut_after=20))
    with pytest.raises((HTTPError, ConnectionError)):
        core.list_namespaced_pod("default")


def test_a_watch_that_ends_or_breaks(server, core, make_pod):
    for name in ("a", "b"):
        core.create_namespaced_pod("default", make_pod(name))
    whole = watched(core, timeout_seconds=1)
    first = whole[: whole.index(b"\n") + 1]
    server.faults.add(Fault(verb="watch", end_after=len(first), times=1))
    assert watched(core) == first
    server.faults.add(Fault(verb="watch", cut_after=len(first), times=1))
    with pytest.raises((HTTPError, ConnectionError)):
        watched(core)


def watched(core, **options) -> bytes:
    """All that one watch request brings."""
    answer = core.list_namespaced_pod("default", watch=True, _preload_content=False, **options)
    return answer.data


def test_a_watch_and_a_page_may_be_gone(server, core):
    server.faults.add(Fault(verb="watch", status=410))
    with pytest.raises(ApiException) as error:
        list(watch.Watch().stream(core.list_namespaced_pod, "default", resource_version="1"))
    assert error.value.status == 410
    server.faults.add(Fault(verb="list", path="continue=", status=410))
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default", limit=1, _continue="token")
    assert error.value.status == 410


def test_slow_answers(server, core):
    server.faults.add(Fault(path="/pods", delay=0.3))
    start = time.monotonic()
    core.list_namespaced_pod("default")
    assert time.monotonic() - start >= 0.3


def test_the_same_seed_strikes_the_same_requests():
    def strikes(seed: int) -> list[bool]:
        faults = Faults(seed=seed)
        faults.add(Fault(verb="get", rate=0.3, status=500))
        return [faults.pick("get", "/api") is not None for _ in range(1000)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 250 < sum(strikes(1)) < 350


def test_struck_counts_and_times_ends():
    faults = Faults()
    faults.add(Fault(verb="get|list", path=r"/pods$", times=2))
    paths = ["/pods", "/pods/a", "/pods", "/pods"]
    assert [faults.pick("list", path) is not None for path in paths] == [True, False, True, False]
    assert faults.pick("watch", "/pods") is None
    assert faults.struck() == 2
