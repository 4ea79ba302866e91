"""The settings of kgrank: one TOML file, `KGRANK_*` variables, and defaults, in falling order of precedence.

A variable names a nested field with two underscores (`KGRANK_SERVE__PORT=6000`). `KGRANK_NEO4J_URI`, `_USER`,
`_PASSWORD`, `_PASSWORD_FILE` and `_DATABASE` are the usual names for the graph server's fields and win over the file,
as does `MLFLOW_TRACKING_URI` for MLflow's address. A `KGRANK_*` variable that nothing reads is refused.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from kg.config import GraphSettings
from kg.errors import ConfigError
from model.config import FinetuneConfig, ModelConfig, TrackingConfig, TrainConfig
from model.splits import SplitConfig
from server.access.config import AccessSettings, TlsSettings
from server.variables import CONFIG_FILE, NEO4J, PREFIX, refuse_unread
from server.watch.config import WatchSettings

DEFAULT_CONFIG_FILE = Path("kgrank.toml")
_MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"


class ServeSettings(BaseModel):
    """The gRPC service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: Annotated[str, AfterValidator(lambda host: host.strip("[]"))] = Field(
        "127.0.0.1", description="address to listen on"
    )
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    max_results: int = Field(1000, ge=1, le=10_000, description="largest k of a request")
    max_candidates: int = Field(
        10_000,
        ge=1,
        le=100_000,
        description="most candidates of a Rank request; most ids that a request allows or excludes",
    )
    history_limit: int = Field(20_000, ge=1, le=100_000, description="latest interactions of a user that are scored")
    max_batch: int = Field(16, ge=1, le=4096, description="requests scored together at most")
    search: bool = Field(True, description="answer Search and queries in contexts; false saves the memory of both")
    kept_answers_mib: int = Field(
        32,
        ge=0,
        le=65_536,
        description="memory for answers that are given again while nothing they depend on has changed; 0 keeps none",
    )
    past_search_weight: float = Field(
        1.0,
        ge=0,
        le=20,
        description="what a full fit with a user's latest search adds to later answers, in standard deviations of the "
        "user's scores; 0: searches change nothing later",
    )
    past_search_half_life_hours: float = Field(24, gt=0, le=8760, description="after which a past search counts half")
    max_waiting: int = Field(
        512,
        ge=1,
        le=100_000,
        description="ranking calls at once before new ones are refused; half of them with reasons",
    )
    longest_wait_s: float = Field(
        0.25, gt=0, le=60, description="seconds that a ranking call may have to wait before new ones are refused"
    )
    processes: int = Field(1, ge=1, le=256, description="server processes that share the port, each with its journal")
    reuse_port: bool = Field(
        False, description="share the port with other servers of this host; set where `processes` is above 1"
    )
    max_undrained: int = Field(
        1_000_000,
        ge=1,
        le=1_000_000_000,
        description=(
            "events on disk that the graph lacks before new ones are refused; "
            "as many searches, before they are left out"
        ),
    )
    journal_days: float = Field(
        7,
        ge=1,
        le=3650,
        description="days that events stay in the journal: a graph restored from an older backup can't catch up",
    )
    rules_wait_s: float = Field(
        30,
        ge=0,
        le=86_400,
        description="longest wait of a server that never read the shop's rules before it serves without them",
    )
    connection_age_s: float = Field(
        0,
        ge=0,
        le=86_400,
        description="seconds after which a client is asked to connect anew, its calls unharmed; 0: never",
    )
    drain_s: float = Field(
        10,
        ge=0,
        le=600,
        description="longest wait for running calls after SIGTERM, and as long again for the journal to drain",
    )
    threads: int = Field(0, ge=0, le=1024, description="processor threads that score; 0: half of what torch would take")
    reflection: bool | None = Field(
        None, description="answer gRPC reflection; unset: unless `production` or `access.required` is set"
    )
    production: bool = Field(
        False,
        description="refuse to start without required callers, or without TLS unless insecure_anywhere is set; no "
        "reflection unless asked for",
    )
    insecure_anywhere: bool = Field(
        False,
        description="listen beyond loopback without TLS, for whoever is on the network to read and change",
    )
    max_streams: int = Field(1024, ge=1, le=100_000, description="calls at once on one connection, streams among them")
    max_calls: int = Field(8192, ge=1, le=1_000_000, description="calls at once in all, unfinished requests among them")
    tls: TlsSettings = TlsSettings()
    access: AccessSettings = AccessSettings()
    watch: WatchSettings = WatchSettings()


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    home: Path = Field(Path(".kgrank"), description="folder of the graph, snapshots, artifacts, journal and caches")
    graph: GraphSettings = GraphSettings()
    model: ModelConfig = ModelConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    train: TrainConfig = TrainConfig()
    split: SplitConfig = SplitConfig()
    tracking: TrackingConfig = TrackingConfig()
    serve: ServeSettings = ServeSettings()

    @property
    def graph_folder(self) -> Path:
        """Where the embedded Neo4j keeps its store."""
        return self.home / "graph"

    @property
    def snapshots_folder(self) -> Path:
        """Where snapshots are kept, a folder each."""
        return self.home / "snapshots"

    @property
    def artifacts_folder(self) -> Path:
        """Where artifacts are kept, a folder each, named by model version."""
        return self.home / "artifacts"

    @property
    def encoders_folder(self) -> Path:
        """Where fine-tuned text encoders are kept, a folder each, named by content; artifacts hold their own."""
        return self.home / "encoders"

    @property
    def runs_folder(self) -> Path:
        """Where training runs' TensorBoard event files are kept, a folder each."""
        return self.home / "runs"

    def checkpoint_folder(self, snapshot_hash: str) -> Path:
        """Return where checkpoints of training on a snapshot are kept."""
        return self.home / "checkpoints" / snapshot_hash[:12]

    @property
    def journal_file(self) -> Path:
        """The server's event journal."""
        return self.home / "journal.db"

    @property
    def tokens_file(self) -> Path:
        """The hashed tokens of callers."""
        return self.serve.access.tokens_file or self.home / "tokens.json"

    @property
    def audit_file(self) -> Path:
        """The server's record of what was done by whom."""
        return self.serve.access.audit_file or self.home / "audit.jsonl"

    def journal_file_of(self, process: int) -> Path:
        """Return the event journal of one of several servers on this home; the first has the usual one."""
        return self.journal_file if process == 0 else self.home / f"journal-{process}.db"

    @property
    def cache_folder(self) -> Path:
        """Caches that can be removed at any time: text features and the like."""
        return self.home / "cache"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, file."""
        return init_settings, env_settings, _File(settings_cls)


class _File(TomlConfigSettingsSource):
    """The configuration file, without a password that a variable for the password's file is to replace."""

    def __call__(self) -> dict[str, Any]:
        found = super().__call__()
        given, graph = self.current_state.get("graph"), found.get("graph")
        if isinstance(given, dict) and isinstance(graph, dict) and given.get("password_file"):
            return found | {"graph": {name: value for name, value in graph.items() if name != "password"}}
        return found


