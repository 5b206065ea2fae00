"""Commands that need no scenario and no namespaces: what they do, without what they print."""
