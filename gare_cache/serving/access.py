"""Who is answered: the host asked for, the token, and the headers that fence the page in."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gare_cache.errors import ConfigError
from gare_cache.serving.limits import ClientRate
from gare_cache.serving.refusals import Refusal

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
# Style and icon of the page that asks for the token.
_OPEN_PATHS = ("/page.css", "/icon.svg")
_ASK = Path(__file__).parent / "pages" / "token.html"
_LEAST_TOKEN = 8


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server at ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Refuse to serve others without a token.

    Raises:
        ConfigError: the host is not loopback and there is no token, or it is too short.
    """
    if token is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines watch the videos; give a secret with --token or "
            "$GARE_CACHE_TOKEN, or leave --host out"
        )
    if token is not None and (len(token) < _LEAST_TOKEN or not token.isascii()):
        raise ConfigError(f"the token must have at least {_LEAST_TOKEN} characters, all ASCII")


class Guard:
    """Answers only those who may ask, and adds ``HEADERS`` to every answer.

    Without a token only a loopback ``Host`` is taken, so that no other site can point its name at
    this machine; and no request that a page of another origin makes.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, rate: ClientRate) -> None:
        """Guard an app.

        Args:
            app: what answers.
            token: that must be given; None on loopback.
            rate: counts wrong tokens.
        """
        self._app = app
        self._token = token
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refused(Request(scope))
        await (answer or self._app)(scope, receive, send_fenced)

    def _refused(self, request: Request) -> Response | None:
        """Return the answer to a request that does not reach the app; None if it does."""
        try:
            self._check_origin(request.headers)
            if self._token is None or request.url.path in _OPEN_PATHS:
                return None
            return self._without_token(request, self._token)
        except Refusal as refusal:
            return refusal.response()

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_name(host)):
            raise Refusal(421, "this server answers at localhost alone")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refusal(403, "a page of another origin may not ask")

    def _without_token(self, request: Request, token: str) -> Response | None:
        cookie = f"gare_cache_{request.url.port or 80}"
        proof = hashlib.sha256(f"gare-cache page {token}".encode()).hexdigest()
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(bearer.strip(), token):
            return None
        if _same(_cookies(request).get(cookie, ""), proof):
            return None
        given = request.query_params.get("token") if request.url.path == "/" else None
        if given is not None and _same(given, token):
            home = RedirectResponse("/", 303)
            home.set_cookie(cookie, proof, httponly=True, samesite="strict", max_age=30 * 86400)
            return home
        if given is not None or bearer:
            self._rate.take(client_of(request))
        if request.url.path == "/":
            return HTMLResponse(_ASK.read_text(encoding="utf-8"), 401)
        return Refusal(401, "the token is missing or wrong").response(
            {"WWW-Authenticate": "Bearer"}
        )


def client_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _name(host: str) -> str:
    """Return the name in a ``Host`` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookies(request: Request) -> dict[str, str]:
    try:
        jar = SimpleCookie(request.headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}
