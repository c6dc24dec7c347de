"""A real server in a process of its own: many clients, hostile sockets, Ctrl-C."""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.serving.runs import ServedRun
from gare_cache.serving.server import listen, run, url_of
from tests.tiny import write_video

REPOSITORY = Path(__file__).parents[2]
SECONDS = 60


@dataclass(frozen=True)
class Server:
    process: "subprocess.Popen[str]"
    port: int
    log: Path


@pytest.fixture(scope="module")
def server(served_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "gare_cache.cli", "serve", "--port", "0", "--rate", "0"]
    command += ["--device", "cpu", "-p", str(served_project / "params.yaml")]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=variables
        )
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(2)]
            opened = re.fullmatch(r"open http://127\.0\.0\.1:(\d+)/ \(Ctrl-C stops\)\n", said[1])
            assert opened, log.read_text()
            assert said[0] == "serving 13 videos of tiny, ranked by outputs\n"
            yield Server(process, int(opened[1]), log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def ask(port: int, query: str) -> tuple[int, Any, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        body = json.dumps({"query": query, "top": 3})
        connection.request("POST", "/api/search", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), response.getheader("Retry-After")
    finally:
        connection.close()


def load(port: int, clients: int) -> Counter[int]:
    """Ask from many clients at the same time; check every answer; count the statuses."""
    answers: list[Any] = []
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        start.wait(SECONDS)
        try:
            answers.append(ask(port, f"a blocks number {number}"))
        except OSError as err:
            answers.append(err)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(answers) == clients
    assert not [answer for answer in answers if isinstance(answer, OSError)]
    for status, answer, retry_after in answers:
        if status == 200:
            assert len(answer["hits"]) == 3
        else:
            assert (status, retry_after) == (503, "1")
            assert answer == {"error": "the server is busy; try again in a moment"}
    return Counter(status for status, _, _ in answers)


def test_two_hundred_clients_at_once(server: Server) -> None:
    counts = load(server.port, 200)
    assert counts[200] >= 64
    assert ask(server.port, "afterwards")[0] == 200


@pytest.mark.slow
def test_a_thousand_clients_at_once(server: Server) -> None:
    counts = load(server.port, 1000)
    assert counts[200] >= 64
    assert counts[503] > 0
    assert ask(server.port, "afterwards")[0] == 200


def exchange(port: int, sent: bytes) -> bytes:
    """Send bytes as they are, return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as opened:
        opened.sendall(sent)
        received = b""
        while part := opened.recv(65536):
            received += part
        return received


def test_an_upload_of_a_gigabyte_is_cut_early(server: Server) -> None:
    head = b"POST /api/examples HTTP/1.1\r\nHost: localhost\r\n"
    announced = exchange(server.port, head + b"Content-Length: 1073741824\r\n\r\n" + b"x" * 1000)
    assert announced.startswith(b"HTTP/1.1 413 ")
    assert b"more than 10,485,760 bytes" in announced
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as opened:
        opened.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(1024):
                opened.sendall(chunk)
                sent += 1
        except OSError:
            pass
    assert sent < 100
    assert ask(server.port, "afterwards")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/../../../../etc/passwd", "//etc/passwd", "/api/videos/../../../etc/passwd/file"),
        *("/api/videos/..%2f..%2f..%2fetc%2fpasswd/file", "/page.js/../../app.py", "/page.css%00"),
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_traversal_as_it_is_sent(server: Server, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = exchange(server.port, head.encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer
    assert b"uvicorn" not in answer


def test_garbage_on_the_socket_leaves_the_server_up(server: Server) -> None:
    for sent in (b"\x16\x03\x01\x00\xff" * 20 + b"\r\n\r\n", b"no request\r\n\r\n"):
        assert exchange(server.port, sent).startswith(b"HTTP/1.1 400")
    with socket.create_connection(("127.0.0.1", server.port)) as opened:
        opened.sendall(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Le")
    assert ask(server.port, "afterwards")[0] == 200


def test_a_client_cannot_say_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise X-Forwarded-For would give each request a rate of its own."""
    seen: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: seen.append(self.config))
    opened = listen("127.0.0.1", 0)
    run(lambda *_: None, opened)  # type: ignore[arg-type,return-value]
    opened.close()
    assert not seen[0].proxy_headers


def test_the_example_asks_the_server(server: Server) -> None:
    command = [sys.executable, str(REPOSITORY / "examples" / "ask_server.py"), "a", "--top", "2"]
    address = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        [*command, "--server", address], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "'a' among 13 videos"
    assert len(lines) == 5
    assert lines[2].startswith(f"     {address}/api/videos/")


def test_a_port_in_use_is_one_line_with_the_remedy(served_project: Path, server: Server) -> None:
    arguments = ["serve", "--port", str(server.port), "-p", str(served_project / "params.yaml")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: port {server.port} is in use, perhaps by another gare-cache serve; give another "
        "one with --port, or --port 0 for any that is free\n"
    )


def test_ctrl_c_ends_it_cleanly(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SECONDS) == 0
    assert server.process.stdout is not None
    assert server.process.stdout.read() == "stopped\n"
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines watch the videos"),
        (["--token", "short"], "the token must have at least 8 characters"),
        (["--host", "256.1.1.1", "--token", "x" * 20], "--host 256.1.1.1 is no name or address"),
        (["--port", "70000"], "--port 70000 is no port"),
        (["--compare", "nowhere"], "has no trained head"),
        (["--zero-shot", "--compare", "zero-shot"], "CLIP alone would be compared with itself"),
        (["-p", "nowhere/params.yaml"], "nowhere/params.yaml"),
        (["--nprobe", "2"], "--nprobe is a setting of --index faiss"),
        (["--index", "qdrant"], "--index qdrant and --qdrant URL belong together"),
    ],
)
def test_what_cannot_be_served(served_project: Path, arguments: list[str], said: str) -> None:
    own = [] if "-p" in arguments else ["-p", str(served_project / "params.yaml"), "--port", "0"]
    result = CliRunner().invoke(cli.app, ["serve", *own, *arguments])
    assert result.exit_code == 2, result.output
    assert said in result.stderr.splitlines()[-1]


