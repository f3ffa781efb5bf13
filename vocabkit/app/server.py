"""The page's server: an ASGI application that answers this machine's browsers, one computation at a time.

Any website that the user opens could send requests to a port of this machine. A page of another origin is therefore
refused, and so is a name that may have been rebound to this address (DNS rebinding): browsers send both.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from vocabkit.app.page import facts_of, talk_page
from vocabkit.app.talk import Partner, Seen, Talk, plain, see
from vocabkit.data.scene_files import held_out_scene
from vocabkit.errors import VocabkitError, needs_extra
from vocabkit.report.as_json import plain as as_json

with needs_extra("app", "the page"):
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send

LARGEST = 32 * 2**20
"""Bytes of a picture's file: twice what a phone's camera writes. Pixels are limited by `load_image`."""
LONGEST = 4000
"""Characters of a question."""
_KEPT = 16
"""Pictures whose features are kept, the last ones."""
_QUEUE = 8
"""Computations that may wait for their turn."""
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",  # the rest is in the page
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class _Refused(Exception):  # noqa: N818 - named for what it reports
    """A request that is answered with an error."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(problem)
        self.status = status


def application(talk: Talk, host: str = "127.0.0.1") -> ASGIApp:
    """Return the ASGI application; `host` is the name or address at which it listens."""
    page, turns = talk_page(talk), _Turns()
    pictures: OrderedDict[str, Seen] = OrderedDict()

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def state(request: Request) -> Response:
        return JSONResponse({"llms": [_state(partner) for partner in talk.partners]})

    async def picture(request: Request) -> Response:
        content = await _body(request, LARGEST, "the picture's file")
        key = hashlib.sha256(content).hexdigest()
        if key not in pictures:
            try:
                pictures[key] = await turns.result(lambda: see(talk.adapter, talk.encoder, content))
            except VocabkitError as error:
                raise _Refused(422, str(error)) from error
        pictures.move_to_end(key)
        while len(pictures) > _KEPT:
            pictures.popitem(last=False)
        return JSONResponse({"key": key, **plain(pictures[key])})

    async def drawing(request: Request) -> Response:
        file = io.BytesIO()
        (await turns.result(lambda: held_out_scene(secrets.randbits(32)))).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png")

    async def answers(request: Request) -> Response:
        asked = _asked(await _body(request, 16 * LONGEST, "the question"))
        seen = pictures.get(asked["picture"])
        if seen is None:
            raise _Refused(404, "this picture is no longer here; choose it again")
        partners = [_ready(talk, number) for number in asked["llms"]]
        turns.check()

        def work(tell: Callable[[Any], None]) -> None:
            for number, partner in zip(asked["llms"], partners, strict=True):
                for_one = functools.partial(_tell_of, tell, number)
                _answer(talk, partner, seen, asked["question"], for_one)

        async def events() -> AsyncGenerator[bytes, None]:
            yield _line({"ahead": turns.ahead})
            async with aclosing(turns.told(work)) as telling:
                async for told in telling:
                    yield _line(told)

        return _Stream(events(), media_type="application/jsonl")

    async def proof(request: Request) -> Response:
        asked = _asked(await _body(request, LONGEST, "the request"))
        if len(asked["llms"]) > 1:
            raise _Refused(400, "expected one of llms; ask again for each")
        partner = _ready(talk, asked["llms"][0])
        found = await turns.result(lambda: talk.prove(partner))
        return JSONResponse(None if found is None else {**as_json(found), "passed": found.passed})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, _Refused)
        return JSONResponse({"error": str(error)}, error.status)

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"this failed ({type(error).__name__}); the terminal says more"}, 500)

    routes = [
        Route("/", index),
        Route("/state", state),
        Route("/picture", picture, methods=["POST"]),
        Route("/drawing", drawing, methods=["POST"]),
        Route("/answers", answers, methods=["POST"]),
        Route("/proof", proof, methods=["POST"]),
    ]
    return _guarded(Starlette(routes=routes, exception_handlers={_Refused: refused, Exception: failed}), host)


def serve(talk: Talk, sock: socket.socket, host: str) -> None:
    """Answer until interrupted, while the LLMs are loaded in a thread. Raises KeyboardInterrupt at the end."""
    threading.Thread(target=talk.load, daemon=True).start()
    config = uvicorn.Config(
        application(talk, host), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[sock])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket at which browsers will be answered; port 0 takes a free one.

    Raises VocabkitError: no such address, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise VocabkitError(f"`port` {port} of `host` {host}: {why}; choose another one") from error


def address(sock: socket.socket) -> str:
    """The URL at which a browser on this machine finds the page."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


# ---- who may ask -------------------------------------------------------------------------------------------------


def _guarded(app: ASGIApp, host: str) -> ASGIApp:
    """Refuse requests under other names, and from pages of other origins; and add headers to every answer."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if may_ask(headers.get("host", ""), headers.get("origin"), host):
            await app(scope, receive, with_headers)
        else:
            problem = "refused: this page answers only its own address, not other names and websites\n"
            await PlainTextResponse(problem, 403)(scope, receive, with_headers)

    return guard


