"""The server on a port, until Ctrl-C."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlencode

import uvicorn
from starlette.types import ASGIApp

from gare_cache.errors import ConfigError

_SECONDS_TO_END = 2


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections, before anything slow is read.

    Args:
        host: name or address of this machine.
        port: 0 takes any free one.

    Raises:
        ConfigError: the port is taken or reserved, or the host is none of this machine.
    """
    if port > 65535:
        raise ConfigError(f"--port {port} is no port; give one from 1024 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as err:
        raise ConfigError(f"--host {host} is no name or address of this machine ({err})") from err
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(2048)
    except OSError as err:
        opened.close()
        raise ConfigError(_why_not(err, host, port)) from err
    return opened


def _why_not(err: OSError, host: str, port: int) -> str:
    if err.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use, perhaps by another gare-cache serve; give another one with "
            "--port, or --port 0 for any that is free"
        )
    if err.errno == errno.EACCES:
        return f"port {port} is reserved for the system; give one above 1023 with --port"
    return f"--host {host} cannot be served: {err.strerror or err}; give an address of this machine"


def url_of(opened: socket.socket, host: str, token: str | None) -> str:
    """Return the address of the page, with the token that opens it."""
    port = opened.getsockname()[1]
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    return f"http://{name}:{port}/" + ("" if token is None else f"?{urlencode({'token': token})}")


def run(app: ASGIApp, opened: socket.socket) -> None:
    """Serve until Ctrl-C or a signal to end."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    try:
        uvicorn.Server(config).run(sockets=[opened])
    except KeyboardInterrupt:  # raised again once everything is closed
        return
