"""Import helpers: a small folder with good and bad rows, and functions that import it and read its rejects."""

import asyncio
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from services.local import client
from services.local.imports.importer import Import
from services.local.imports.rejects import REJECTS

FILES = {
    "brands": "brand_id,name,name_en\nbrd_a,白屿,Baiyu\n",
    "stores": "store_id,parent_id,name,name_en,longitude,latitude,hours\nstr_a,brd_a,三里屯店,Sanlitun,116.45,39.93,10:00-22:00\n",
    "products": "product_id,brand_id,name,name_en,category,variant_id,attributes,price\n"
    "prd_shirt,brd_a,白衬衫,White shirt,shirt,var_39,size=39,399.00\nprd_shirt,brd_a,白衬衫,White shirt,shirt,var_40,size=40,399.00\n",
    "consumers": "consumer_id,brand_id,name,phone,sizes,consents\ncon_1,brd_a,林晓,13800138000,shirt=40,personalization\n"
    "con_2,brd_a,王静,not a phone,,\n",
    "orders": "order_id,consumer_id,store_id,paid_at\nord_1,con_1,str_a,2026-01-01 12:00\nord_2,con_1,str_a,2026-02-01 12:00\n"
    "ord_3,con_1,str_a,2026-03-01 12:00\nord_4,con_1,str_a,yesterday\nord_5,con_1,str_nowhere,2026-03-01 12:00\n",
    "order_lines": "order_id,variant_id,quantity,paid\nord_1,var_40,1,399.00\nord_1,var_39,1,399.00\nord_2,var_40,1,399.00\n"
    "ord_2,var_none,1,1.00\nord_3,var_40,1,0.001\nord_5,var_40,1,399.00\nord_9,var_40,1,399.00\n",
}

Channels = Mapping[str, grpc.aio.Channel]


def write(folder: Path, **changed: str) -> Path:
    for name, content in (FILES | changed).items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8-sig")
    return folder


async def settle(channels: Channels) -> None:
    """Returns once every published event is applied."""
    while True:
        waiting, parked = await client.count_backlog(channels)
        assert not parked
        if not waiting:
            return
        await asyncio.sleep(0)


def new_import(folder: Path, channels: Channels, on_progress: Any = lambda *progress: None, **how: Any) -> Import:
    async def wait_for_effects(name: str) -> None:
        await settle(channels)

    return Import(folder, channels, on_progress=on_progress, settle=wait_for_effects, **how)


def rejected(folder: Path) -> list[str]:
    """Returns the rejected ids, each as often as it is listed."""
    return [row["id"] for row in _rows(folder)]


def rejects(folder: Path) -> dict[str, tuple[str, str]]:
    """Returns reason and message by rejected id."""
    return {row["id"]: (row["reason"], row["message"]) for row in _rows(folder)}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / REJECTS).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
