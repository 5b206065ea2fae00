"""A network proxy and fault-injection testbed for QEMU live migration."""
