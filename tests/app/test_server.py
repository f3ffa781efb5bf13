"""The page's server: who may ask, what it refuses, and that it computes one thing at a time and lives."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import PROGRAM, error_of, vocabkit_here
from moved_adapters import Kind, trained
from served_talk import ask, asking, served
from small_world import World

from vocabkit.app import server, talk
from vocabkit.app.server import may_ask
from vocabkit.app.talk import Reader, Talk, open_talk


@pytest.fixture(scope="module")
def spoken(world: World, tmp_path_factory: pytest.TempPathFactory) -> Talk:
    """An adapter over words and two LLMs, loaded, and a third that can't be."""
    folder = tmp_path_factory.mktemp("adapter")
    trained(world, Kind("words", temperature=0.2), folder).save(folder / "adapter")
    spoken = open_talk(folder / "adapter", [world.one, world.two, f"three={folder / 'nothing'}"])
    spoken.load()
    return spoken


@pytest.fixture
def url(spoken: Talk) -> Iterator[str]:
    with served(spoken) as url:
        yield url


@pytest.fixture
def picture(world: World) -> bytes:
    return (world.data.parent / "1.png").read_bytes()


def test_picture_then_answers_of_two_llms_as_they_are_written(url: str, spoken: Talk, picture: bytes) -> None:
    status, found = ask(url, "/picture", picture)
    assert status == 200
    assert len(found["patches"]) == 16
    assert found["picture"].startswith("data:image/jpeg;base64,")
    status, said = ask(url, "/answers", {"llms": [0, 1], "picture": found["key"], "question": " What? "})
    assert status == 200
    assert said[0] == {"ahead": 0}
    seen = talk.see(spoken.adapter, spoken.encoder, picture)
    for number in (0, 1):
        of_one = [each for each in said if each.get("llm") == number]
        reader = spoken.partners[number].reader
        assert reader is not None
        expected, prompt, visual_tokens = reader.answer(seen, "What?", lambda text: None)
        assert of_one[-1]["text"] == expected
        assert of_one[-1]["prompt"] == prompt
        assert of_one[-1]["cost"]["visual_tokens"] == visual_tokens == 24
        assert len(of_one) == of_one[-1]["cost"]["tokens"] + 2
    assert [each["llm"] for each in said[1:]] == sorted(each["llm"] for each in said[1:]), "one after the other"


def test_state_proof_and_drawing(url: str) -> None:
    status, state = ask(url, "/state")
    assert status == 200
    assert [(llm["name"], llm["state"], llm["proves"]) for llm in state["llms"]] == [
        ("one", "ready", True), ("two", "ready", True), ("three", "failed", False),
    ]  # fmt: skip
    assert "not found" in state["llms"][2]["problem"]
    assert ["Coverage", "10 of 10 rows found"] in state["llms"][1]["facts"]
    status, proof = ask(url, "/proof", {"llms": [1]})
    assert proof["passed"]
    assert proof["rows"] == 10
    with asking(url) as connection:
        connection.request("POST", "/drawing", b"")
        drawn = connection.getresponse().read()
    assert ask(url, "/picture", drawn)[0] == 200


# ---- who may ask -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin", "may"),
    [
        ("127.0.0.1:8017", None, True),
        ("localhost:8017", "http://localhost:8017", True),
        ("[::1]:8017", "http://[::1]:8017", True),
        ("192.168.1.7:8017", "http://192.168.1.7:8017", True),
        ("mine.lan:8017", "http://mine.lan:8017", True),
        ("mine.lan:8017", "https://mine.lan:8017", True),
        ("evil.example:8017", None, False),
        ("127.0.0.1.evil.example:8017", None, False),
        ("localhost.evil.example", None, False),
        ("127.0.0.1:8017", "http://evil.example", False),
        ("127.0.0.1:8017", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8017", "http://localhost:8017", False),
        ("127.0.0.1:8017", "null", False),
        ("127.0.0.1:8017", "", False),
        ("", None, False),
        ("[", None, False),
    ],
)
def test_only_the_page_s_own_address_may_ask(host: str, origin: str | None, may: bool) -> None:
    assert may_ask(host, origin, "mine.lan") is may


def test_foreign_names_and_pages_are_refused_and_every_answer_has_headers(url: str, picture: bytes) -> None:
    for path, body in (("/", None), ("/state", None), ("/picture", picture), ("/nowhere", None)):
        assert ask(url, path, body, host="evil.example")[0] == 403
        assert ask(url, path, body, origin="http://evil.example")[0] == 403
        with asking(url) as connection:
            connection.request("GET", path)
            headers = connection.getresponse().headers
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_bad_pictures_get_a_message_and_good_ones_go_on(
    url: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, problem in (
        (b"", "this file: is null or empty"),
        (b"no picture", "this file: not an image"),
        (picture[: len(picture) // 2], "this file: broken image"),
    ):
        status, found = ask(url, "/picture", content)
        assert status == 422
        assert found["error"].startswith(problem)
    assert ask(url, "/picture", picture)[0] == 200
    monkeypatch.setattr(server, "LARGEST", len(picture) - 1)
    status, found = ask(url, "/picture", picture)
    assert status == 413
    assert "the picture's file is larger" in found["error"]


def test_too_large_a_body_without_a_length_is_not_read_to_its_end(
    url: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LARGEST", 1000)
    with asking(url) as connection:
        connection.request("POST", "/picture", iter([bytes(900)] * 2), encode_chunked=True)
        assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"", 400), (b"[]", 400), (b"{}", 400), (b"[" * 10_000, 400), ({"llms": []}, 400), ({"llms": [0, 0]}, 400),
        ({"llms": ["0"]}, 400), ({"llms": [[]]}, 400), ({"llms": [0], "picture": 5}, 400),
        ({"llms": [0], "picture": "?"}, 404), ({"llms": [0], "question": "x" * 4001}, 413), (bytes(70_000), 413),
        ({"llms": [0], "question": "\ud800"}, 400),
    ],
)  # fmt: skip
def test_odd_questions_are_refused_by_a_status(url: str, asked: Any, status: int) -> None:
    found, answer = ask(url, "/answers", asked)
    assert found == status
    assert answer["error"]


def test_llms_that_are_not_there_are_refused(url: str, picture: bytes) -> None:
    key = ask(url, "/picture", picture)[1]["key"]
    assert ask(url, "/answers", {"llms": [7], "picture": key})[0] == 404
    assert ask(url, "/answers", {"llms": [-1], "picture": key})[0] == 404
    assert ask(url, "/answers", {"llms": [0, 2], "picture": key}) == (409, {"error": "three is not loaded (failed)"})


def test_proof_is_of_one_llm(url: str) -> None:
    assert ask(url, "/proof", {"llms": [0, 1]}) == (400, {"error": "expected one of llms; ask again for each"})


def test_visitor_who_leaves_during_an_upload_is_no_error(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="uvicorn.error")
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "handlers", [caplog.handler])
    with asking(url) as connection:
        connection.putrequest("POST", "/picture")
        connection.putheader("content-length", "1000")
        connection.endheaders(b"only this")
        time.sleep(0.2)  # so that the server waits for more
    assert ask(url, "/state")[0] == 200
    time.sleep(0.2)
    assert not caplog.records


