"""AWS clients that are quick to make: on botocore itself, with models cut down to what this package calls.

Half of a plain cold start is boto3's import of its transfer manager and resources, and the parsing of EC2's whole
service model. Clients are botocore's either way. ``berth/models`` holds the smaller models
(``scripts/trim_models.py`` writes them); what is not there comes from botocore's own data, as ever
(docs/decisions/0009).
"""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from botocore.exceptions import DataNotFoundError
from botocore.handlers import BUILTIN_HANDLERS, REGISTER_FIRST, REGISTER_LAST
from botocore.loaders import Loader
from botocore.session import Session

__all__ = ["MODELS", "ModelsFirst", "make_client", "quick_session"]

logger = logging.getLogger(__name__)

MODELS: Final = Path(__file__).with_name("models")
_DIRECT: Final = ("service-2", "endpoint-rule-set-1")
"""What every client needs. Others (paginators, waiters) are found as botocore finds them."""


class ModelsFirst(Loader):
    """botocore's loader, looking into ``folder`` first, and not through the folders of 400 services for one of ours."""

    def __init__(self, folder: Path = MODELS) -> None:
        super().__init__(extra_search_paths=[str(folder)])
        self._folder = str(folder)
        self._versions = {p.parent.name: p.name for p in folder.glob("*/*")}
        self.services = frozenset(self._versions)

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        version = self._versions.get(service_name)
        if type_name in _DIRECT and version is not None and api_version in (None, version):
            try:
                return self.load_data(os.path.join(service_name, version, type_name))  # noqa: PTH118 - botocore's way
            except DataNotFoundError:
                logger.warning("no %s of %s %s; taking another version", type_name, service_name, version)
        return super().load_service_model(service_name, type_name, api_version)

    def is_builtin_path(self, path: str) -> bool:
        """Ours are cut from botocore's own: endpoints are resolved by the rule sets, as they are with those."""
        return path.startswith(self._folder) or bool(super().is_builtin_path(path))


def _concerns_us(event: str, services: frozenset[str]) -> bool:
    """Whether an event is every client's or one of ours': ``before-call``, ``before-call.ec2``, not ``before-call.s3``.

    Most of botocore's handlers are for other services or for its documentation, and each client copies them all.
    """
    kind, _, rest = event.partition(".")
    return not rest or (kind != "docs" and rest.partition(".")[0] in services)


@functools.cache
def quick_session() -> Session:
    """The session that all clients are made of. Another thread must not make the first one."""
    loader = ModelsFirst()
    session = Session(include_builtin_handlers=False)
    session.register_component("data_loader", loader)
    for event, handler, *place in BUILTIN_HANDLERS:
        if _concerns_us(event, loader.services):
            emitter = session.get_component("event_emitter")
            first, last = REGISTER_FIRST in place, REGISTER_LAST in place
            register = emitter.register_first if first else emitter.register_last if last else emitter.register
            register(event, handler)
    return session


def make_client(service: str, config: Config) -> Any:
    """A client in the region and with the credentials of the environment."""
    client = quick_session().create_client(service, config=config)

    @functools.cache
    def whole() -> Any:
        logger.warning("%s: an operation is not in berth/models; loading the whole model", service)
        return Session().create_client(service, config=config)

    def missing(event_name: str, **_: Any) -> Any:
        """botocore asks here for an attribute that the client has not: an operation that was not foreseen."""
        return getattr(whole(), event_name.rpartition(".")[2], None)

    client.meta.events.register("getattr", missing)
    return client
