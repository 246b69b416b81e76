"""Logs: one line an event, in every process the same, with the operation that it is about.

Modules log by the standard library; what is bound here (`telling`) is on every line inside, in
threads too that run in a copy of the context. Tracebacks are without values of variables, among
which a password may be.
"""

import logging
import sys
from contextlib import AbstractContextManager

from structlog.contextvars import bound_contextvars, get_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import Processor

from adapters.settings import Settings

_OURS = ("adapters", "api", "flows")


def telling(**bound: str) -> AbstractContextManager[None]:
    """Have this on every line of a log that is written inside."""
    return bound_contextvars(**{name: value for name, value in bound.items() if value})


def told(name: str) -> str | None:
    """What is bound under this name here."""
    return get_contextvars().get(name)


def install(settings: Settings) -> None:
    """Let all logs of this process leave it alike: ours, Prefect's, uvicorn's, the database's."""
    as_text = sys.stderr.isatty() if settings.log_format == "" else settings.log_format == "text"
    when_and_who: list[Processor] = [
        TimeStamper(fmt="iso", utc=True),
        add_log_level,
        add_logger_name,
    ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        _written(*when_and_who, _text(colors=sys.stderr.isatty()))
        if as_text
        else _written(*when_and_who, format_exc_info, JSONRenderer())
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    in_prefect = _written(_text(colors=False))  # which shows time, level and logger by itself
    for logger in [logging.getLogger(name) for name in logging.root.manager.loggerDict]:
        sending = [x for x in logger.handlers if not isinstance(x, logging.StreamHandler)]
        for each in sending:
            each.setFormatter(in_prefect)
        logger.handlers, logger.propagate = sending, True
    for name in _OURS:
        logging.getLogger(name).setLevel(settings.log_level)


def _written(*processors: Processor) -> ProcessorFormatter:
    *others, rendered = processors
    bound: list[Processor] = [merge_contextvars, ExtraAdder()]
    clean = ProcessorFormatter.remove_processors_meta
    return ProcessorFormatter(processors=[*bound, *others, clean, rendered])


def _text(*, colors: bool) -> ConsoleRenderer:
    return ConsoleRenderer(colors=colors, pad_event_to=0, exception_formatter=plain_traceback)
