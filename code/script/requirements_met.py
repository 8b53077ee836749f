"""Exit status 0 if this interpreter meets the requirements files named as arguments, else 1."""

import sys
from importlib.metadata import PackageNotFoundError, version


def met(line: str) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036, the interpreter is not chosen yet
        return 1
    lines = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            lines += [line.split("#")[0].strip() for line in file]
    try:
        return not all(met(line) for line in lines if line)
    except ImportError:  # packaging comes with what is required, so something is missing
        return 1


sys.exit(main())
