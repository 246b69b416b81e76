"""What the worker's fork server imports, so that its children have it already."""

import prefect.context
import prefect.events.clients

import flows.catalog
import flows.children

__all__ = ["flows", "prefect"]
