"""What every table has in common: names, types, collation.

Names compare by bytes on every database. States are strings, so that a new one needs no migration.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import NAMESPACE_DNS, UUID, uuid5

from sqlalchemy import JSON, Double, Enum, LargeBinary, MetaData, String, Text, Uuid
from sqlalchemy.dialects.mysql import MEDIUMBLOB, MEDIUMTEXT
from sqlalchemy.orm import DeclarativeBase

from adapters.allocation import Fit, RuleKind
from adapters.database.session import UtcDateTime
from adapters.lan import NetworkKind
from adapters.types import (
    ConversionState,
    Family,
    Format,
    OperationState,
    StepState,
    TemplateState,
    VmState,
    VolumeState,
)

FIRST_ENTERPRISE = uuid5(NAMESPACE_DNS, "enterprise.cloudloom")


def _words(*enums: type[StrEnum]) -> dict[type[StrEnum], Any]:
    return {
        each: Enum(
            each,
            native_enum=False,
            create_constraint=False,
            length=24,
            values_callable=lambda words: [word.value for word in words],
        )
        for each in enums
    }


class Base(DeclarativeBase):
    """A table of ours."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        UUID: Uuid(),
        str: String(255),
        datetime: UtcDateTime(),
        bytes: LargeBinary(),
        float: Double(),  # a FLOAT of MySQL's cannot hold a process's start time
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        **_words(
            ConversionState,
            Family,
            Fit,
            Format,
            NetworkKind,
            OperationState,
            RuleKind,
            StepState,
            TemplateState,
            VmState,
            VolumeState,
        ),
    }
    __table_args__: Any = {  # noqa: RUF012 - SQLAlchemy has it so
        "mysql_collate": "utf8mb4_bin",
        "mysql_charset": "utf8mb4",
    }


def table(*parts: Any) -> tuple[Any, ...]:
    """A table's arguments, with those of every table."""
    return (*parts, Base.__table_args__)


LONG = Text().with_variant(MEDIUMTEXT(), "mysql", "mariadb")
LONG_BYTES = LargeBinary().with_variant(MEDIUMBLOB(), "mysql", "mariadb")
