"""Apache Atlas over its v2 REST API, with Basic authentication.

Shapes as in the sources of Apache Atlas (`DiscoveryREST`, `EntityREST`, `TypesREST`, `EntityMutationResponse`). Guids come from the
search, whose index may lag; classifications are read from the entities themselves, and what the search does not show is asked for by its
qualified name. A column's classifications count for its table, propagated ones too, and their validity periods are not looked at: in
doubt the label is the stricter one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

from flows.adapters.catalogs.rest import Clock, Rest, secret
from flows.core.errors import Unavailable, UserError
from flows.core.governance.bridge import Address, BridgeDeclaration, Entity, Process, Published, Read

MAX_PAGES = 50
"""Pages of one search; entries that lie behind them are asked for one by one."""
DATASET_TYPE, PROCESS_TYPE = "tradewind_dataset", "tradewind_process"
DATASET_ATTRIBUTES = ("kind", "home", "sizeGb", "classification", "regimes", "residency", "version")
PROCESS_ATTRIBUTES = ("workload", "step", "lastRun", "lastDecision")


class Basic:
    """A user and a password."""

    def __init__(self, bridge: BridgeDeclaration) -> None:
        pair = f"{secret(bridge, 'USER')}:{secret(bridge, 'PASSWORD')}"
        self._header = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def headers(self) -> Mapping[str, str]:
        """See `Credentials`."""
        return {"Authorization": self._header}

    def refused(self) -> bool:
        """There is no other password."""
        return False


class Atlas:
    """One Atlas server."""

    base = "/api/atlas/v2"

    def __init__(self, bridge: BridgeDeclaration, clock: Clock | None = None) -> None:
        self.bridge = bridge
        self.rest = self._connect(clock)

    def _connect(self, clock: Clock | None) -> Rest:
        return Rest(self.bridge, Basic(self.bridge), clock)

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    def labels(self, names: Mapping[str, Address]) -> Read:
        """See `Bridge`. An entity that is missing, deleted or cannot be read is among the failed ones."""
        found: dict[str, tuple[str, ...]] = {}
        failed: dict[str, str] = {}
        guids = self._guids(set(names.values()))
        held = self._entities(guids.values())
        for name, address in sorted(names.items()):
            entity, columns = held.get(guids.get(address, ""), (None, ()))
            if entity is None:
                entity, columns = self._by_name(address)
            if entity is None:
                failed[name] = f"there is no `{address.type}` named `{address.qualified_name}`"
            elif entity.get("status", "ACTIVE") != "ACTIVE":
                failed[name] = f"`{address.qualified_name}` is {str(entity['status']).lower()} there"
            else:
                found[name] = tuple(sorted(set(_words([entity, *columns]))))
        return Read(found, failed)

    def publish(self, entities: Sequence[Entity], lineage: Sequence[Process]) -> Published:
        """See `Bridge`. What is there already with the same attributes counts as unchanged; a piece that is refused is sent one by one."""
        self._ensure_types()
        done: dict[str, set[str]] = {"CREATE": set(), "UPDATE": set()}
        failed: dict[str, str] = {}
        bodies = [_dataset(entity) for entity in entities]
        sent = bodies + [_process(process) for process in lineage]
        for piece in (*_pieces(bodies, self.bridge.bulk_size), *_pieces(sent[len(bodies) :], self.bridge.bulk_size)):
            self._send(piece, done, failed)
        names = {body["attributes"]["qualifiedName"] for body in sent}
        unchanged = names - done["CREATE"] - done["UPDATE"] - set(failed)
        return Published(tuple(sorted(done["CREATE"])), tuple(sorted(done["UPDATE"])), tuple(sorted(unchanged)), failed)

    def _search(self, type: str) -> Iterator[tuple[str, str]]:
        """(guid, qualified name) of the entities of a type, page by page."""
        for page in range(MAX_PAGES):
            params = {
                "typeName": type,
                "limit": self.bridge.page_size,
                "offset": page * self.bridge.page_size,
                "excludeDeletedEntities": "true",
            }
            answer = _mapping(self.rest.get(f"{self.base}/search/basic", params))
            entities = answer.get("entities") or []
            for header in entities:
                yield str(header["guid"]), str((header.get("attributes") or {}).get("qualifiedName"))
            if len(entities) < self.bridge.page_size:
                return

    def _guids(self, wanted: set[Address]) -> dict[Address, str]:
        found: dict[Address, str] = {}
        for type in sorted({address.type for address in wanted}):
            open_names = {address.qualified_name for address in wanted if address.type == type}
            for guid, qualified_name in self._shaped(self._search(type)):
                if qualified_name in open_names:
                    found[Address(type=type, qualified_name=qualified_name)] = guid
                    open_names.discard(qualified_name)
                if not open_names:
                    break
        return found

    def _entities(self, guids: Iterable[str]) -> dict[str, tuple[dict[str, Any] | None, tuple[dict[str, Any], ...]]]:
        """The entities with their columns, by guid; one that the server does not know makes it refuse all: then each is asked for alone."""
        held: dict[str, tuple[dict[str, Any] | None, tuple[dict[str, Any], ...]]] = {}
        for piece in _pieces(sorted(guids), self.bridge.bulk_size):
            answer = self._bulk(piece)
            for alone in [answer] if answer is not None else [self._bulk([guid]) for guid in piece]:
                for entity in (alone or {}).get("entities") or []:
                    held[str(entity.get("guid"))] = (entity, _columns(entity, alone.get("referredEntities") or {}))
        return held

    def _bulk(self, guids: Sequence[str]) -> Any:
        found = self.rest.get(f"{self.base}/entity/bulk", [("guid", guid) for guid in guids], operations=len(guids))
        return None if found is None else _mapping(found)

    def _by_name(self, address: Address) -> tuple[dict[str, Any] | None, tuple[dict[str, Any], ...]]:
        path = f"{self.base}/entity/uniqueAttribute/type/{quote(address.type, safe='')}"
        answer = self.rest.get(path, {"attr:qualifiedName": address.qualified_name})
        if answer is None:
            return None, ()
        entity = _mapping(_mapping(answer).get("entity"))
        return entity, _columns(entity, answer.get("referredEntities") or {})

    def _ensure_types(self) -> None:
        types = ((DATASET_TYPE, "DataSet", DATASET_ATTRIBUTES), (PROCESS_TYPE, "Process", PROCESS_ATTRIBUTES))
        lacking = [known for known in types if self.rest.get(f"{self.base}/types/typedef/name/{known[0]}") is None]
        if lacking:
            self.rest.post(f"{self.base}/types/typedefs", {"entityDefs": [_type(*known) for known in lacking]})

    def _send(self, bodies: Sequence[dict[str, Any]], done: dict[str, set[str]], failed: dict[str, str]) -> None:
        numbered = [{"guid": str(-index), **body} for index, body in enumerate(bodies, 1)]
        names = {body["guid"]: body["attributes"]["qualifiedName"] for body in numbered}
        try:
            found = self.rest.post(f"{self.base}/entity/bulk", {"entities": numbered}, operations=len(bodies))
        except UserError as error:
            if len(bodies) == 1:
                failed[names["-1"]] = error.problems[0].what
                return
            for body in bodies:
                self._send([body], done, failed)
            return
        answer = _mapping(found)
        for operation, headers in (answer.get("mutatedEntities") or {}).items():
            done.setdefault(operation, set()).update(str((header.get("attributes") or {}).get("qualifiedName")) for header in headers)
        assigned = {real: given for given, real in (answer.get("guidAssignments") or {}).items()}
        for row in answer.get("failedEntities") or []:
            name = names.get(str(row.get("guid"))) or names.get(assigned.get(row.get("guid"), ""), str(row.get("guid")))
            failed[name] = str(row.get("errorMessage") or row.get("errorCode") or "refused")[:200]

    def _shaped(self, rows: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        try:
            yield from rows
        except (KeyError, TypeError, AttributeError) as error:
            raise Unavailable(
                f"bridge `{self.bridge.name}` answered a search in another shape", fix="see its version and address"
            ) from error


def _words(entities: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entity in entities:
        for classification in entity.get("classifications") or []:
            yield str(classification["typeName"])


def _columns(entity: Mapping[str, Any], referred: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The entities that this one points to and that came with it."""
    found = []
    for values in (entity.get("attributes") or {}, entity.get("relationshipAttributes") or {}):
        for value in values.values():
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, Mapping) and one.get("guid") in referred:
                    found.append(referred[one["guid"]])
    return tuple(found)