def test_forgotten_pictures_are_told(url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_KEPT", 1)
    first, second = (ask(url, "/picture", (world.data.parent / f"{n}.png").read_bytes())[1]["key"] for n in (1, 2))
    assert ask(url, "/answers", {"llms": [0], "picture": first})[0] == 404
    assert ask(url, "/answers", {"llms": [0], "picture": second})[0] == 200


def test_llm_that_fails_on_a_question_leaves_the_others(
    url: str, spoken: Talk, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Reader.answer

    def answer(self: Reader, *arguments: Any) -> Any:
        if self is spoken.partners[0].reader:
            raise RuntimeError("secret")
        return plain(self, *arguments)

    monkeypatch.setattr(Reader, "answer", answer)
    key = ask(url, "/picture", picture)[1]["key"]
    status, said = ask(url, "/answers", {"llms": [0, 1], "picture": key})
    assert status == 200
    assert {"llm": 0, "error": "failed: RuntimeError"} in said
    assert "cost" in said[-1]
    assert "secret" not in json.dumps(said)


# ---- one at a time -----------------------------------------------------------------------------------------------


def test_computations_wait_for_each_other_and_too_many_are_refused(
    url: str, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, plain = [0], [0], Reader.answer

    def answer(self: Reader, *arguments: Any) -> Any:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.05)
        found = plain(self, *arguments)
        running[0] -= 1
        return found

    monkeypatch.setattr(Reader, "answer", answer)
    asked = {"llms": [0], "picture": ask(url, "/picture", picture)[1]["key"]}
    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(lambda _: ask(url, "/answers", asked), range(5)))
    assert [status for status, _ in found] == [200] * 5
    assert len({said[-1]["text"] for _, said in found}) == 1
    assert most == [1]
    monkeypatch.setattr(server, "_QUEUE", 0)
    assert ask(url, "/answers", asked) == (503, {"error": "0 others are waiting; try again later"})


def test_writing_ends_when_the_visitor_leaves(url: str, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def answer(self: Reader, seen: Any, asked: str, told: Any, most: int) -> Any:
        try:
            while True:
                told("more and more")
                time.sleep(0.001)
        finally:
            ended.set()

    key = ask(url, "/picture", picture)[1]["key"]
    with monkeypatch.context() as patched:
        patched.setattr(Reader, "answer", answer)
        with asking(url) as connection:
            connection.request("POST", "/answers", json.dumps({"llms": [0], "picture": key}))
            said = connection.getresponse()
            assert [b"ahead" in said.readline() for _ in range(9)] == [True] + [False] * 8
            said.close()
        assert ended.wait(30)
    assert ask(url, "/answers", {"llms": [0], "picture": key})[1][-1]["cost"]


# ---- the command -------------------------------------------------------------------------------------------------


def test_taken_port_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = vocabkit_here(tmp_path, "app", "--port", str(port))
        assert f"--port {port} of --host 127.0.0.1: Address already in use; choose another one" in error_of(done)


@pytest.mark.parametrize("llm", ["none=/nowhere.gguf", "nowhere"])
def test_llm_that_is_nowhere_is_refused_at_once(tmp_path: Path, llm: str) -> None:
    done = vocabkit_here(tmp_path, "app", "--llm", "qwen2", "--llm", llm, "--port", "0")
    assert f"--llm {llm}: no such file or folder, and no hub id" in error_of(done)


def test_command_serves_until_interrupted(world: World, tmp_path: Path) -> None:
    trained(world, Kind("words"), tmp_path).save(tmp_path / "adapter")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    words = ["app", "adapter", "--llm", "broken.gguf", "--llm", world.one, "--port", "0", "--json", "--device", "cpu"]
    with subprocess.Popen([PROGRAM, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        lines = []
        while not lines or lines[-1].rstrip() != b"}":
            lines.append(running.stdout.readline())
        told = json.loads(b"".join(lines))
        assert told["llms"] == ["broken.gguf", world.one]
        assert ask(told["url"], "/")[1].startswith("<!doctype html>")
        while ask(told["url"], "/state")[1]["llms"][0]["state"] != "failed":
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stderr is not None
        said = running.stderr.read()
        assert b"broken.gguf is not loaded: broken.gguf: " in said
        assert b"the page is closed" in said
