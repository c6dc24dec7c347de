"""Refusals: a status and one line, which names no path of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

from gare_cache.serving.schema import Fault


class Refusal(Exception):
    """A request that is not answered."""

    def __init__(self, status: int, error: str, retry_after: int | None = None) -> None:
        """Say why.

        Args:
            status: of HTTP.
            error: one line.
            retry_after: seconds after which to try again.
        """
        super().__init__(error)
        self.status = status
        self.error = error
        self.retry_after = retry_after

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """Return it as JSON."""
        after = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(
            Fault(error=self.error).model_dump(),
            status_code=self.status,
            headers={**after, **(headers or {})},
        )


def of_status(status: int) -> Refusal:
    """Return the refusal of a request that no route takes."""
    said = {
        404: "there is nothing here; / is the page and /api/openapi.json describes the API",
        405: "this address does not take this method; see /api/openapi.json",
    }
    return Refusal(status, said.get(status) or HTTPStatus(status).phrase.lower())
