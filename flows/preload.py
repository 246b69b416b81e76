"""What the worker's fork server imports, so that its children have it already."""

import prefect.context
import prefect.events.clients

import flows.catalog
import flows.children
from flows.outline import halves

for _each in flows.catalog.CATALOG:
    halves(_each.body)

__all__ = ["flows", "prefect"]
