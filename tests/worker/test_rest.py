"""What a vendor says, as values: whatever bytes came, they are read or named for what they are."""

import pytest

from worker.errors import ContractBroken, Invalid
from worker.rest import Endpoint, Headers, Response, raise_for_status

READ = Endpoint(name="read", method="GET", path="/x", evidence="seed", source="-", replayable=True)


def answer(body: bytes, status: int = 200) -> Response:
    """Give an answer with this body."""
    return Response(status=status, headers=Headers({}), body=body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b'{"price": NaN}',
        b'{"price": -Infinity}',
        b'{"price": 1e999}',
        b'{"price": ' + b"9" * 5_000 + b"}",
        b"[" * 100_000,
        b"[" * 5_000 + b"]" * 5_000,
        b'{"name": "\xff"}',
    ],
)
def test_a_success_that_can_not_be_read_breaks_the_contract(body: bytes) -> None:
    """Also what Python alone would read and no event could tell: NaN, numbers over a double, endless nesting."""
    with pytest.raises(ContractBroken) as caught:
        answer(body).json()
    assert caught.value.status == 200
    assert caught.value.response is not None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_unicode_is_read(encoding: str) -> None:
    """RFC 8259 asks for UTF-8; older servers of the vendors' kind send others."""
    assert answer('{"name": "Zoë", "price": 1.5}'.encode(encoding)).json() == {"name": "Zoë", "price": 1.5}


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"message": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", b"\xff\xfe"])
def test_no_body_hides_a_refusal(body: bytes) -> None:
    """A 400 stays what it is, whatever comes with it."""
    with pytest.raises(Invalid) as caught:
        raise_for_status(answer(body, status=400), READ)
    assert caught.value.status == 400
