"""Serving: the gRPC service, its engine and journal, and the command line."""
