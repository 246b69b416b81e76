"""NoCloud: a VM's user data as the small image that cloud-init looks for when a guest boots first.

An ISO 9660 file system labelled CIDATA, with long names as Rock Ridge and as Joliet. What says
nothing about networks lets cloud-init ask DHCP on the first interface.
"""

import io
import json
from uuid import UUID

LABEL = "CIDATA"


def seed_image(instance: UUID, hostname: str, user_data: str) -> bytes:
    """The image; a guest that is the same instance does not take its user data again."""
    from pycdlib import PyCdlib  # some 10 ms, and most VMs have none

    told = {"instance-id": str(instance), "local-hostname": hostname}
    files = {"meta-data": json.dumps(told, indent=1) + "\n", "user-data": user_data}
    image = PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, text in files.items():
        content = text.encode()
        short = f"/{name.replace('-', '').upper()}.;1"
        image.add_fp(
            io.BytesIO(content), len(content), short, rr_name=name, joliet_path=f"/{name}"
        )
    made = io.BytesIO()
    image.write_fp(made)
    image.close()
    return made.getvalue()
