"""Searches for settings: `kgrank tune`. They look at the validation case alone."""
