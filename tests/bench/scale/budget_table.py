"""The token budget's table in memory: DynamoDB's answers to the few expressions that ``berth.budget`` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from berth.budget import MORE_IS_LEFT, NONE_IS_TAKEN, SOME_ARE_TAKEN
from berth.contract import KIND, NODE
from botocore.exceptions import ClientError

__all__ = ["BudgetTable"]

_Numbers = Mapping[str, float]
_CONDITIONS: Final[dict[str | None, Callable[[_Numbers, _Numbers], bool]]] = {
    None: lambda _item, _v: True,
    SOME_ARE_TAKEN: lambda item, v: "tat" in item and v[":now"] < item["tat"] <= v[":most"],
    NONE_IS_TAKEN: lambda item, v: "tat" not in item or item["tat"] <= v[":now"],
    MORE_IS_LEFT: lambda item, v: "tat" not in item or item["tat"] < v[":empty"],
}


class BudgetTable:
    """Items of numbers. Each call is atomic, as there. ``refused`` counts the conditions that did not hold."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, float]] = {}
        self.writes = self.refused = 0

    def update_item(self, **request: Any) -> Any:
        key = (request["Key"][NODE]["S"], request["Key"][KIND]["S"])
        values = {name: float(v["N"]) for name, v in request["ExpressionAttributeValues"].items()}
        item = self.items.get(key, {})
        self.writes += 1
        if not _CONDITIONS[request.get("ConditionExpression")](item, values):
            self.refused += 1
            error = {"Error": {"Code": "ConditionalCheckFailedException", "Message": ""}, "Item": _numbers(item)}
            raise ClientError(error, "UpdateItem")  # type: ignore[arg-type]
        self.items[key] = {**item, **_set(request["UpdateExpression"], item, values)}
        return {"Attributes": _numbers(self.items[key])}

    def batch_get_item(self, RequestItems: Mapping[str, Any]) -> Any:  # noqa: N803 - boto3's name
        found: dict[str, list[dict[str, Any]]] = {}
        for table, wanted in RequestItems.items():
            keys = [(k[NODE]["S"], k[KIND]["S"]) for k in wanted["Keys"]]
            found[table] = [
                {NODE: {"S": node}, KIND: {"S": kind}, **_numbers(self.items[node, kind])}
                for node, kind in keys
                if (node, kind) in self.items
            ]
        return {"Responses": found}


def _set(expression: str, item: _Numbers, values: _Numbers) -> dict[str, float]:
    """``SET a = :b, c = c + :d``."""
    changed = {}
    for part in expression.removeprefix("SET ").split(", "):
        name, _, terms = part.partition(" = ")
        changed[name] = sum(values[t] if t.startswith(":") else item[t] for t in terms.split(" + "))
    return changed


def _numbers(item: _Numbers) -> dict[str, Any]:
    return {name: {"N": f"{value:.6f}"} for name, value in item.items()}
