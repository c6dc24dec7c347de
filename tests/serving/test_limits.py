"""What one client may take: tokens, hosts, rate, queue, bytes."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from gare_cache.errors import ConfigError
from gare_cache.serving import limits
from gare_cache.serving.access import check_access, is_loopback
from gare_cache.serving.batching import Batcher
from gare_cache.serving.limits import ClientRate, read_body
from gare_cache.serving.refusals import Refusal
from tests.serving.conftest import client_of

TOKEN = "a long secret of the owner"


@pytest.fixture(scope="module")
def guarded(served_project: Path) -> Iterator[TestClient]:
    with client_of(served_project, token=TOKEN, rate=1000.0) as client:
        yield client


def test_the_token_opens_the_api(guarded: TestClient) -> None:
    guarded.cookies.clear()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/api/info", "/api/openapi.json", "/page.js", "/nothing"):
            response = guarded.get(path, headers=headers)
            assert (response.status_code, response.json()) == (
                401,
                {"error": "the token is missing or wrong"},
            )
        assert guarded.post("/api/search", headers=headers, json={"query": "a"}).status_code == 401
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert guarded.get("/api/info", headers=right).status_code == 200
    assert guarded.get(f"/api/info?token={TOKEN}").status_code == 401  # the page alone takes it


def test_the_token_opens_the_page_once_and_stays_out_of_its_address(guarded: TestClient) -> None:
    guarded.cookies.clear()
    asks = guarded.get("/")
    assert asks.status_code == 401
    assert 'name="token"' in asks.text
    assert guarded.get("/page.css").status_code == 200
    assert guarded.get("/", params={"token": "wrong"}).status_code == 401
    opened = guarded.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert guarded.get("/api/info").status_code == 200
    guarded.cookies.clear()


def test_a_token_from_another_machine_under_any_name(guarded: TestClient) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "videos.example.org"}
    assert guarded.get("/api/info", headers=headers).status_code == 200


def test_without_a_token_only_this_machines_names_are_taken(client: TestClient) -> None:
    for host in ("evil.example.org", "evil.example.org:8765", "127.0.0.1.evil.org", "", "[::1"):
        response = client.get("/api/info", headers={"Host": host})
        assert response.status_code == 421
    for host in ("localhost:8765", "127.0.0.1", "[::1]:8765", "LOCALHOST"):
        assert client.get("/api/info", headers={"Host": host}).status_code == 200


def test_pages_of_other_origins_may_not_ask(client: TestClient) -> None:
    for origin in ("https://evil.example.org", "null", "http://127.0.0.1:9999"):
        response = client.post("/api/examples", content=b"x", headers={"Origin": origin})
        assert response.status_code == 403
    own = {"Origin": "http://127.0.0.1:8765"}
    assert client.post("/api/search", json={"query": "a"}, headers=own).status_code == 200


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))


def test_others_need_a_token() -> None:
    check_access("127.0.0.1", None)
    check_access("0.0.0.0", TOKEN)
    with pytest.raises(ConfigError, match=r"--host 0.0.0.0 lets other machines .* --token"):
        check_access("0.0.0.0", None)
    with pytest.raises(ConfigError, match="at least 8 characters"):
        check_access("127.0.0.1", "short")


def test_a_client_may_ask_so_often() -> None:
    now = [0.0]
    rate = ClientRate(2.0, clock=lambda: now[0])
    for _ in range(6):  # the burst of three seconds
        rate.take("a")
    with pytest.raises(Refusal, match="more than 2 requests a second") as caught:
        rate.take("a")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    rate.take("b")
    now[0] = 0.5
    rate.take("a")
    with pytest.raises(Refusal):
        rate.take("a")


def test_the_rate_forgets_the_oldest_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MOST_CLIENTS", 3)
    rate = ClientRate(1.0)
    for number in range(10):
        rate.take(str(number))
    assert len(rate._clients) == 3


def test_searching_too_often_is_refused(served_project: Path) -> None:
    with client_of(served_project, rate=0.5) as client:
        responses = [client.post("/api/search", json={"query": "a"}) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 429, 429]
        assert responses[-1].headers["retry-after"] == "1"
        assert client.get("/api/info").status_code == 200


def test_guessing_tokens_is_slowed(served_project: Path) -> None:
    with client_of(served_project, rate=0.5, token=TOKEN) as client:
        guesses = [client.get("/", params={"token": str(number)}) for number in range(3)]
        assert [guess.status_code for guess in guesses] == [401, 429, 429]


class Slow:
    """Answers with what it was asked, when told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, asked: Sequence[int]) -> list[int | Exception]:
        self.go.wait(5)
        self.batches.append(list(asked))
        return [Refusal(404, "odd") if one % 2 else one for one in asked]


