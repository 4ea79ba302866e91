"""Settings of access: certificates, callers, limits."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from server.access.roles import Role


class TlsSettings(BaseModel):
    """Encryption of the service's connections; files are read again when they change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate_file: Path | None = Field(None, description="PEM certificate chain of the server; unset: no TLS")
    key_file: Path | None = Field(None, description="PEM private key of that certificate")
    client_ca_file: Path | None = Field(
        None, description="PEM certificates that callers' certificates must be signed by; set: mutual TLS"
    )


class JwtSettings(BaseModel):
    """JSON Web Tokens of an identity provider as callers' credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_file: Path | None = Field(None, description="PEM public key, or JSON Web Key Set, that tokens are checked with")
    issuer: str | None = Field(None, description="`iss` that a token must have; needed with `key_file`")
    audience: str | None = Field(None, description="`aud` that a token must have; needed with `key_file`")
    roles_claim: str = Field("roles", description="claim with the roles: a list, or words as in `scope`")


class AccessSettings(BaseModel):
    """Who may call what, and how often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    required: bool = Field(False, description="refuse calls without a token, a JWT or a known certificate")
    tokens_file: Path | None = Field(None, description="hashed tokens of `kgrank token`; unset: `tokens.json` at home")
    certificate_roles: tuple[Role, ...] = Field(
        (), description="roles of callers with a certificate of `tls.client_ca_file` and no token"
    )
    calls_per_s: float = Field(
        0, ge=0, le=1e6, description="calls a second of one caller, unless its token says otherwise; 0: no limit"
    )
    burst_s: float = Field(2, ge=0.1, le=3600, description="seconds' worth of calls that may come at once")
    audit_file: Path | None = Field(
        None, description="record of admin, catalogue-delete, rule and erasure calls; unset: `audit.jsonl` at home"
    )
    jwt: JwtSettings = JwtSettings()
