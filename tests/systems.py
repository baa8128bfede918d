"""Marks for tests of what only POSIX systems have."""

import os

import pytest

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs forks, signals or special files of POSIX")
needs_permissions = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="needs file permissions of POSIX, which do not bind the superuser"
)
