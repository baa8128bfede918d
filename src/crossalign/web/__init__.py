"""The web page and the API, over one engine that encodes for all clients."""
