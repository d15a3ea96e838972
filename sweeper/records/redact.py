"""Remove home paths and secrets from records and logs."""

import os
import re
from pathlib import Path

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|_KEY$", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with this checkout, the home directory and the values of secret-looking variables replaced."""
    replacements = {str(Path(__file__).resolve().parents[2]): ".", str(Path.home()): "~"}
    replacements |= {v: f"<{n}>" for n, v in os.environ.items() if len(v) >= 8 and _SECRET_NAME.search(n)}
    for value, shown in sorted(replacements.items(), key=lambda item: -len(item[0])):
        if value != "/":
            text = text.replace(value, shown)
    return text