def _pieces(rows: Sequence[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while piece := list(islice(iterator, size)):
        yield piece


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unavailable("the catalog answered in another shape than its API has", fix="see its version and address")
    return value


def _type(name: str, parent: str, attributes: Iterable[str]) -> dict[str, Any]:
    plain = {"typeName": "string", "cardinality": "SINGLE", "isIndexable": True, "isOptional": True, "isUnique": False}
    return {"name": name, "superTypes": [parent], "typeVersion": "1.0", "attributeDefs": [{"name": one, **plain} for one in attributes]}


def _dataset(entity: Entity) -> dict[str, Any]:
    own = {"qualifiedName": entity.qualified_name, "name": entity.name, "description": entity.description}
    return {"typeName": DATASET_TYPE, "attributes": own | dict(entity.attributes)}


def _process(process: Process) -> dict[str, Any]:
    def refer(names: Iterable[str]) -> list[dict[str, Any]]:
        return [{"typeName": DATASET_TYPE, "uniqueAttributes": {"qualifiedName": name}} for name in names]

    own = {
        "qualifiedName": process.qualified_name,
        "name": process.name,
        "inputs": refer(process.inputs),
        "outputs": refer(process.outputs),
    }
    return {"typeName": PROCESS_TYPE, "attributes": own | dict(process.attributes)}
