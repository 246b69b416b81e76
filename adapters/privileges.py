"""Privileges, by names that operators of such platforms know, and the stock roles with them."""

from enum import StrEnum
from uuid import NAMESPACE_DNS, UUID, uuid5


class Privilege(StrEnum):
    """What a role may allow; every route says which it needs."""

    ENTERPRISE_ENUMERATE = "ENTERPRISE_ENUMERATE"
    ENTERPRISE_ADMINISTER_ALL = "ENTERPRISE_ADMINISTER_ALL"
    ENTERPRISE_RESOURCE_SUMMARY_ENT = "ENTERPRISE_RESOURCE_SUMMARY_ENT"
    PHYS_DC_ENUMERATE = "PHYS_DC_ENUMERATE"
    PHYS_DC_RETRIEVE_DETAILS = "PHYS_DC_RETRIEVE_DETAILS"
    PHYS_DC_MANAGE = "PHYS_DC_MANAGE"
    PHYS_DC_ALLOW_MODIFY_SERVERS = "PHYS_DC_ALLOW_MODIFY_SERVERS"
    PHYS_DC_ALLOW_MODIFY_STORAGE = "PHYS_DC_ALLOW_MODIFY_STORAGE"
    PHYS_DC_ALLOW_MODIFY_ALLOCATION = "PHYS_DC_ALLOW_MODIFY_ALLOCATION"
    PHYS_DC_ALLOW_MODIFY_NETWORK = "PHYS_DC_ALLOW_MODIFY_NETWORK"
    VDC_ENUMERATE = "VDC_ENUMERATE"
    VDC_MANAGE = "VDC_MANAGE"
    VDC_MANAGE_VAPP = "VDC_MANAGE_VAPP"
    VDC_MANAGE_STORAGE = "VDC_MANAGE_STORAGE"
    VDC_MANAGE_NETWORK = "VDC_MANAGE_NETWORK"
    VAPP_CUSTOMISE_SETTINGS = "VAPP_CUSTOMISE_SETTINGS"
    VAPP_DEPLOY_UNDEPLOY = "VAPP_DEPLOY_UNDEPLOY"
    VAPP_ASSIGN_VOLUME = "VAPP_ASSIGN_VOLUME"
    VAPP_PERFORM_ACTIONS = "VAPP_PERFORM_ACTIONS"
    VAPP_CREATE_STATEFUL = "VAPP_CREATE_STATEFUL"
    APPLIB_VIEW = "APPLIB_VIEW"
    APPLIB_UPLOAD_IMAGE = "APPLIB_UPLOAD_IMAGE"
    APPLIB_ALLOW_MODIFY = "APPLIB_ALLOW_MODIFY"
    USERS_VIEW = "USERS_VIEW"
    USERS_MANAGE_USERS = "USERS_MANAGE_USERS"
    USERS_MANAGE_ENTERPRISE = "USERS_MANAGE_ENTERPRISE"
    USERS_VIEW_PRIVILEGES = "USERS_VIEW_PRIVILEGES"
    USERS_MANAGE_ROLES = "USERS_MANAGE_ROLES"
    API_TOKENS_MANAGE = "API_TOKENS_MANAGE"
    OPERATION_VIEW = "OPERATION_VIEW"
    OPERATION_CONTROL = "OPERATION_CONTROL"
    OPERATION_ABANDON = "OPERATION_ABANDON"
    OPERATION_APPROVE = "OPERATION_APPROVE"
    EVENTLOG_VIEW_ENTERPRISE = "EVENTLOG_VIEW_ENTERPRISE"
    EVENTLOG_VIEW_ALL = "EVENTLOG_VIEW_ALL"

    @property
    def meaning(self) -> str:
        """What it allows."""
        return _MEANINGS[self]


