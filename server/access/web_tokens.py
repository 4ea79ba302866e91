"""JSON Web Tokens (RFC 7519) of an identity provider: signature, issuer, audience and time are checked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from kg.errors import ConfigError
from server.access.config import JwtSettings
from server.access.roles import Role

_LEEWAY_S = 30


@dataclass(frozen=True, slots=True)
class WebCaller:
    """Whom a token names, and until when."""

    name: str
    roles: frozenset[Role]
    expires_s: float


class WebTokens:
    """Checks tokens with the keys of a file.

    Args:
        settings: key file, issuer, audience.

    Raises:
        ConfigError: the file can't be read or has no key, or issuer or audience are not set.
    """

    def __init__(self, settings: JwtSettings) -> None:
        if settings.key_file is None or not settings.issuer or not settings.audience:
            raise ConfigError(
                "access.jwt needs key_file, issuer and audience", "Without one of them, tokens of others would pass."
            )
        self._settings = settings
        self._keys = _keys(settings.key_file)

    def check(self, token: str) -> WebCaller | None:
        """Return whom a token names, None if it isn't good now."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header.get("kid"))
            if key is None:
                return None
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # the key's own: a token must not choose how it is read
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expires_s = float(claims["exp"])
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
            return None
        return WebCaller(str(claims["sub"]), _roles(claims.get(self._settings.roles_claim)), expires_s)

    def _key(self, key_id: object) -> jwt.PyJWK | None:
        if len(self._keys) == 1 and (key_id is None or self._keys[0].key_id in (None, key_id)):
            return self._keys[0]
        return next((key for key in self._keys if key.key_id is not None and key.key_id == key_id), None)


def _roles(claim: object) -> frozenset[Role]:
    """Return the roles of a claim, words of others left out."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    known = {str(role) for role in Role}
    return frozenset(Role(word) for word in words if isinstance(word, str) and word in known)


def _keys(path: Path) -> list[jwt.PyJWK]:
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"access.jwt.key_file {path} can't be read: {error.strerror}", "Check the path and its permissions."
        ) from error
    try:
        text = contents.decode()
        keys = jwt.PyJWKSet.from_json(text).keys if text.lstrip().startswith("{") else [_of_pem(text)]
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"access.jwt.key_file {path} has no key that can be used", "Give a PEM public key or a JSON Web Key Set."
        ) from error
    # A shared secret would let whoever can read the key sign tokens with it.
    public = [key for key in keys if key.key_type in ("RSA", "EC", "OKP")]
    if not public:
        raise ConfigError(
            f"access.jwt.key_file {path} has no public key", "Shared secrets are not taken: use RSA, EC or Ed25519."
        )
    if any(hasattr(key.key, "private_bytes") for key in public):
        raise ConfigError(
            f"access.jwt.key_file {path} has a private key: whoever reads it could sign tokens",
            "Give its public half alone, without `d`, and a new key to whoever signs if others could read this one.",
        )
    return public


def _of_pem(text: str) -> jwt.PyJWK:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(text.encode())
    if isinstance(key, rsa.RSAPublicKey):
        made = jwt.algorithms.RSAAlgorithm.to_jwk(key)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        made = jwt.algorithms.ECAlgorithm.to_jwk(key)
    elif isinstance(key, ed25519.Ed25519PublicKey):
        made = jwt.algorithms.OKPAlgorithm.to_jwk(key)
    else:
        raise ValueError("another kind of key")
    return jwt.PyJWK.from_json(made if isinstance(made, str) else json.dumps(made))
