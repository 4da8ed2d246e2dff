"""Scoring on many processes or machines: a log in blocks, its sessions in shards, each done once and kept."""
