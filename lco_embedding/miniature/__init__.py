"""The miniature: a tiny omnimodal model of the real architecture, and the world that it knows."""
