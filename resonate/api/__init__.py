"""The REST API as values: a request in; requests for shards out, their answers in; a response out."""

from resonate.api.endpoints import Endpoint
from resonate.api.routes import Api, claims

__all__ = ["Api", "Endpoint", "claims"]
