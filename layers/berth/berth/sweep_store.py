"""The table as the sweep reads it, and the sweep's own item in it: how far it has come, and who it is.

The item's key is ``sweep``, ``sweep``: the role may write that one alone (``dynamodb:LeadingKeys``), so that a sweep
cannot change what is known of a node. It is also the sweep's lease: a run that is still going is not overlapped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import ClientError

from berth.contract import BODY, KIND, NODE, RECORD_KIND
from berth.public_store import PARTITION
from berth.store import EXPIRES, LEASE_IS_FREE, LEASE_IS_MINE, LEASE_KIND, DynamoStore, NodeState, read_state
from berth.table import Table, item_key, number, refused, told

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient

__all__ = ["Claim", "DynamoSweepStore", "Outline", "Progress", "SweepStore", "TablePage", "Told"]

_KEY: Final = item_key("sweep", "sweep")


@dataclass(frozen=True, slots=True)
class Outline:
    """What the sweep needs of a record to look for its node."""

    arn: str
    next_look: float = 0.0
    buried: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """An Elastic IP address that a node has claimed for one of its pods (:mod:`berth.public_store`)."""

    allocation_id: str
    instance_id: str
    at: float


@dataclass(frozen=True, slots=True)
class TablePage:
    """A page of the table: outlines of records, and (ARN, until) of leases. ``token`` is "" on the last page."""

    records: tuple[Outline, ...] = ()
    leases: tuple[tuple[str, float], ...] = ()
    token: str = ""
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """What was last told of a subnet, or seen when nothing had to be told (``shortage`` is empty then)."""

    at: float
    free: int
    free_prefixes: int = -1
    shortage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep has come: the phase, and where its next page starts. Small, whatever the size of the fleet.

    ``suspects`` are subnets in which a node got no prefix; ``told`` is by subnet and outlives the sweep.
    """

    phase: str = ""
    token: str = ""
    started_at: float = 0.0
    suspects: tuple[str, ...] = ()
    told: Mapping[str, Told] = field(default_factory=dict)


class SweepStore(Protocol):
    """What the sweep needs of the table. Nodes are named by ARN; times are Unix seconds."""

    def glance(self, arns: Sequence[str]) -> dict[str, NodeState]:
        """Records and notes alone, perhaps a moment old, which costs a quarter; all of ``arns`` are in the answer."""

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        """All that is known of these nodes, read consistently."""

    def leased(self, arns: Sequence[str]) -> dict[str, float]:
        """Until when, of those that somebody has taken."""

    def page(self, token: str) -> TablePage:
        """A page of the whole table."""

    def begin(self, holder: str, now: float, until: float) -> Progress | None:
        """Take the sweep's lease. Returns where the last run stopped; None: one is still going."""

    def keep(self, holder: str, progress: Progress) -> bool:
        """Note how far this run has come. False: the lease ran out and somebody else has it."""

    def end(self, holder: str) -> None:
        """Let go of the sweep's lease."""


class DynamoSweepStore:
    """The table through boto3."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._table = Table(client, table)
        self._store = DynamoStore(client, table)

    def glance(self, arns: Sequence[str]) -> dict[str, NodeState]:
        states = dict.fromkeys(arns, NodeState())
        for item in self._get(arns, RECORD_KIND, consistent=False):
            states[item[NODE]["S"]] = read_state({RECORD_KIND: item})
        return states

    def load(self, arns: Sequence[str]) -> dict[str, NodeState]:
        return self._store.load(arns)

    def leased(self, arns: Sequence[str]) -> dict[str, float]:
        return {i[NODE]["S"]: told(i, "until") for i in self._get(arns, LEASE_KIND, consistent=True)}

    def page(self, token: str) -> TablePage:
        answer = self._table.client.scan(
            TableName=self._table.name,
            # records and leases alone, and of each record only a few numbers: a page is 1 MB before the filter
            FilterExpression="#kind IN (:record, :lease) OR #node = :public",
            ProjectionExpression=f"#node, #kind, #until, {EXPIRES}, next_look, claimed_by, claimed_at",
            ExpressionAttributeNames={"#node": NODE, "#kind": KIND, "#until": "until"},
            ExpressionAttributeValues={
                ":record": {"S": RECORD_KIND},
                ":lease": {"S": LEASE_KIND},
                ":public": {"S": PARTITION},
            },
            **({"ExclusiveStartKey": json.loads(token)} if token else {}),
        )
        items: list[Mapping[str, Any]] = list(answer["Items"])
        return TablePage(
            records=tuple(
                Outline(i[NODE]["S"], told(i, "next_look"), EXPIRES in i) for i in items if i[KIND]["S"] == RECORD_KIND
            ),
            leases=tuple((i[NODE]["S"], told(i, "until")) for i in items if i[KIND]["S"] == LEASE_KIND),
            token=json.dumps(answer["LastEvaluatedKey"]) if answer.get("LastEvaluatedKey") else "",
            claims=tuple(
                Claim(i[KIND]["S"], i["claimed_by"]["S"], told(i, "claimed_at"))
                for i in items
                if i[NODE]["S"] == PARTITION and "claimed_by" in i
            ),
        )

    # ------------------------------------------------------------------------------------------- the sweep's own item

    def begin(self, holder: str, now: float, until: float) -> Progress | None:
        item = self._update(
            "SET holder = :holder, #until = :until",
            LEASE_IS_FREE,
            {":holder": {"S": holder}, ":now": number(now), ":until": number(until)},
            {"#until": "until"},
        )
        return None if item is None else _progress(item.get(BODY, {}).get("S", ""))

    def keep(self, holder: str, progress: Progress) -> bool:
        body = json.dumps(asdict(progress), separators=(",", ":"))
        kept = self._update(f"SET {BODY} = :body", LEASE_IS_MINE, {":holder": {"S": holder}, ":body": {"S": body}})
        return kept is not None

    def end(self, holder: str) -> None:
        self._update("REMOVE holder, #until", LEASE_IS_MINE, {":holder": {"S": holder}}, {"#until": "until"})

    def _update(
        self, update: str, condition: str, values: dict[str, Any], names: dict[str, str] | None = None
    ) -> Mapping[str, Any] | None:
        parameters: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
        try:
            answer = self._table.client.update_item(
                TableName=self._table.name,
                Key=_KEY,
                UpdateExpression=update,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ReturnValues="ALL_NEW",
                **parameters,
            )
        except ClientError as error:
            if refused(error):
                return None
            raise
        return answer.get("Attributes", {})

    def _get(self, arns: Sequence[str], kind: str, *, consistent: bool) -> Iterator[Mapping[str, Any]]:
        return self._table.get([item_key(arn, kind) for arn in arns], consistent=consistent)


def _progress(body: str) -> Progress:
    """What another version wrote, and this one cannot read, costs a sweep from the start."""
    try:
        kept = json.loads(body)
        return Progress(
            phase=str(kept["phase"]),
            token=str(kept["token"]),
            started_at=float(kept["started_at"]),
            suspects=tuple(map(str, kept["suspects"])),
            told={str(k): Told(**(v | {"shortage": tuple(v["shortage"])})) for k, v in kept["told"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Progress()
