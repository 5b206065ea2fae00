"""A QEMU work-alike for migration: the same command line, QMP, streams, texts and exit status.

Sans-IO cores with thin shells around them. The room builds on `testbed.wire` and `testbed.vmstate`
and knows nothing of scenarios, faults, the proxy or the lab: to them it is one more endpoint.
"""
