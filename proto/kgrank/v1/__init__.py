"""Generated from the .proto files beside it; see `proto/generate.py`."""
