"""Idempotency: a key that a caller sends again is given the answer that it was given.

The answer is written down in the transaction that does what it tells of, so that of two equal
requests that race, one acts and the other is given its answer. Refusals are not kept: what was
refused may be tried again with the same key.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.background import BackgroundTask

from adapters.database import events, models
from adapters.database.session import is_last_written, utc_now
from adapters.errors import Conflict, Transient
from api.tokens import Caller
from flows.cloud import cloud


@dataclass(frozen=True)
class Answer:
    """What a POST answers, now and whenever its key comes again."""

    status: int
    body: dict[str, Any]
    location: str | None = None

    def response(
        self, background: BackgroundTask | None = None, headers: Mapping[str, str] | None = None
    ) -> JSONResponse:
        """The answer as a response."""
        response = JSONResponse(self.body, self.status, headers, background=background)
        if self.location:
            response.headers["Location"] = self.location
        return response


class Replay(Exception):
    """The key has been answered: give this answer again."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class Once:
    """One request under its caller's key, or under none."""

    def __init__(self, caller: Caller, route: str, key: str | None, content: bytes) -> None:
        """Raises `Replay` when the key has been answered, `Conflict` when to something else."""
        self._caller = caller
        self._route = route
        self._key = key
        self._digest = sha256(content).hexdigest()
        self.replay()

    def answer(self, act: Callable[[Session], Answer], *, quiet: bool = False) -> Answer:
        """Act and keep the answer, in one transaction; both again when a deadlock undid it.

        What is `quiet` changes nothing that anybody would be told of.
        """

        def acted(db: Session) -> Answer:
            row = self._reserve(db)
            answer = act(db)
            if not (quiet or is_last_written(db)):
                self._tell(db, answer)
            if row:
                row.status, row.location, row.answer = answer.status, answer.location, answer.body
            return answer

        return cloud.database.alone(acted)

    def _tell(self, db: Session, answer: Answer) -> None:
        """What was done, in the words of the route: no route can forget to."""
        about, *rest = self._route.partition("/v1/")[2].split("/")
        noun = events.singular(about.replace("-", "_"))
        which, what = (rest[0], "-".join(rest[1:])) if rest else (answer.body.get("id"), "created")
        table = events.table_of(noun)
        row = db.get(table, UUID(which)) if table and which else None
        events.tell(db, f"{noun}.{what or 'changed'}", row)

    def _reserve(self, db: Session) -> models.IdempotencyKey | None:
        if self._key is None:
            return None
        row = models.IdempotencyKey(
            token_id=self._caller.token_id,
            route=self._route,
            key=self._key,
            body_digest=self._digest,
            status=0,
            location=None,
            answer={},
            created_at=utc_now(),
        )
        try:
            with db.begin_nested():
                db.add(row)
        except IntegrityError as error:
            raise Transient("an equal request is under way") from error
        return row

    def replay(self) -> None:
        """Raise `Replay` when the key has been answered; also asked before a refusal is given.

        What a request is refused for may be the doing of an equal one that was faster.
        """
        if self._key is None:
            return
        with cloud.database.read() as db:
            row = db.get(models.IdempotencyKey, (self._caller.token_id, self._route, self._key))
            if row is None:
                return
            if row.body_digest != self._digest:
                text = "this Idempotency-Key was used for another request"
                raise Conflict(text, code="idempotency-key-reused")
            raise Replay(Answer(row.status, row.answer, row.location))
