"""Linux namespaces, links and capture as async context managers; knows nothing of migration.

Everything made here belongs to the process that made it: namespaces have no names, links vanish
with their namespace, and a namespace with its last descriptor or process.
"""
