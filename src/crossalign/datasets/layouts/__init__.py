"""How the trees of published datasets are read; one module per layout."""
