"""`python -m deployments.screenshots`: the demo, and pictures of it in the Prefect UI."""

import sys
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Page, expect

from deployments import demo
from deployments.lab.prefect_ui import PrefectUi

FOLDER = Path(__file__).with_name("screenshots")


class Photographed(demo.Demo):
    """The demo, which has its picture taken where it would wait to be looked at."""

    def _keep(self) -> None:
        self._say("Take pictures of it in the Prefect UI")
        deployed = next(each for each in self.done if each.kind == "deploy_appliance")
        run = UUID(str(deployed.flow_run_url).rpartition("/")[2])
        FOLDER.mkdir(exist_ok=True)
        with PrefectUi(self.cloudloom.prefect_port, self.cloudloom.prefect_auth) as ui:
            ui.log_in()
            ui.runs("appliance:shop")
            expect(ui.page.get_by_role("link", name="deploy-appliance shop")).to_be_visible()
            self._take(ui.page, "runs", height=1150)
            page = ui.run(run, "Logs")
            expect(page.get_by_text(f"operation={deployed.id}").first).to_be_visible()
            self._take(page, "run", height=800)
            exhibits = {"plan": "web", "timeline": "reserve-hosts", "receipt": "0 answered"}
            for key, told in exhibits.items():
                page = ui.artifact(run, key)
                expect(page.get_by_text(told).first).to_be_visible()
                self._take(page, key, height=700)

    def _take(self, page: Page, name: str, *, height: int) -> None:
        """Once nothing is fetched any more, and what moves has come to rest."""
        page.set_viewport_size({"width": 1300, "height": height})
        page.mouse.move(0, 0)
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(2000)
        page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
        self._tick(str(FOLDER / f"{name}.png"))


if __name__ == "__main__":
    sys.exit(demo.main(Photographed, keep=True))
