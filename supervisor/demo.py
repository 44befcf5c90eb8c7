"""`make run`: the server on its defaults, with credentials made for it and kept in `.env`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from resonate.supervisor import cli

from resonate import config
from resonate.errors import ConfigurationError


def main() -> None:
    """Start the server; where nothing configures an app, make one first."""
    try:
        config.load()
    except ConfigurationError as error:
        if error.key != "apps.apps":
            raise SystemExit(f"resonate: {error}") from None
        _write_credentials(Path(".env"))
    cli.main(["start"])


def _write_credentials(path: Path) -> None:
    lines = [
        f"REVERB_APP_ID={secrets.randbelow(900_000) + 100_000}",
        f"REVERB_APP_KEY={secrets.token_hex(10)}",
        f"REVERB_APP_SECRET={secrets.token_hex(20)}",
    ]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
    print(f"Wrote credentials for one app to {path}. Open the address below in a browser to try it.")


if __name__ == "__main__":
    main()
