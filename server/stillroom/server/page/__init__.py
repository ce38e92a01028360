"""The operator's page, its metrics and ``watch``: what the server's own files say, read and shown."""
