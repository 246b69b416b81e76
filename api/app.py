"""The application: `/v1`, the image gateway, health and metrics."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, FastAPI

from adapters.database.events import Tide
from api import consoles, describing, errors, gateway, handing_out, tus
from api.admission import Admission
from api.exporting import Exporting
from api.hardening import Hardened, allow_origins
from api.matching import Matching
from api.observing import Observed
from api.passwords import AT_ONCE
from api.routers import (
    adaptations,
    addresses,
    allocation_rules,
    api_tokens,
    appliances,
    composition,
    datacenters,
    dhcp_servers,
    enterprises,
    events,
    health,
    hosts,
    imports,
    labels,
    limits,
    networks,
    operations,
    packages,
    persistence,
    racks,
    roles,
    sessions,
    storage_devices,
    storage_pools,
    template_records,
    template_repositories,
    templates,
    tiers,
    users,
    virtual_datacenters,
    vm_captures,
    vm_changes,
    vm_nics,
    vm_settings,
    vms,
    volumes,
)
from api.watching import Watch, glance
from flows import logs, traces
from flows.cloud import cloud

_SUMMARY = "Turns existing servers, storage and networks into a private cloud."


def create_app() -> FastAPI:
    """The API over `flows.cloud.cloud`."""
    app = FastAPI(
        title="Cloudloom",
        summary=_SUMMARY,
        version=version("cloudloom"),
        lifespan=_lifespan,
        generate_unique_id_function=describing.name_of,
        # FastAPI's own would tell whole paths: signed addresses. `Observed` tells patterns.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(Matching)
    app.add_middleware(Exporting)
    app.add_middleware(Admission)
    allow_origins(app, cloud.settings)
    app.add_middleware(Observed)
    app.add_middleware(Hardened)
    errors.install(app)
    v1 = APIRouter(prefix="/v1")
    for each in (
        sessions,
        enterprises,
        users,
        roles,
        api_tokens,
        datacenters,
        racks,
        hosts,
        storage_devices,
        storage_pools,
        tiers,
        allocation_rules,
        virtual_datacenters,
        template_records,
        imports,
        adaptations,
        templates,
        packages,
        template_repositories,
        networks,
        addresses,
        dhcp_servers,
        volumes,
        persistence,
        appliances,
        vms,
        composition,
        vm_captures,
        vm_changes,
        vm_nics,
        vm_settings,
        labels,
        limits,
        operations,
        events,
    ):
        v1.include_router(each.router)
    app.include_router(v1)
    app.include_router(sessions.entrance, prefix="/v1")
    app.include_router(gateway.router)
    app.include_router(tus.router)
    app.include_router(handing_out.router)
    app.include_router(consoles.router)
    app.include_router(health.router, dependencies=[Depends(health.require_near)])
    describing.describe(app)
    return app


def served() -> FastAPI:
    """The same in a process of its own, whose logs are all ours."""
    app = create_app()
    logs.install(cloud.settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.watch = Watch(glance)
    app.state.tide = Tide(cloud.database)
    app.state.tide_watch = Watch(app.state.tide.look)
    app.state.consoles = set()
    app.state.logins = CapacityLimiter(AT_ONCE)
    try:
        with traces.sent(cloud.settings, "api"):
            yield
    finally:
        await app.state.watch.close()
        await app.state.tide_watch.close()
