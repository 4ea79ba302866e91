"""The kgrank contract: generated messages and stubs, and a thin client."""
