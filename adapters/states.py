"""The states of things: the words that rows, journals and answers have for them."""

from enum import StrEnum


class VmState(StrEnum):
    """The life of a VM; LOCKED is shown while an operation has it, and is never stored."""

    NOT_ALLOCATED = "NOT_ALLOCATED"
    ALLOCATED = "ALLOCATED"
    CONFIGURED = "CONFIGURED"
    ON = "ON"
    OFF = "OFF"
    PAUSED = "PAUSED"
    LOCKED = "LOCKED"
    UNKNOWN = "UNKNOWN"


class ApplianceState(StrEnum):
    """Derived from the states of an appliance's VMs."""

    DEPLOYED = "DEPLOYED"
    NOT_DEPLOYED = "NOT_DEPLOYED"
    NEEDS_SYNC = "NEEDS_SYNC"
    LOCKED = "LOCKED"
    UNKNOWN = "UNKNOWN"


class VolumeState(StrEnum):
    """Whether a VM uses the volume."""

    DETACHED = "DETACHED"
    ATTACHED = "ATTACHED"


class TemplateState(StrEnum):
    """DOWNLOADING until the image has been inspected and published; DELETING to the end."""

    DOWNLOADING = "DOWNLOADING"
    AVAILABLE = "AVAILABLE"
    DELETING = "DELETING"
    ERROR = "ERROR"


class ConversionState(StrEnum):
    """The life of a conversion."""

    ENQUEUED = "ENQUEUED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"


class OperationState(StrEnum):
    """The life of an operation; see `flows/policies/lifecycle.py`."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    RUNNING = "running"
    UNWINDING = "unwinding"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STUCK = "stuck"
    ABANDONED = "abandoned"


class StepState(StrEnum):
    """The life of one line of the journal."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    SKIPPED = "skipped"


class Decision(StrEnum):
    """What became of an operation that waited for approval."""

    APPROVED = "approved"
    REJECTED = "rejected"
    TIMED_OUT = "timed-out"
