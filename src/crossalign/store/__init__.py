"""Atomic file writes, and cached features in shards under content keys."""
