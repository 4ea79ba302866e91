"""The errors of learning: artifacts that don't fit, training that can't go on."""

from kg.errors import KgrankError


class ModelError(KgrankError):
    """Training, evaluation or scoring can't be done as asked."""


class ArtifactError(ModelError):
    """An artifact is damaged, of another schema version, or does not fit the snapshot."""
