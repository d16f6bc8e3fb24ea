"""The pretend cloud as a fixture."""

import pytest

from tests.launch import helpers, world


@pytest.fixture
def cloud(tmp_path):
    """A function that builds the pretend cloud; its arguments are the fields of the world."""
    return lambda **fields: helpers.build_cloud(tmp_path, world.new_world(**fields))
