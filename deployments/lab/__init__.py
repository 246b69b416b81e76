"""Private, real counterparts: a libvirt host, an iSCSI server, a database, an appliance image."""

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloudloom"
"""Where slow things are kept between runs, keyed by what they are made from."""
