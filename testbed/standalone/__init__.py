"""The proxy by itself, without a scenario and namespaces: what it does, without what it prints."""