def test_the_store_of_the_shortlist_is_chosen(
    served_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    served: list[ServedRun] = []
    threads: list[int] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 1000)
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(
        "gare_cache.serving.command.make_app", lambda name, runs, serving: served.extend(runs)
    )
    monkeypatch.setattr("gare_cache.serving.command.run", lambda app, opened: None)
    own = ["-p", str(served_project / "params.yaml"), "--port", "0", "--device", "cpu"]
    own += ["--compare", "zero-shot", "--index", "faiss", "--nprobe", "1"]
    result = CliRunner().invoke(cli.app, ["serve", *own])
    assert result.exit_code == 0, result.output
    assert threads == [max(1, (os.cpu_count() or 1) // 2)]
    stores = [run.opened.searcher._store.identity for run in served]
    assert len(stores) == 2
    assert all(store.startswith("faiss") and store.endswith("nprobe 1") for store in stores)


def test_the_five_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder of videos to an answer, as docs/search.md begins."""
    text = (REPOSITORY / "docs/search.md").read_text(encoding="utf-8")
    block = text.partition("```bash\n")[2].partition("```")[0]
    install, *commands, ask = [shlex.split(line) for line in block.splitlines()]
    assert install == ["pip", "install", "gare-cache[serve]"]
    assert [command[:2] for command in commands] == [
        ["gare-cache", name] for name in ("index", "search", "serve")
    ]
    (tmp_path / "Videos").mkdir()
    for number in range(3):
        write_video(tmp_path / f"Videos/{number}.mp4", seed=number)
    monkeypatch.chdir(tmp_path)
    answers: list[Any] = []

    def answer(app: Any, opened: Any) -> None:
        assert opened.getsockname()[1] > 0
        with TestClient(app, base_url="http://127.0.0.1:8765") as client:
            address, body = ask[1], ask[-1]
            headers = dict([ask[ask.index("-H") + 1].split(": ")])
            answers.append(client.post(address, content=body, headers=headers).json())

    monkeypatch.setattr("gare_cache.serving.command.run", answer)
    monkeypatch.setattr("typer.launch", answers.append)
    for _, name, *arguments in commands:
        of_test = {"index": ["--encoder", "demo"], "serve": ["--port", "0"]}.get(name, [])
        own = [one.replace("~", str(tmp_path)) for one in arguments]
        result = CliRunner().invoke(cli.app, [name, *own, *of_test])
        assert result.exit_code == 0, result.output
    page, answered = answers
    assert page.startswith("http://127.0.0.1:")
    assert len(answered["hits"]) == 3


@pytest.mark.parametrize("opens", [False, True])
def test_the_page_is_opened_if_asked(monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    launched: list[str] = []
    monkeypatch.setattr("typer.launch", launched.append)
    monkeypatch.setattr(
        "gare_cache.serving.command.serve_project",
        lambda *_, on_ready, **__: on_ready("http://127.0.0.1:1/", "serving"),
    )
    result = CliRunner().invoke(cli.app, ["serve", *(["--open"] if opens else [])])
    assert result.stdout == "serving\nopen http://127.0.0.1:1/ (Ctrl-C stops)\nstopped\n"
    assert launched == (["http://127.0.0.1:1/"] if opens else [])


def test_the_extra_that_is_missing_is_named(
    served_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("gare_cache.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = CliRunner().invoke(cli.app, ["serve", "-p", str(served_project / "params.yaml")])
    assert result.exit_code == 2
    assert result.stderr == (
        "error: gare-cache serve needs uvicorn; install it: pip install 'gare-cache[serve]'\n"
    )


def test_the_address_of_the_page() -> None:
    opened = listen("127.0.0.1", 0)
    port = opened.getsockname()[1]
    assert url_of(opened, "127.0.0.1", None) == f"http://127.0.0.1:{port}/"
    assert url_of(opened, "::1", None) == f"http://[::1]:{port}/"
    expected = f"http://{socket.gethostname()}:{port}/?token=secret+word"
    assert url_of(opened, "0.0.0.0", "secret word") == expected
    opened.close()
