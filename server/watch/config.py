"""Settings of metrics, traces and logs."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class WatchSettings(BaseModel):
    """What is told of the service, to whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of metrics and probes over HTTP; 0 takes a free one; unset: none",
    )
    metrics_host: Annotated[str, AfterValidator(lambda host: host.strip("[]"))] = Field(
        "127.0.0.1", description="address of the metrics"
    )
    traces_to: str | None = Field(
        None, description="OpenTelemetry collector that takes spans over gRPC, `host:port`; unset: no traces"
    )
    traces_tls: bool = Field(False, description="encrypt what goes to that collector")
    traces_share: float = Field(
        0.01, ge=0, le=1, description="share of the calls that are traced where the caller has not decided"
    )
    log_calls: bool = Field(False, description="log every call: method, status, time, caller, request id")
