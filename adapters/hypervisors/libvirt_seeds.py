"""Seeds as raw volumes of a libvirt host's directory pools, which only their owner reads."""

import io
from uuid import UUID

import libvirt

from adapters.errors import NotFound
from adapters.hypervisors import domain_xml
from adapters.hypervisors.libvirt_disks import look_again, pool_at, seen
from adapters.hypervisors.libvirt_session import Session, speaking_libvirt
from adapters.types import Seed


class LibvirtSeeds:
    """The seeds of one libvirt host."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def ensure(self, seed: Seed, image: bytes) -> None:
        """Write it, anew where something of it is there. Raises `NotFound`, `OutOfSpace`."""
        with speaking_libvirt():
            connection = self._session()
            if (former := self._find(seed)) is not None:
                former.delete()
            pool = pool_at(connection, seed.datastore)
            volume = pool.createXML(domain_xml.seed_xml(seed, len(image)))
            stream, content = connection.newStream(), io.BytesIO(image)
            volume.upload(stream, 0, len(image))
            stream.sendAll(lambda _stream, size, file: file.read(size), content)
            stream.finish()

    def has(self, seed: Seed) -> bool:
        """Whether anything of it is there."""
        with speaking_libvirt():
            return self._find(seed) is not None

    def delete(self, seed: Seed) -> None:
        """Remove it."""
        with speaking_libvirt():
            if (found := self._find(seed)) is not None:
                found.delete()

    def of(self, installation: UUID, directory: str) -> dict[UUID, str]:
        """An installation's seeds in a datastore, each with its file. Raises `NotFound`."""
        with speaking_libvirt():
            pool = pool_at(self._session(), directory)
            look_again(pool)
            volumes = [(each.name(), each.path()) for each in pool.listAllVolumes()]
        named = ((domain_xml.seed_called(name), path) for name, path in volumes)
        return {x[0]: path for x, path in named if x and x[1] == installation}

    def _find(self, seed: Seed) -> libvirt.virStorageVol | None:
        try:
            pool = pool_at(self._session(), seed.datastore)
        except NotFound:  # without a datastore there is no seed either
            return None
        name = domain_xml.seed_name(seed)
        if (found := seen(pool, name)) is None:
            look_again(pool)
            found = seen(pool, name)
        return found
