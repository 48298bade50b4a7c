"""Claims of a request, checked and turned into what the lock table needs to know."""

from __future__ import annotations

from lockd.machine import refusals
from lockd.machine.commands import Claim
from lockd.machine.modes import INTENTION, SUPREMUM
from lockd.machine.paths import Lineage, PathError, parse_path
from lockd.machine.results import Refused
from lockd.machine.types import Limits, Resource
from lockd.machine.waiting import Need, Want

MODE_MAX = 6
PERMITS_MAX = (1 << 32) - 1


def read_claims(claims: tuple[Claim, ...], limits: Limits) -> tuple[Want, ...] | Refused:
    """The claims as wants, in the order given; refused are bad paths, modes and permits, duplicates, none and too many."""
    if not claims:
        return refusals.invalid("NO_CLAIMS", "the request names no resource")
    if len(claims) > limits.claims_per_acquire:
        return refusals.invalid(
            "TOO_MANY_CLAIMS", f"{len(claims)} resources, at most {limits.claims_per_acquire} are allowed in one request"
        )
    wants = []
    for claim in claims:
        want = _read_claim(claim, limits)
        if isinstance(want, Refused):
            return want
        wants.append(want)
    if len(wants) > 1:
        seen: set[str] = set()
        for want in wants:
            resource = want.lineage[-1]
            if resource in seen:
                return refusals.invalid("DUPLICATE_RESOURCE", "a resource is named twice in one request", ("resource", resource))
            seen.add(resource)
    return tuple(wants)


def _read_claim(claim: Claim, limits: Limits) -> Want | Refused:
    try:
        lineage = parse_path(claim.resource, limits)
    except PathError as error:
        return refusals.invalid_path(claim.resource, str(error))
    limit, permits = claim.limit, claim.permits
    if limit == 0 == permits:
        mode = int(claim.mode)
        if not 1 <= mode <= MODE_MAX:
            return unknown_mode(mode, claim.resource)
        return Want(lineage, mode)
    if not 1 <= limit <= PERMITS_MAX or not 1 <= permits <= limit:
        return refusals.invalid(
            "INVALID_PERMITS", "a semaphore grants 1 to its limit of permits, and its limit is at least 1", ("resource", claim.resource)
        )
    return Want(lineage, 0, permits, limit)


def unknown_mode(mode: int, resource: str) -> Refused:
    """The number names no lock mode."""
    return refusals.invalid("INVALID_MODE", f"{mode if abs(mode) < 1 << 64 else 'the number'} names no lock mode", ("resource", resource))


def needs_of(wants: tuple[Want, ...]) -> tuple[Need, ...]:
    """One need for each resource and each ancestor, ancestors before what is below them; permits come as needs of their own."""
    if len(wants) == 1:
        return _needs_of_one(wants[0])
    modes: dict[Resource, int] = {}
    claimed: set[Resource] = set()
    permits: list[Need] = []
    for want in wants:
        intention = intention_of(want)
        resource = want.lineage[-1]
        for ancestor in want.lineage[:-1]:
            modes[ancestor] = SUPREMUM[modes.get(ancestor, 0)][intention]
        if want.permits:
            permits.append(Need(resource, 0, want.permits, want.limit, claimed=True))
        else:
            modes[resource] = SUPREMUM[modes.get(resource, 0)][want.mode]
            claimed.add(resource)
    # Only membership of the set is asked: its order reaches nothing.
    return (*[Need(resource, mode, claimed=resource in claimed) for resource, mode in modes.items()], *permits)


def _needs_of_one(want: Want) -> tuple[Need, ...]:
    lineage: Lineage = want.lineage
    intention = intention_of(want)
    leaf = Need(lineage[-1], want.mode, want.permits, want.limit, claimed=True)
    return (*[Need(ancestor, intention) for ancestor in lineage[:-1]], leaf)


def intention_of(want: Want) -> int:
    """What the want implies on the ancestors. A permit, like a write, excludes whoever holds all that lies below an ancestor."""
    return INTENTION[want.mode] if want.mode else INTENTION[MODE_MAX]
