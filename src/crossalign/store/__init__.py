"""Files that are written whole or not at all, and shards of features under content keys."""
