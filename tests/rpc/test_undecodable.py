"""Bytes that are no message are refused with the field that is wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lockd.rpc.undecodable import explain
from lockd.v1 import common_pb2, lock_pb2, session_pb2

CLAIM = lock_pb2.AcquireRequest(claims=[lock_pb2.Claim(resource="good"), lock_pb2.Claim(resource="accounts/XX")]).SerializeToString()


def test_a_name_that_is_not_utf8_is_named_with_its_path() -> None:
    """The second claim's resource is the bad one, and the message says where."""
    field, problem = explain(lock_pb2.AcquireRequest.DESCRIPTOR, CLAIM.replace(b"XX", b"\xff\xfe"))
    assert (field, problem) == ("claims[1].resource", "not valid UTF-8 at byte 9")


def test_a_bad_name_deep_in_a_stream_message_is_found() -> None:
    """Nesting does not hide the field."""
    command = session_pb2.StreamCommand(request_id=1, acquire=lock_pb2.AcquireRequest.FromString(CLAIM))
    data = session_pb2.StreamRequest(session_id=1, commands=[command]).SerializeToString().replace(b"XX", b"\xc3\x28")
    assert explain(session_pb2.StreamRequest.DESCRIPTOR, data)[0] == "commands[0].acquire.claims[1].resource"


def test_a_message_that_is_cut_short_says_so() -> None:
    """A truncated message is not blamed on a field."""
    field, problem = explain(lock_pb2.AcquireRequest.DESCRIPTOR, CLAIM[:-3])
    assert field == "message"
    assert "cut short" in problem


@given(st.binary(max_size=200))
def test_explaining_never_raises(data: bytes) -> None:
    """Whatever the bytes are, there is an answer."""
    for descriptor in (session_pb2.StreamRequest.DESCRIPTOR, common_pb2.Guard.DESCRIPTOR):
        field, problem = explain(descriptor, data)
        assert field
        assert problem
