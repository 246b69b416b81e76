"""Private, real counterparts: a libvirt host, an iSCSI server, a database, an appliance image."""
