"""What methods and arms are called in tables for readers and in figures."""

import re
from functools import cache

from utils import registry

CONTROL = {"uniform --encoder_grad_scale 1.5": "Uniform, 1.5x encoder gradient"}


@cache
def title_of(method: str) -> str:
    """How the docstring of methods/`method`.py begins, up to a colon, comma or parenthesis, such as
    "MMPareto"; else from the name of the file."""
    is_file = method in registry.names("methods")
    about = (is_file and registry.load("methods", method, "--method").__doc__) or ""
    found = re.match(r"([^\n:,(]{1,30}?) ?[:,(]", about)
    return found[1] if found else method.replace("_", " ").capitalize()


def name_of(arm: str) -> str:
    """Such as "MMPareto, gamma 2" of `mmpareto --gamma 2.0`, and "Audio alone"."""
    if arm in CONTROL:
        return CONTROL[arm]
    method, *flags = arm.split(" --")
    words = [title_of(method), *(flag.removesuffix(".0") for flag in flags)]
    return ", ".join(words).replace("_", " ")
