"""Laptops to attack."""

from pathlib import Path

import pytest

from tests.attacks.victim import Victim
from tests.cli.school import School
from tests.run.conftest import private, school_laptop, server
from tests.run.polled import NOW, Laptop
from tests.simulator import DAY, FakeClock, ServerSimulator, lease

__all__ = ["private", "school_laptop", "server"]


@pytest.fixture
def victim(school_laptop: Laptop, server: ServerSimulator) -> Victim:
    """A laptop that runs build 760, with a lease for three weeks."""
    server.lease = lease(NOW + 21 * DAY)
    found = Victim(school_laptop, server)
    found.settle()
    return found


@pytest.fixture
def school(private: Path, server: ServerSimulator) -> School:
    """A laptop that runs build 760, and a server that has 762."""
    return School(private, server)


@pytest.fixture
def customer(school: School) -> Victim:
    """The laptop of that school, which has asked once."""
    school.server.lease = lease(NOW + 21 * DAY)
    found = Victim(Laptop(school.root, FakeClock(NOW)), school.server)
    found.settle()
    return found
