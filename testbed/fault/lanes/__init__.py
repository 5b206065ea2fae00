"""The directions of a connection: bytes come in, are parsed, strike by strike go on."""
