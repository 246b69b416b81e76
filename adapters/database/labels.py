"""Labels: what people write on their things, `key=value`; they go with what they are on.

Whatever class of rows is `Labelled` has them. They have no foreign key, being on rows of many
tables; here is seen to it that none is left when its row goes, whoever removes it, and how.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Index, String, delete, event, exists, select
from sqlalchemy.orm import (
    Mapped,
    Mapper,
    ORMExecuteState,
    Session,
    declared_attr,
    mapped_column,
    relationship,
)

from adapters.database.conventions import Base, table

KEY_LENGTH = 63


class LabelRow(Base):
    """A label of one thing."""

    __tablename__ = "labels"
    __table_args__ = table(Index("ix_labels_of_kind", "kind", "key", "value", "object_id"))
    object_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(KEY_LENGTH), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    value: Mapped[str]


class Labelled:
    """Rows with labels: those of a page are read by one query (`Page.rows`)."""

    __tablename__: Any
    id: Any

    @declared_attr
    def label_rows(cls) -> Mapped[list[LabelRow]]:  # noqa: N805 - SQLAlchemy hands the class
        """Its labels, in the order of their keys."""
        return relationship(
            LabelRow,
            primaryjoin=f"foreign(LabelRow.object_id) == {cast(Any, cls).__name__}.id",
            order_by=LabelRow.key,
            viewonly=True,
        )

    @property
    def labels(self) -> dict[str, str]:
        """Its labels, by their keys."""
        return {each.key: each.value for each in self.label_rows}


def label(db: Session, row: Labelled, labels: Mapping[str, str]) -> None:
    """Let a thing have these labels, and no others."""
    db.execute(delete(LabelRow).where(LabelRow.object_id == row.id))
    for key, value in sorted(labels.items()):
        db.add(LabelRow(object_id=row.id, key=key, kind=row.__tablename__, value=value))
    db.flush()
    db.expire(row, ["label_rows"])


def labels_of(db: Session, things: Iterable[UUID]) -> dict[UUID, dict[str, str]]:
    """The labels of these things, however many, by one query."""
    columns = (LabelRow.object_id, LabelRow.key, LabelRow.value)
    query = select(*columns).where(LabelRow.object_id.in_([*things])).order_by(LabelRow.key)
    found: dict[UUID, dict[str, str]] = {}
    for thing, key, value in db.execute(query):
        found.setdefault(thing, {})[key] = value
    return found


def has_label(thing: type[Labelled], key: str, value: str | None) -> ColumnElement[bool]:
    """That a row has a label of this key, and of this value where one is given."""
    on_it = exists().where(
        LabelRow.object_id == thing.id, LabelRow.kind == thing.__tablename__, LabelRow.key == key
    )
    return on_it if value is None else on_it.where(LabelRow.value == value)


@event.listens_for(Labelled, "after_delete", propagate=True)
def _gone(_mapper: Mapper[Any], connection: Connection, row: Labelled) -> None:
    connection.execute(delete(LabelRow).where(LabelRow.object_id == row.id))


@event.listens_for(Session, "do_orm_execute")
def _going(state: ORMExecuteState) -> None:
    """Rows that one statement removes are not known one by one: their labels go before them."""
    if not state.is_delete or state.bind_mapper is None:
        return
    of: Any = state.bind_mapper.class_
    if issubclass(of, Labelled):
        statement: Any = state.statement
        ids = select(of.id)
        if statement.whereclause is not None:
            ids = ids.where(statement.whereclause)
        labels = delete(LabelRow).where(LabelRow.object_id.in_(ids))
        state.session.execute(
            labels, state.parameters, execution_options={"synchronize_session": False}
        )
