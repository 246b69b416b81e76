"""What the Markdown files promise is there: tests that they name, files that they lead to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in ("README.md", *(f"{x}/README.md" for x in ("api", "flows", "adapters")))
]
PATH = re.compile(r"`((?:api|flows|adapters|tests|deployments)/[\w/.]+)`")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "README.md").read_text())


def test_tests_are_named():
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_is_there(file, name):
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=[str(each.relative_to(ROOT)) for each in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=[str(each.relative_to(ROOT)) for each in PAGES])
def test_named_files_are_there(page):
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path).exists(), path
