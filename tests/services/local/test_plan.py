"""`quanyu plan`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.local.cli import main

ORDERS = """
query Orders { orders(consumerId: "con_a", first: 2) { nodes { id lines { offer { id } } } } }
query Nobody { nobody }
"""


def test_a_plan_shows_the_batches_of_each_level(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "orders.graphql").write_text(ORDERS.partition("query Nobody")[0])
    assert CliRunner().invoke(main, ["plan", str(tmp_path / "orders.graphql"), "--source"]).exit_code == 0
    told = capfd.readouterr().out
    assert told.index("level 1") < told.index("ListOrders") < told.index("level 2") < told.index("BatchGetOffers") < told.index("def ")


def test_a_document_that_does_not_fit_the_graph_has_no_plan(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "orders.graphql").write_text(ORDERS)
    assert CliRunner().invoke(main, ["plan", str(tmp_path / "orders.graphql"), "Orders"]).exit_code == 1
    assert "Cannot query field 'nobody'" in capfd.readouterr().err
