"""Runs that several tests of the comparison read."""

import pytest

from helpers.finished_runs import write_arms


@pytest.fixture(scope="module")
def three_arms(tmp_path_factory):
    """A directory of runs: external and self-attention with common seeds, no attention with seeds of its own."""
    return write_arms(tmp_path_factory.mktemp("arms"))
