"""In production: the server, the near-line follower, the embedding stores, compression and export."""
