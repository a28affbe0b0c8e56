"""The token that guards a Ray cluster on this machine: whoever reaches a Ray port can run code.

Ray looks for RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token, in that order. Where there is none of
them, qdet makes a token of its own in `.qdet/ray-token`, readable by its owner alone.
"""

import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from qdet.launching.paths import state_folder

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def require_token(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Turn Ray's token authentication on in `environment`, and return the variables that do so.

    A mode that the user has set stays as it is.
    """
    if environment.get(MODE, "token") != "token":
        return {MODE: environment[MODE]}
    if TOKEN in environment:
        variables = {MODE: "token"}
    else:
        variables = {MODE: "token", TOKEN_PATH: str(_token_file(environment))}
    environment.update(variables)
    return variables


def _token_file(environment: MutableMapping[str, str]) -> Path:
    if TOKEN_PATH in environment:
        return Path(environment[TOKEN_PATH])
    user = Path.home() / ".ray" / "auth_token"
    if user.is_file():
        return user
    own = state_folder() / "ray-token"
    if not own.is_file():
        descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return own
