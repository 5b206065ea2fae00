"""What `benchmarks/proxy.py` is made of: a network, peers, ends faster than any peer, the parts."""
