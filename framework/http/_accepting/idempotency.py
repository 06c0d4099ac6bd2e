"""Idempotency-Key: the same request made again gets the task of the first one.

See the draft draft-ietf-httpapi-idempotency-key-header of the IETF.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Final, TypeAlias

from fastapi import Header, Request

MAX_LENGTH: Final = 255

IdempotencyKey: TypeAlias = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=MAX_LENGTH,
        # What may stand in a header and be printed.
        pattern="^[ -~]+$",
        description="A random text, such as a UUID. If you repeat a request with the same key, "
        "because you have got no response, you get the task of the first request.",
    ),
]
"""The parameter of an accepting route."""


def id_for(request: Request, owner: str | None, key: str) -> str:
    """Return the id of the task of all requests that have a key in common.

    It depends on the owner, the method and the path as well, so that a key means nothing to
    others and elsewhere. Every process comes to the same id, so the stores need not know about
    keys. Nobody can guess an id without guessing the key.

    Args:
        request: One of the requests.
        owner: Whom the tasks of the request belong to; None for nobody.
        key: The value of the header: the text itself, or the text in quotes, as in the draft.
    """
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    whole = json.dumps([owner, request.method, request.url.path, key])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
