"""The guest without a CPU: its workload, its network, and how its addresses are announced."""
