"""Python packages that may not be there: a pack in ComfyUI meets all kinds of environments, and installs nothing into them."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from .errors import InputError


def require_package(package: str, subject: str, purpose: str, otherwise: str = "") -> None:
    """Raises:
    InputError: a package, by the name under which it is imported and installed, is not there.
    """
    if package not in sys.modules and find_spec(package) is None:
        raise missing_package(package, subject, purpose, "it is not installed", otherwise=otherwise)


def missing_package(package: str, subject: str, purpose: str, found: object, *, otherwise: str = "") -> InputError:
    """The error of a package that is not there, or cannot be imported; `otherwise` is what to do in place of installing it."""
    remedy = f"Install it into the Python that runs this (python -m pip install {package}){otherwise}."
    return InputError(subject, expected=f"the Python package {package} for {purpose}", found=found, remedy=remedy)
