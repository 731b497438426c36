"""Who may ask: this machine by its own name, a browser that has this session's key, and no page of anybody else.

A name that another site lets point to 127.0.0.1 is refused by the Host header, another site's script by Origin and
Sec-Fetch-Site, another user of this machine by the key, which the printed address carries and a cookie keeps; what
changes something needs the page's token, too.
"""

from __future__ import annotations

import dataclasses
import hmac
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokay.serve.refusal import Refusal, response_to

TOKEN = "x-tokay-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def _secret() -> str:
    return secrets.token_urlsafe(24)


@dataclasses.dataclass(frozen=True)
class Session:
    """What one process knows and nobody else: ``key`` opens the page, ``token`` lets it change something."""

    port: int
    key: str = dataclasses.field(default_factory=_secret, repr=False)
    token: str = dataclasses.field(default_factory=_secret, repr=False)

    @property
    def cookie(self) -> str:
        """Cookies know no ports, so the name has it."""
        return f"tokay-explore-{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What this machine calls the page."""
        return f"127.0.0.1:{self.port}", f"localhost:{self.port}", f"[::1]:{self.port}"

    @property
    def path(self) -> str:
        """What the printed address ends with."""
        return f"/?key={self.key}"


class Fence:
    """ASGI middleware around everything."""

    def __init__(self, app: ASGIApp, session: Session) -> None:
        self.app, self.session = app, session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through that may come in, and put the headers on every answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            answer = self._stopped(scope)
        except Refusal as refusal:
            answer = response_to(scope["path"], refusal)
        await (answer or self.app)(scope, receive, with_headers)

    def _stopped(self, scope: Scope) -> Response | None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        session = self.session
        if headers.get("host", "") not in session.hosts:
            raise Refusal(403, f"this page answers to {session.hosts[0]} only; open the address that tokay printed")
        own = f"http://{headers['host']}"
        if headers.get("origin", own) != own or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "this request comes from another page, which this one does not answer")
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("key", [""])[0]
        if scope["path"] == "/" and asked and _same(asked, session.key):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(session.cookie, session.key, httponly=True, samesite="strict", path="/")
            return answer
        if not _same(_cookie(headers.get("cookie", ""), session.cookie), session.key):
            said = "open the address that 'tokay explore' printed: it carries the key of this session"
            if scope["path"] == "/":
                return PlainTextResponse(said + "\n", 401)
            raise Refusal(401, said)
        if scope["method"] not in ("GET", "HEAD") and not _same(headers.get(TOKEN, ""), session.token):
            raise Refusal(403, "this request lacks the page's token; load the page again")
        return None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
