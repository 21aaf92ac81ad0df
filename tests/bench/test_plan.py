"""The plan on paper: what the documentation shows is what the script computes."""

from itertools import pairwise

import pytest

from app.cli.doctor import checks
from app.config import Config
from bench import plan
from tests.servers import ROOT


def test_the_documentation_shows_the_tables_that_the_script_prints() -> None:
    shown = (ROOT / "docs" / "scaling.md").read_text()
    for table in plan.tables().split("\n\n"):
        assert table.strip() in shown


def test_the_plan_counts_connections_as_the_doctor_does() -> None:
    fields = Config.__dataclass_fields__
    assert plan.CONNECTIONS == fields["redis_max_connections"].default == fields["database_max_connections"].default
    assert plan.OTHERS == checks.OTHERS


def test_no_plan_is_taken_that_is_too_small() -> None:
    assert plan.fitting(plan.REDIS, 25e6, 20) == plan.REDIS[0]
    for size, count in ((26e6, 20), (25e6, 21)):
        assert plan.fitting(plan.REDIS, size, count) == plan.REDIS[1]
    assert plan.fitting(plan.SQL, 0, 501) is None


@pytest.mark.parametrize("plans", [plan.REDIS, plan.SQL], ids=["redis", "sql"])
def test_a_larger_plan_costs_more_and_has_no_less(plans: list[plan.Plan]) -> None:
    for smaller, larger in pairwise(plans):
        assert larger.price > smaller.price
        assert larger.size > smaller.size
        assert larger.connections >= smaller.connections
