"""A user's module that fails as it is imported."""

raise ValueError("no\nspace")
