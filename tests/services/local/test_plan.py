"""`quanyu plan`: it prints the rpcs of each level."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.local.cli import main

ORDERS = """
query Orders { orders(consumerId: "con_a", first: 2) { nodes { id lines { offer { id } } } } }
query Unknown { unknown }
"""


def test_plan_shows_batches_of_each_level(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "orders.graphql").write_text(ORDERS.partition("query Unknown")[0])
    assert CliRunner().invoke(main, ["plan", str(tmp_path / "orders.graphql"), "--source"]).exit_code == 0
    output = capfd.readouterr().out
    assert (
        output.index("level 1")
        < output.index("ListOrders")
        < output.index("level 2")
        < output.index("BatchGetOffers")
        < output.index("def ")
    )


def test_plan_of_invalid_document_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "orders.graphql").write_text(ORDERS)
    assert CliRunner().invoke(main, ["plan", str(tmp_path / "orders.graphql"), "Orders"]).exit_code == 1
    assert "Cannot query field 'unknown'" in capfd.readouterr().err