def may_ask(host: str, origin: str | None, own: str) -> bool:
    """Whether a request with these headers comes from the page itself, or from no website at all.

    A name that was rebound to this address is a name, so any address is right, and so are `localhost` and `own`.
    """
    try:
        asked = urlsplit(f"//{host}")
        name = asked.hostname or ""
        same = origin is None or urlsplit(origin).netloc == asked.netloc
    except ValueError:
        return False
    return same and (name in ("localhost", own.lower()) or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Stream(StreamingResponse):
    """A stream that ends its source when the visitor leaves, not when the garbage collector finds it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with aclosing(self.body_iterator):
            await super().__call__(scope, receive, send)


async def _body(request: Request, most: int, what: str) -> bytes:
    content = bytearray()
    too_large = _Refused(413, f"{what} is larger than {most / 2**20:,.2g} MB")
    if int(request.headers.get("content-length", "0")) > most:
        raise too_large
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise too_large
    except ClientDisconnect as error:  # nobody reads the answer, but the terminal stays quiet
        raise _Refused(400, f"{what} is not whole") from error
    return bytes(content)


def _asked(content: bytes) -> dict[str, Any]:
    """Parse a request: `llms`, `picture` and `question`. Raises _Refused: another form, or too long."""
    try:
        asked = json.loads(content)
        llms, picture, question = asked["llms"], asked.get("picture", ""), asked.get("question", "")
        fits = isinstance(llms, list) and len(set(llms)) == len(llms) and all(type(each) is int for each in llms)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not (fits and llms and isinstance(picture, str) and isinstance(question, str)):
        raise _Refused(400, "expected JSON with llms, picture and question")
    if len(question) > LONGEST:
        raise _Refused(413, f"the question is longer than {LONGEST:,} characters")
    if any("\ud800" <= letter <= "\udfff" for letter in question):  # JSON can hold it, no tokenizer takes it
        raise _Refused(400, "the question holds half of a character, a lone surrogate")
    return {"llms": llms, "picture": picture, "question": question.strip()}


def _ready(talk: Talk, number: int) -> Partner:
    if not 0 <= number < len(talk.partners):
        raise _Refused(404, "no such LLM")
    partner = talk.partners[number]
    if partner.reader is None:
        raise _Refused(409, f"{partner.name} is not loaded ({partner.state})")
    return partner


# ---- one computation at a time -----------------------------------------------------------------------------------


class _Turns:
    """A queue of computations, each in a thread."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = 0

    @property
    def ahead(self) -> int:
        """Computations that are running or wait."""
        return self._waiting + self._lock.locked()

    def check(self) -> None:
        """Raise _Refused if the queue is full."""
        if self._waiting >= _QUEUE:
            raise _Refused(503, f"{_QUEUE} others are waiting; try again later")

    async def start(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Wait for a turn and start `work`. The turn lasts as long as it, also where nobody waits for the result."""
        self.check()
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        running = asyncio.get_running_loop().run_in_executor(None, work)
        running.add_done_callback(lambda _: self._lock.release())
        return running

    async def result(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns when it had its turn."""
        return await asyncio.shield(await self.start(work))

    async def told(self, work: Callable[[Callable[[Any], None]], None]) -> AsyncGenerator[Any, None]:
        """Yield what `work` tells in its turn. When nobody listens any longer, its telling raises _Left."""
        loop, left = asyncio.get_running_loop(), threading.Event()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        end = object()

        def tell(told: Any) -> None:
            if left.is_set():
                raise _Left
            loop.call_soon_threadsafe(queue.put_nowait, told)

        def run() -> None:
            try:
                work(tell)
            except _Left:
                pass
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, end)

        await self.start(run)
        try:
            while (told := await queue.get()) is not end:
                yield told
        finally:
            left.set()


class _Left(Exception):  # noqa: N818 - named for what it reports
    """The visitor has left."""


def _answer(talk: Talk, partner: Partner, seen: Seen, asked: str, tell: Callable[[dict[str, Any]], None]) -> None:
    """Tell the answer of one LLM as it is written, then what it cost; or its problem."""
    assert partner.reader is not None
    start, first, tokens = time.perf_counter(), 0.0, 0

    def told(text: str) -> None:
        nonlocal first, tokens
        tokens += 1
        first = first or time.perf_counter() - start
        tell({"text": text.rstrip("\ufffd")})  # a character of which only the first bytes are written

    tell({"text": ""})
    try:
        text, prompt, visual_tokens = partner.reader.answer(seen, asked, told, talk.max_new_tokens)
    except _Left:
        raise
    except Exception as error:
        if not isinstance(error, VocabkitError):
            traceback.print_exc(file=sys.stderr)
        tell({"error": str(error) if isinstance(error, VocabkitError) else f"failed: {type(error).__name__}"})
        return
    seconds = time.perf_counter() - start
    cost = {"first": first, "seconds": seconds, "tokens": tokens, "visual_tokens": visual_tokens}
    tell({"text": text, "prompt": prompt, "cost": cost})


def _tell_of(tell: Callable[[Any], None], number: int, told: dict[str, Any]) -> None:
    tell({"llm": number, **told})


def _state(partner: Partner) -> dict[str, Any]:
    reader = partner.reader
    return {
        "name": partner.name,
        "state": partner.state,
        "seconds": round(partner.seconds, 1),
        "problem": partner.problem,
        "facts": [] if reader is None else facts_of(reader),
        "proves": reader is not None and reader.moved is not None,
    }


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"
