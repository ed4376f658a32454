"""A checkpoint on disk or on the Hub, without a model: what its files say, and where they come from."""