def batcher(answer: Any, **named: Any) -> Batcher[int, int]:
    options = {"most_waiting": 3, "most_at_once": 2, "seconds": 5.0, **named}
    return Batcher(answer, **options)


def test_what_waits_is_answered_in_batches_and_what_is_too_much_is_refused() -> None:
    slow = Slow()

    async def scene() -> list[Any]:
        queue = batcher(slow)
        running = asyncio.create_task(queue.run())
        asked = [asyncio.create_task(queue.ask(0))]
        await asyncio.sleep(0.05)  # 0 is being answered
        asked += [asyncio.create_task(queue.ask(number)) for number in range(1, 5)]
        await asyncio.sleep(0)
        slow.go.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        running.cancel()
        queue.close()
        return answers

    answers = asyncio.run(scene())
    assert slow.batches == [[0], [1, 2], [3]]
    assert (answers[0], answers[2]) == (0, 2)
    assert [answers[1].status, answers[3].status] == [404, 404]
    assert (answers[4].status, answers[4].retry_after) == (503, 1)


def test_a_search_that_takes_too_long_is_refused_and_not_run_in_vain() -> None:
    slow = Slow()

    async def scene() -> list[Any]:
        queue = batcher(slow, seconds=0.2)
        running = asyncio.create_task(queue.run())
        first = asyncio.create_task(queue.ask(0))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(queue.ask(2))
        answers = await asyncio.gather(first, second, return_exceptions=True)
        slow.go.set()
        third = await queue.ask(4)
        running.cancel()
        queue.close()
        return [*answers, third]

    first, second, third = asyncio.run(scene())
    assert {first.status, second.status} == {503}
    assert "took longer than 0.2 s" in first.error
    assert third == 4
    assert slow.batches == [[0], [4]]


def test_a_batch_that_fails_does_not_end_the_queue() -> None:
    def answer(asked: Sequence[int]) -> list[int | Exception]:
        if 1 in asked:
            raise RuntimeError("out of memory")
        return list(asked)

    async def scene() -> list[Any]:
        queue = batcher(answer)
        running = asyncio.create_task(queue.run())
        answers = [await _caught(queue.ask(1)), await queue.ask(2)]
        running.cancel()
        queue.close()
        return answers

    failed, answered = asyncio.run(scene())
    assert isinstance(failed, RuntimeError)
    assert answered == 2


async def _caught(asking: Any) -> Any:
    try:
        return await asking
    except Exception as err:
        return err


def test_the_requests_of_many_clients_are_encoded_together(
    served_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gare_cache.search.searcher import Searcher

    sizes: list[int] = []
    real = Searcher.search_many

    def counting(self: Searcher, queries: Any) -> Any:
        sizes.append(len(queries))
        time.sleep(0.05)
        return real(self, queries)

    with client_of(served_project) as client:
        monkeypatch.setattr(Searcher, "search_many", counting)
        answers: list[Any] = []

        def ask(number: int) -> None:
            answers.append(client.post("/api/search", json={"query": f"number {number}"}))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert sum(sizes) == 12
    assert max(sizes) > 1


def test_an_endless_body_is_cut_at_the_limit() -> None:
    parts = 0

    async def endless() -> Any:
        nonlocal parts
        parts += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    scope = {"type": "http", "method": "POST", "headers": []}
    with pytest.raises(Refusal, match="more than 5,000 bytes") as caught:
        asyncio.run(read_body(Request(scope, endless), 5000))
    assert caught.value.status == 413
    assert parts == 6


def test_an_announced_body_is_not_even_begun() -> None:
    async def never() -> Any:
        raise AssertionError("the body was read")

    headers = [(b"content-length", b"1073741824")]
    scope = {"type": "http", "method": "POST", "headers": headers}
    with pytest.raises(Refusal, match="more than 10 bytes"):
        asyncio.run(read_body(Request(scope, never), 10))


def test_a_body_that_dawdles_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)

    async def dawdling() -> Any:
        await asyncio.sleep(10)

    scope = {"type": "http", "method": "POST", "headers": []}
    with pytest.raises(Refusal, match=r"took longer than 0.05 s to arrive") as caught:
        asyncio.run(read_body(Request(scope, dawdling), 10))
    assert caught.value.status == 408


def test_uploads_at_once_are_bounded(served_project: Path) -> None:
    with client_of(served_project, most_uploads=0) as client:
        response = client.post("/api/examples", content=b"x")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
