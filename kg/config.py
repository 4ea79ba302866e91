"""Settings of the graph store."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from kg.errors import ConfigError


class GraphSettings(BaseModel):
    """Where the graph is: an embedded Neo4j under the home folder, unless `uri` names a server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str | None = Field(None, description="Bolt address of a Neo4j server; the embedded one when unset")
    user: str = Field("neo4j", description="user of that server")
    password: SecretStr | None = Field(None, description="password of that server")
    password_file: Path | None = Field(None, description="file that holds the password, instead of `password`")
    database: str = Field("neo4j", description="database of that server")
    heap_mib: int = Field(1024, ge=256, le=262_144, description="Java heap of the embedded Neo4j, MiB")
    page_cache_mib: int = Field(512, ge=64, le=1_048_576, description="page cache of the embedded Neo4j, MiB")
    port: int = Field(0, ge=0, le=65535, description="port of the embedded Neo4j on loopback; 0 takes a free one")
    start_timeout_s: float = Field(120, gt=0, le=3600, description="longest wait for the embedded Neo4j to answer")

    def read_password(self) -> str:
        """Return the server's password from the setting or the file.

        Raises:
            ConfigError: neither is set (an empty password is none), or the file can't be read.
        """
        if self.password:
            return self.password.get_secret_value()
        if self.password_file is None:
            raise ConfigError(
                "graph.uri is set but no password is", "Set KGRANK_NEO4J_PASSWORD or KGRANK_NEO4J_PASSWORD_FILE."
            )
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"graph.password_file {self.password_file} can't be read: {error.strerror}",
                "Check the path and its permissions.",
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"graph.password_file {self.password_file} is not UTF-8 text (byte {error.start})", "Save it as UTF-8."
            ) from error
