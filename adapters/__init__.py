"""Everything outside the process: databases, hypervisors, storage, images, nodes, programs."""
