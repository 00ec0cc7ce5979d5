"""Connectors: where streams come from and where they go. Each imports only what is public."""
