"""How the commands beside train.py read their line: help as written, no abbreviated flags."""

import argparse


def parser_of(command: str, description: str, **more) -> argparse.ArgumentParser:
    """A parser for `command`; `description` is usually its file's docstring."""
    return argparse.ArgumentParser(
        prog=command,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **more,
    )
