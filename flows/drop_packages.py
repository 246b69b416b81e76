"""Packages that have waited long enough go."""

from uuid import UUID

from adapters.database.packages import KeptPackage
from flows.cloud import cloud
from flows.steps import Effect, step


@step("survey-packages")
def survey_packages(datacenter: UUID) -> list[KeptPackage]:
    """Those that have waited for as long as the operator has set."""
    return cloud.packages.older_than(datacenter, cloud.settings.package_days)


@step("drop-package", Effect.REMOVES)
def drop_package(package: KeptPackage) -> None:
    """Remove the file, then the row: nobody claims a package, and who is reading it goes on."""
    cloud.repository(package.datacenter_id).delete(package.path)
    cloud.packages.forget(package.id)


@drop_package.look
def _(package: KeptPackage) -> bool:
    return cloud.repository(package.datacenter_id).has(package.path)
