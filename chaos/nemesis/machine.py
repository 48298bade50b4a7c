"""Bad machines: disks that fail or lag, clocks that jump."""

from __future__ import annotations

import asyncio

from chaos.nemesis.base import Nemesis
from chaos.node import check_strace

_SYNCS = "fdatasync,fsync"


class _Disk(Nemesis):
    """System calls of one node's disk go wrong. A node whose disk failed ends, and is started again."""

    strace = True
    _hit: tuple[str, ...] = ()

    def injection(self) -> str:
        """As strace's `inject=` takes it."""
        raise NotImplementedError

    def victims(self) -> list[str]:
        """One node, the leader more often than not."""
        return [self.world.leader() if self.world.chance.random() < 0.5 else self.world.victim()]

    async def begin(self) -> str:
        """Attach."""
        strace = await asyncio.to_thread(check_strace)
        injection = self.injection()
        self._hit = tuple(self.victims())
        for name in self._hit:
            node = self.world.cluster.nodes[name]
            node.expected_exit = True
            node.trace(strace, injection)
        return f"{','.join(self._hit)}: {injection}"

    async def end(self) -> None:
        """Detach; a node that has ended, or would not acknowledge any more, is started anew."""
        cluster = self.world.cluster
        for name in self._hit:
            node = cluster.nodes[name]
            await asyncio.to_thread(node.end_trace)
            answer = await cluster.status(name, 1.0)
            if node.pid is None or answer is None or answer.failed:
                node.kill()
                await cluster.start_node(name)
            node.expected_exit = False


class FsyncEio(_Disk):
    """An fsync fails: what it covered may be lost, and asking again would lie."""

    name = "fsync-eio"
    about = "an fsync of one node fails with EIO"

    def injection(self) -> str:
        """The n-th from now."""
        return f"{_SYNCS}:error=EIO:when={self.world.chance.randrange(1, 30)}"


class FsyncEnospc(_Disk):
    """The disk is full."""

    name = "disk-full"
    about = "writes and fsyncs of one node's log fail with ENOSPC"

    def injection(self) -> str:
        """From the n-th on, all."""
        return f"{_SYNCS},pwrite64,pwritev,fallocate:error=ENOSPC:when={self.world.chance.randrange(1, 10)}+"


class SlowDisk(_Disk):
    """Every fsync takes long."""

    name = "slow-disk"
    about = "each fsync of one node, or of all, takes 20 to 300 ms longer"

    def victims(self) -> list[str]:
        """One or all."""
        return self.world.cluster.names if self.world.chance.random() < 0.3 else super().victims()

    def injection(self) -> str:
        """Microseconds."""
        return f"{_SYNCS}:delay_exit={self.world.chance.choice((20_000, 100_000, 300_000))}"


class ClockJumps(Nemesis):
    """Wall clocks go wrong; monotonic clocks do not."""

    name = "clock-jumps"
    about = "the wall clocks of some nodes jump by up to an hour, forth or back, and later to the right time again"
    clock = True

    async def begin(self) -> str:
        """Each node may jump."""
        chance = self.world.chance
        words = []
        for name in self.world.cluster.names:
            if chance.random() < 0.6:
                seconds = chance.choice((0.05, 1.0, 2 * self.world.ttl, 60.0, 3600.0)) * chance.choice((1, -1))
                self.world.cluster.nodes[name].set_clock(int(seconds * 1e9))
                words.append(f"{name} {seconds:+g} s")
        return ", ".join(words) or "none"

    async def end(self) -> None:
        """The right time again: one more jump."""
        for node in self.world.cluster.nodes.values():
            node.set_clock(0)


class ClockStrobe(Nemesis):
    """A clock that does not know what time it is."""

    name = "clock-strobe"
    about = "one node's wall clock changes by up to two ttl many times a second"
    clock = True
    _task: asyncio.Task[None] | None = None

    async def begin(self) -> str:
        """Begin."""
        victim = self.world.leader()
        self._task = asyncio.create_task(self._strobe(victim))
        return victim

    async def _strobe(self, victim: str) -> None:
        chance, node = self.world.chance, self.world.cluster.nodes[victim]
        while True:
            node.set_clock(int(chance.uniform(-2, 2) * self.world.ttl * 1e9))
            await asyncio.sleep(0.03)

    async def end(self) -> None:
        """Stop, right."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for node in self.world.cluster.nodes.values():
            node.set_clock(0)