def load_settings(config_file: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        config_file: a TOML file; by default the one that `KGRANK_CONFIG` names, else `kgrank.toml` here if it exists.

    Raises:
        ConfigError: the file is missing or malformed, a value is out of range, or nothing reads a variable; names the
            field, value and remedy.
    """
    refuse_unread(os.environ, Settings)
    named = config_file or (Path(os.environ[CONFIG_FILE]) if CONFIG_FILE in os.environ else None)
    file = named or DEFAULT_CONFIG_FILE

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    neo4j: dict[str, Any] = {field: os.environ[name] for field, name in NEO4J.items() if os.environ.get(name)}
    given: dict[str, Any] = {"graph": neo4j} if neo4j else {}
    if os.environ.get(_MLFLOW_VARIABLE):
        given["tracking"] = {"mlflow_uri": os.environ[_MLFLOW_VARIABLE]}
    try:
        if named is not None and not named.is_file():
            raise ConfigError(f"configuration file {named} does not exist", "Check --config or KGRANK_CONFIG.")
        return FileSettings(**given)
    except OSError as error:
        raise ConfigError(
            f"configuration file {file} can't be read: {error.strerror}", "Check its path and its rights."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration file {file} is not UTF-8 text (byte {error.start})", "Save it as UTF-8."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"configuration file {file} is not valid TOML: {error}", "Mend that line.") from error
    except SettingsError as error:
        raise ConfigError(
            f"{_variable(error)} can't be read: its value is not JSON", """Lists are JSON: '["ALSO_BOUGHT"]'"""
        ) from error
    except ValidationError as error:
        raise ConfigError(_explain(error), "docs/configuration.md has every setting, its range and default.") from error


def _variable(error: SettingsError) -> str:
    """Return the variable that can't be read; pydantic names the outermost field only."""
    value = getattr(error.__cause__, "doc", None)
    names = [name for name, given in os.environ.items() if name.upper().startswith(PREFIX) and given == value]
    return f"variable {names[0]}" if names else str(error)


def _explain(error: ValidationError) -> str:
    lines = []
    problems = error.errors(include_url=False, include_context=False)
    around = {problem["loc"][:depth] for problem in problems for depth in range(1, len(problem["loc"]))}
    for problem in problems:
        if problem["loc"] in around:  # a list is told to be too short where what is in it is wrong
            continue
        place = ".".join(str(part) for part in problem["loc"])
        # A misspelt key, or a whole section, may hold a password.
        unshown = problem["type"] in ("missing", "extra_forbidden") or isinstance(problem["input"], dict)
        got = "" if unshown or "password" in place else f" (got {problem['input']!r})"
        lines.append(f"setting {place}: {problem['msg']}{got}")
    return "\n".join(lines)
