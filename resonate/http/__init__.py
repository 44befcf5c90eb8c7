"""HTTP/1.1 as values: bytes in, requests out; responses in, bytes out. The one home of httptools."""

from resonate.http.reader import Continue, Foreign, Refused, RequestReader
from resonate.http.values import Request, Response, encode, error_response, json_response

__all__ = [
    "Continue",
    "Foreign",
    "Refused",
    "Request",
    "RequestReader",
    "Response",
    "encode",
    "error_response",
    "json_response",
]
