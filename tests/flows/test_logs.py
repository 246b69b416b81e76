"""One line an event: JSON or text, what is bound on it, no values of variables."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from adapters.settings import Settings
from flows import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put the loggers of this process back."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    were = [(x, list(x.handlers), x.level, x.propagate) for x in loggers]
    yield
    for logger, handlers, level, propagate in were:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(each) for each in capsys.readouterr().err.splitlines()]


def test_what_is_bound_is_on_every_line_also_of_others_and_in_threads(capsys):
    logs.install(Settings(log_format="json"))
    with logs.telling(operation="op-1", lane=""), ThreadPoolExecutor() as pool:
        logging.getLogger("flows.lanes").info("in %s", "a thread")
        logging.getLogger("uvicorn.error").warning("not ours")
        context = copy_context()
        pool.submit(context.run, logging.getLogger("adapters.x").info, "in a thread").result()
    logging.getLogger("flows.lanes").info("after")
    first, other, threaded, after = written(capsys)
    assert first == {
        "event": "in a thread",
        "level": "info",
        "logger": "flows.lanes",
        "operation": "op-1",
        "timestamp": first["timestamp"],
    }
    assert other["operation"] == threaded["operation"] == "op-1"
    assert "operation" not in after


def test_ours_are_told_from_the_level_that_is_set_others_warnings(capsys):
    logs.install(Settings(log_format="json", log_level="DEBUG"))
    logging.getLogger("flows.x").debug("ours")
    logging.getLogger("httpx").info("another's")
    logs.install(Settings(log_format="json", log_level="ERROR"))
    logging.getLogger("flows.x").warning("not now")
    assert [x["event"] for x in written(capsys)] == ["ours"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_is_there_without_the_values_of_variables(form, capsys):
    logs.install(Settings(log_format=form))

    def fails(password: str) -> None:
        raise ValueError("no")

    try:
        fails("never-" + "to-be-seen")
    except ValueError:
        logging.getLogger("flows.x").exception("it failed")
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "ValueError: no" in told
    assert "never-to-be-seen" not in told


def test_without_a_terminal_lines_are_json_unless_text_is_asked_for(capsys):
    logs.install(Settings())
    logging.getLogger("flows.x").info("one\nline")
    assert written(capsys)[0]["event"] == "one\nline"
    logs.install(Settings(log_format="text"))
    logging.getLogger("flows.x").info("readable")
    assert "readable" in (told := capsys.readouterr().err)
    assert not told.startswith("{")
