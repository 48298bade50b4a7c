"""What operators do to a running cluster: join, promote, remove, hand over, back up and restore."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import lockd_client
from lockd_client import Account, Transfer
from lockd_client.testing import LocalCluster, NodeProcess

pytestmark = pytest.mark.e2e


async def post(client: lockd_client.Client, first: int, count: int) -> None:
    """Transfers of 1 from account 1 to account 2, with these ids."""
    accounts = [Account(id=i, ledger=1, code=1) for i in (1, 2)]
    assert all(result.ok for result in await client.ledger.create_accounts(accounts))
    made = [Transfer(id=first + i, debit_account_id=1, credit_account_id=2, amount=1, ledger=1, code=1) for i in range(count)]
    assert all(result.ok for result in await client.ledger.create_transfers(made))


async def equal_states(client: lockd_client.Client, nodes: list[NodeProcess]) -> None:
    """Wait until the nodes have applied the same index, and compare their hashes there."""
    async with asyncio.timeout(30):
        while True:
            found = [await client.cluster.state_hash(node.address) for node in nodes]
            if len({state.applied_index for state in found}) == 1:
                assert len({state.hash for state in found}) == 1
                return
            await asyncio.sleep(0.1)


async def wait_member(client: lockd_client.Client, name: str, *, voter: bool) -> None:
    """Wait until the membership has this member in this role."""
    async with asyncio.timeout(30):
        while not any(m.id == name and m.voter is voter for m in await client.cluster.members()):
            await asyncio.sleep(0.1)


async def test_a_node_joins_with_one_address_and_is_promoted(cluster: LocalCluster) -> None:
    """A new node knows one member's address: it catches up as a learner, becomes a voter, and holds the same state."""
    async with lockd_client.connect(cluster.endpoints) as client:
        await post(client, 1, 500)
        node = await asyncio.to_thread(cluster.join)
        await post(client, 10_000, 500)
        await wait_member(client, node.name, voter=True)
        await equal_states(client, cluster.nodes)
        status = await client.cluster.status(node.address)
        assert status.transfers == 1_000


async def test_a_member_is_removed_and_the_rest_goes_on(cluster: LocalCluster) -> None:
    """After a removal the others commit without it, and it is no member any more."""
    async with lockd_client.connect(cluster.endpoints) as client:
        leader = await asyncio.to_thread(cluster.wait_healthy)
        other = next(node for node in cluster.nodes if node is not leader)
        assert other.name not in [m.id for m in await client.cluster.remove(other.name)]
        other.kill()
        await post(client, 1, 10)
        with pytest.raises(lockd_client.InvalidArgument, match="not a member"):
            await client.cluster.remove(other.name)


async def test_leadership_is_handed_over(cluster: LocalCluster) -> None:
    """The named voter leads, and sessions and locks survive the handover."""
    async with lockd_client.connect(cluster.endpoints) as client:
        leader = await asyncio.to_thread(cluster.wait_healthy)
        heir = next(node for node in cluster.nodes if node is not leader)
        async with client.lock("held/over") as grant:
            await client.cluster.transfer(heir.name)
            assert (await asyncio.to_thread(cluster.wait_leader)).name == heir.name
            await client.rows.put("held/row", b"x", guards=[grant.guard()])


async def test_a_backup_restores_into_a_new_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    """All of the state comes back under a new identity, and tokens go on above the old ones."""
    backup = tmp_path / "state.backup"
    async with lockd_client.connect(cluster.endpoints) as client:
        await post(client, 1, 300)
        async with client.lock("a/b") as grant:
            old = grant.token
        with backup.open("wb") as file:
            async for chunk in client.cluster.save_snapshot():
                file.write(chunk)
    cluster.stop()
    fresh = LocalCluster(3, tmp_path / "fresh", name="fresh")
    for node in fresh.nodes:
        done = restore(backup, node)
        assert done.returncode == 0, done.stderr
    with fresh:
        async with lockd_client.connect(fresh.endpoints) as client:
            await equal_states(client, fresh.nodes)
            accounts = await client.ledger.lookup_accounts([1, 2])
            assert [a.debits_posted for a in accounts] == [300, 0]
            async with client.lock("a/b") as grant:
                assert grant.token > old
            await post(client, 1_000, 10)


def restore(backup: Path, node: NodeProcess) -> subprocess.CompletedProcess[str]:
    """`lockd restore` for one node, with the flags that it will serve with."""
    flags = list(node.arguments)
    for flag in ("--listen", "--peer-listen"):
        at = flags.index(flag)
        del flags[at : at + 2]
    command = [sys.executable, "-m", "lockd.cli", "restore", str(backup), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    """A flipped byte, a cut file or another file: refused with a sentence, and no directory is made."""
    node = LocalCluster(1, tmp_path / "cluster").nodes[0]
    with LocalCluster(1, tmp_path / "source") as source:

        async def save() -> bytes:
            async with lockd_client.connect(source.endpoints) as client:
                await post(client, 1, 50)
                return b"".join([chunk async for chunk in client.cluster.save_snapshot()])

        whole = asyncio.run(save())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for name, content in (("flipped", bytes(flipped)), ("cut", whole[:-7]), ("foreign", b"PK" + whole)):
        file = tmp_path / name
        file.write_bytes(content)
        done = restore(file, node)
        assert done.returncode == 73, done.stderr
        assert "lockd restore:" in done.stderr
        assert "Traceback" not in done.stderr
        assert not node.directory.exists()
