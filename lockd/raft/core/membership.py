"""Memberships: their encoding, what a change may be (4.1), and which one is in force at an index."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from itertools import pairwise

from lockd.raft.core.types import Entry, EntryKind, Member, Membership, Refusal, ReplicaId

_VERSION = 1
_HEAD = struct.Struct(">BH")
_FLAGS = struct.Struct(">B")
_LENGTH = struct.Struct(">H")


def encode_membership(membership: Membership) -> bytes:
    """Encode: version, count, then for each member its flags (1: voter) and three strings, each a length and UTF-8. Big-endian.

    Raises ValueError for a name or address of 64 KiB or more, or more members than 65,535.
    """
    try:
        parts = [_HEAD.pack(_VERSION, len(membership.members))]
        for member in membership.members:
            parts.append(_FLAGS.pack(1 if member.voter else 0))
            for text in (member.id, member.peer_address, member.client_address):
                data = text.encode()
                parts += (_LENGTH.pack(len(data)), data)
    except struct.error as error:
        raise ValueError("a membership is too large to encode") from error
    return b"".join(parts)


def decode_membership(data: bytes) -> Membership:
    """Decode what `encode_membership` made. Raises ValueError for anything else: one membership has one encoding."""
    members = []
    try:
        version, count = _HEAD.unpack_from(data)
        if version != _VERSION:
            raise ValueError(f"membership of unknown version {version}")
        at = _HEAD.size
        for _ in range(count):
            (flags,) = _FLAGS.unpack_from(data, at)
            at += _FLAGS.size
            if flags > 1:
                raise ValueError(f"member with unknown flags {flags:#x}")
            texts = []
            for _ in range(3):
                (length,) = _LENGTH.unpack_from(data, at)
                at += _LENGTH.size
                if at + length > len(data):
                    raise ValueError("membership cut short")
                texts.append(data[at : at + length].decode())
                at += length
            members.append(Member(ReplicaId(texts[0]), texts[1], texts[2], voter=flags == 1))
    except struct.error as error:
        raise ValueError("membership cut short") from error
    if at != len(data):
        raise ValueError("bytes after a membership")
    if not all(a.id < b.id for a, b in pairwise(members)):
        raise ValueError("members out of order")
    return Membership(tuple(members))


def sort_members(membership: Membership) -> Membership:
    """Return the same membership with its members sorted by id."""
    return Membership(tuple(sorted(membership.members, key=lambda member: member.id)))


def is_valid(membership: Membership) -> bool:
    """Whether this can govern a cluster: members sorted, each named and once, at least one voter."""
    members = membership.members
    return any(m.voter for m in members) and members[0].id != "" and all(a.id < b.id for a, b in pairwise(members))


def voters_of(membership: Membership) -> tuple[ReplicaId, ...]:
    """The voters, sorted by id."""
    return tuple(member.id for member in membership.members if member.voter)


def check_change(old: Membership, new: Membership) -> Refusal | None:
    """Say why a leader must not go from `old` to `new`, or None. Majorities overlap only if one voter at most differs (4.1)."""
    if not is_valid(new):
        return Refusal.INVALID
    if len(set(voters_of(old)) ^ set(voters_of(new))) > 1:
        return Refusal.MORE_THAN_ONE_VOTER
    return None


def memberships_in(entries: Iterable[Entry]) -> list[tuple[int, Membership]]:
    """The memberships among these entries, with their indexes. Raises ValueError if one cannot govern, or for an entry of unknown kind."""
    found = []
    for entry in entries:
        if entry.kind is EntryKind.MEMBERSHIP:
            membership = decode_membership(entry.data)
            if not is_valid(membership):
                raise ValueError("a membership without a voter")
            found.append((entry.index, membership))
        elif entry.kind is not EntryKind.NORMAL and entry.kind is not EntryKind.NOOP:
            raise ValueError(f"entry of unknown kind {entry.kind!r}")
    return found


class MembershipHistory:
    """Which membership is in force from which index on. A change takes force when it is appended, and leaves with its entry (4.1)."""

    __slots__ = ("_steps",)

    def __init__(self, index: int, membership: Membership) -> None:
        self._steps = [(index, membership)]

    @property
    def latest(self) -> Membership:
        """The one in force."""
        return self._steps[-1][1]

    @property
    def latest_index(self) -> int:
        """Where it was appended."""
        return self._steps[-1][0]

    def at(self, index: int) -> Membership:
        """The one in force at `index`; the oldest one known for anything before it."""
        return next((membership for since, membership in reversed(self._steps) if since <= index), self._steps[0][1])

    def since(self, index: int) -> list[Membership]:
        """Those that may turn out to be in force if the log is committed up to `index`: the one in force there, and all later ones."""
        later = [membership for since, membership in self._steps if since > index]
        return [self.at(index), *later]

    def append(self, steps: list[tuple[int, Membership]]) -> None:
        """Put the memberships found in appended entries in force."""
        self._steps += steps

    def truncate_from(self, index: int) -> bool:
        """Take back those appended at `index` or later. True if that changed the one in force."""
        count = len(self._steps)
        while len(self._steps) > 1 and self._steps[-1][0] >= index:
            self._steps.pop()
        return len(self._steps) != count

    def compact(self, index: int) -> None:
        """Forget what was superseded at or before `index`."""
        self._steps = [(index, self.at(index)), *(step for step in self._steps if step[0] > index)]
