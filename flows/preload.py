"""What the worker's fork server imports, so that its children have it already."""

import prefect.context
import prefect.engine
import prefect.events.worker
import prefect.flow_engine
import prefect.task_engine

import flows.catalog

__all__ = ["flows", "prefect"]
