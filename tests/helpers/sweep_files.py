"""A small sweep file that is right, and changes of it."""

import yaml

COMMAND = ["${env}", "${interpreter}", "${program}", "--config=configs/digits.py", "${args}"]
SEED = {"config.seed": {"values": [0, 1]}}


def write(path, **changes):
    """Write the file with some keys changed, and return its path."""
    content = {"program": "main.py", "method": "grid", "command": COMMAND, "parameters": SEED} | changes
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
