"""FastAPI services: one folder each, `create_app(settings)`; its name is its id."""
