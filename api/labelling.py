"""Labels as the API takes them, and lists that are searched by them."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy import Select

from adapters.database.labels import KEY_LENGTH, has_label

R = TypeVar("R")
MANY = 32
_FILTERS = 8
Key = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", min_length=1, max_length=KEY_LENGTH
    ),
]
Value = Annotated[
    str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=255, strip_whitespace=True)
]
Labels = Annotated[
    dict[Key, Value],
    AfterValidator(lambda labels: dict(sorted(labels.items()))),
    Field(max_length=MANY, examples=[{"env": "production", "owner": "ada"}]),
]
_WORD = Annotated[str, StringConstraints(max_length=KEY_LENGTH + 1 + 255)]
_HELP = "`key=value`; or `key`, whatever its value. Several: all of them hold."


class Sought:
    """The labels that a list's things are to have."""

    def __init__(
        self,
        label: Annotated[list[_WORD], Query(max_length=_FILTERS, description=_HELP)] = [],  # noqa: B006 - FastAPI copies it
    ) -> None:
        self._labels = [each.partition("=") for each in label]

    def __bool__(self) -> bool:
        """Whether any are sought."""
        return bool(self._labels)

    def among(self, query: Select[tuple[R]], table: Any) -> Select[tuple[R]]:
        """Those of the query that have them."""
        for key, said, value in self._labels:
            query = query.where(has_label(table, key, value if said else None))
        return query


SoughtLabels = Annotated[Sought, Depends()]