_MEANINGS = {
    Privilege.ENTERPRISE_ENUMERATE: "see one's enterprise",
    Privilege.ENTERPRISE_ADMINISTER_ALL: "make and remove enterprises, and act for every one",
    Privilege.ENTERPRISE_RESOURCE_SUMMARY_ENT: "see limits, and what is used of them",
    Privilege.PHYS_DC_ENUMERATE: "see which datacenters there are",
    Privilege.PHYS_DC_RETRIEVE_DETAILS: "see racks, hosts, storage devices and pools",
    Privilege.PHYS_DC_MANAGE: "add, change and remove datacenters; run maintenance",
    Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS: "add, change and remove racks and hosts",
    Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE: "add, change and remove storage devices and pools",
    Privilege.PHYS_DC_ALLOW_MODIFY_ALLOCATION: "change how VMs are placed on hosts",
    Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK: "change DHCP servers, and datacenters' networks",
    Privilege.VDC_ENUMERATE: "see virtual datacenters, and what is in them",
    Privilege.VDC_MANAGE: "make, change and remove virtual datacenters",
    Privilege.VDC_MANAGE_VAPP: "make, change and remove appliances",
    Privilege.VDC_MANAGE_STORAGE: "make, change and remove volumes",
    Privilege.VDC_MANAGE_NETWORK: "make, change and remove networks; buy and release addresses",
    Privilege.VAPP_CUSTOMISE_SETTINGS: "change VMs: hardware, labels, protection",
    Privilege.VAPP_DEPLOY_UNDEPLOY: "deploy and undeploy appliances and VMs",
    Privilege.VAPP_ASSIGN_VOLUME: "attach and detach volumes",
    Privilege.VAPP_PERFORM_ACTIONS: "switch and reset VMs, and open their consoles",
    Privilege.VAPP_CREATE_STATEFUL: "make VMs and templates persistent",
    Privilege.APPLIB_VIEW: "see templates",
    Privilege.APPLIB_UPLOAD_IMAGE: "import images, and make templates of volumes",
    Privilege.APPLIB_ALLOW_MODIFY: "convert, export, change and remove templates",
    Privilege.USERS_VIEW: "see users",
    Privilege.USERS_MANAGE_USERS: "make, change and remove users, and revoke their tokens",
    Privilege.USERS_MANAGE_ENTERPRISE: "change one's enterprise",
    Privilege.USERS_VIEW_PRIVILEGES: "see roles",
    Privilege.USERS_MANAGE_ROLES: "make, change and remove roles",
    Privilege.API_TOKENS_MANAGE: "make, see and revoke one's own API tokens",
    Privilege.OPERATION_VIEW: "see operations, their steps and receipts",
    Privilege.OPERATION_CONTROL: "cancel, unwind and resume operations",
    Privilege.OPERATION_ABANDON: "give stuck operations up",
    Privilege.OPERATION_APPROVE: "decide about operations that wait, and which need not wait",
    Privilege.EVENTLOG_VIEW_ENTERPRISE: "see one's enterprise's events",
    Privilege.EVENTLOG_VIEW_ALL: "see every enterprise's events",
}


class Stock(StrEnum):
    """The roles that every installation has, and that nobody changes."""

    CLOUD_ADMIN = "CLOUD_ADMIN"
    ENTERPRISE_ADMIN = "ENTERPRISE_ADMIN"
    USER = "USER"

    @property
    def id(self) -> UUID:
        """The same in every installation."""
        return uuid5(NAMESPACE_DNS, f"{self}.role.cloudloom")


EVERYTHING = frozenset(Privilege)
_ONLY_OPERATORS = {
    Privilege.ENTERPRISE_ADMINISTER_ALL,
    Privilege.PHYS_DC_RETRIEVE_DETAILS,
    Privilege.PHYS_DC_MANAGE,
    Privilege.PHYS_DC_ALLOW_MODIFY_SERVERS,
    Privilege.PHYS_DC_ALLOW_MODIFY_STORAGE,
    Privilege.PHYS_DC_ALLOW_MODIFY_ALLOCATION,
    Privilege.PHYS_DC_ALLOW_MODIFY_NETWORK,
    Privilege.EVENTLOG_VIEW_ALL,
}
STOCK = {
    Stock.CLOUD_ADMIN: EVERYTHING,
    Stock.ENTERPRISE_ADMIN: EVERYTHING - _ONLY_OPERATORS,
    Stock.USER: frozenset(
        {
            Privilege.ENTERPRISE_ENUMERATE,
            Privilege.VDC_ENUMERATE,
            Privilege.VDC_MANAGE_VAPP,
            Privilege.VAPP_CUSTOMISE_SETTINGS,
            Privilege.VAPP_DEPLOY_UNDEPLOY,
            Privilege.VAPP_ASSIGN_VOLUME,
            Privilege.VAPP_PERFORM_ACTIONS,
            Privilege.VAPP_CREATE_STATEFUL,
            Privilege.APPLIB_VIEW,
            Privilege.API_TOKENS_MANAGE,
            Privilege.OPERATION_VIEW,
            Privilege.OPERATION_CONTROL,
        }
    ),
}
