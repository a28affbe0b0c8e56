"""Token authentication for Ray on this machine; without it, reaching a Ray port means running code.

Ray looks for RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token, in that order. If none of them
exists, qdet generates a token in `.qdet/ray-token`, readable only by its owner. Ray itself writes its file
readable by all; it is made private before it is used.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

from qdet.launching.paths import secret, state_folder

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
NAME = "ray-token"
"""Of the file with the token that is made here."""


def require_token(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Turn on Ray's token authentication in `environment` and return the variables that do so.

    A mode set by the user stays.
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
        _make_private(user)
        return user
    secret(NAME)
    return state_folder() / NAME


def _make_private(token: Path) -> None:
    """Take a token file of this user's out of the reach of others, who could run code with it."""
    found = token.stat()
    if found.st_uid == os.getuid() and found.st_mode & 0o077:
        token.chmod(0o600)
