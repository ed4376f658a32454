"""A miniature omnimodal model of the real architecture, small enough to ship inside the package."""
