"""Every operation there is, listed once: what the API may start, and what is deployed."""

from flows.adapt_template import adapt_template
from flows.add_disk import add_disk
from flows.attach_nic import attach_nic
from flows.attach_volume import attach_volume
from flows.capture_image import capture_image
from flows.capture_volume import capture_volume
from flows.change_power import change_power
from flows.check_datacenters import check_datacenters
from flows.convert_image import convert_image
from flows.create_iscsi_volume import create_iscsi_volume
from flows.create_network import create_network
from flows.delete_disk import delete_disk
from flows.delete_iscsi_volume import delete_iscsi_volume
from flows.delete_network import delete_network
from flows.delete_template import delete_template
from flows.deploy_appliance import deploy_appliance
from flows.deploy_vm import deploy_vm
from flows.detach_nic import detach_nic
from flows.detach_volume import detach_volume
from flows.export_template import export_template
from flows.export_vm import export_vm
from flows.import_found import import_found
from flows.import_from_url import import_from_url
from flows.import_image import import_image
from flows.import_package import import_package
from flows.mend_links import mend_links
from flows.operation import FLOWS, OperationFlow
from flows.persist_template import persist_template
from flows.persist_vm import persist_vm
from flows.reconcile_operations import reconcile_operations
from flows.redefine_vm import redefine_vm
from flows.refresh_repository import refresh_repository
from flows.rescan_library import rescan_library
from flows.reset_vm import reset_vm
from flows.resize_vm import resize_vm
from flows.resize_volume import resize_volume
from flows.sweep_orphans import sweep_orphans
from flows.sync_appliance import sync_appliance
from flows.sync_dhcp import sync_dhcp
from flows.trim_history import trim_history
from flows.undeploy_appliance import undeploy_appliance
from flows.undeploy_vm import undeploy_vm
from flows.unwind_operation import unwind_operation
from flows.verify_library import verify_library

CATALOG: tuple[OperationFlow, ...] = (
    import_image,
    import_package,
    import_found,
    import_from_url,
    refresh_repository,
    convert_image,
    adapt_template,
    export_template,
    export_vm,
    delete_template,
    capture_image,
    persist_template,
    capture_volume,
    create_iscsi_volume,
    delete_iscsi_volume,
    create_network,
    delete_network,
    attach_volume,
    detach_volume,
    deploy_vm,
    undeploy_vm,
    deploy_appliance,
    sync_appliance,
    undeploy_appliance,
    change_power,
    reset_vm,
    persist_vm,
    resize_vm,
    add_disk,
    delete_disk,
    attach_nic,
    detach_nic,
    redefine_vm,
    resize_volume,
    unwind_operation,
    reconcile_operations,
    check_datacenters,
    sweep_orphans,
    trim_history,
    verify_library,
    rescan_library,
    sync_dhcp,
    mend_links,
)

__all__ = ["CATALOG", "FLOWS"]
