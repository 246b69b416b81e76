"""The Prefect UI in Debian's Chromium, without a window: for tests and screenshots."""

from contextlib import ExitStack
from typing import Self
from uuid import UUID

from playwright.sync_api import Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as Late

from deployments.lab.process import wait_for

CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = (
    "--no-sandbox",  # it does not run as root otherwise, and opens our own pages alone
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # and nobody else's
)
_PATIENCE_S = 60.0
_LOADING_S = 5.0


class PrefectUi:
    """A browser with the UI of one Prefect server, logged in as a person logs in."""

    def __init__(self, port: int, auth: str) -> None:
        self.url = f"http://127.0.0.1:{port}/v2"
        self._auth = auth
        self._stack = ExitStack()
        self.page: Page

    def __enter__(self) -> Self:
        """Start the browser, with nothing in it."""
        with ExitStack() as stack:
            chromium = stack.enter_context(sync_playwright()).chromium
            browser = chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
            stack.callback(browser.close)
            self.page = browser.new_page(viewport={"width": 1280, "height": 800})
            self.page.set_default_timeout(_PATIENCE_S * 1000)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and forget all that it knew."""
        self._stack.close()

    def log_in(self, at: str = "") -> None:
        """Open a page as somebody who has not been there, and answer what it asks for."""
        self.page.goto(at or f"{self.url}/dashboard")
        self.page.locator("input[type=password]").fill(self._auth)
        self.page.get_by_role("button", name="Login").click()
        self.page.wait_for_url(lambda url: "/login" not in url)

    def runs(self, *tags: str) -> None:
        """The list of runs that have all these tags, typed into its filter."""
        self.page.goto(f"{self.url}/runs")
        for tag in tags:
            self.page.get_by_label("All tags").fill(tag)
            self.page.keyboard.press("Enter")

    def run(self, flow_run: UUID, tab: str) -> Page:
        """One of the tabs of a run."""
        self.page.goto(f"{self.url}/runs/flow-run/{flow_run}")
        self.page.get_by_role("tab", name=tab, exact=True).click()
        return self.page

    def artifact(self, flow_run: UUID, key: str) -> Page:
        """An artifact of a run, reached by clicking on its key, and there on the run's own."""
        link = self.page.locator(f"a[href$='/artifacts/key/{key}']")
        wait_for(lambda: self._has(flow_run, link), _PATIENCE_S, f"{key} of run {flow_run}")
        link.click()
        its_run = f"following::a[1][contains(@href, '/flow-run/{flow_run}')]"
        self.page.locator(f"//a[contains(@href, '/artifacts/artifact/') and {its_run}]").click()
        return self.page

    def _has(self, flow_run: UUID, artifact: Locator) -> bool:
        """Whether a run has it by now: the list of what it has is fetched with its page alone."""
        self.run(flow_run, "Artifacts")
        try:
            artifact.wait_for(timeout=_LOADING_S * 1000)
        except Late:
            return False
        return True
