"""Plays transcripts: commands to a cluster of consensus machines, and everything that they answer.

A transcript is a text of comments (`#`) and blocks, each a command, a line `----`, and what the command printed, up to an empty line.
Time stands still except where a command moves it, messages wait in the network until they are delivered, and writes wait in the disk until
they are persisted. What crashes keeps what was persisted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lockd.raft.core.membership import decode_membership
from lockd.raft.core.node import Config, Node
from lockd.raft.core.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    HardState,
    Input,
    InstallSnapshot,
    Member,
    Membership,
    Message,
    Nanos,
    Output,
    Persisted,
    Propose,
    ProposeMembership,
    Read,
    ReadIndexReply,
    ReadIndexRequest,
    Receive,
    ReplicaId,
    Restored,
    SnapshotMeta,
    SnapshotSent,
    SnapshotTaken,
    Tick,
    TimeoutNow,
    TransferLeadership,
    Unreachable,
    VoteReply,
    VoteRequest,
    Write,
)

MS = 1_000_000


def membership_of(words: list[str]) -> Membership:
    """Read `1 2 3=learner` as a membership."""
    members = []
    for word in words:
        name, _, kind = word.partition("=")
        members.append(Member(ReplicaId(name), f"peer-{name}", f"client-{name}", voter=kind != "learner"))
    return Membership(tuple(sorted(members, key=lambda member: member.id)))


@dataclass
class Disk:
    """What a replica has durable, and the writes that it has asked for."""

    hard: HardState
    snapshot: SnapshotMeta
    entries: list[Entry] = field(default_factory=list)
    pending: list[Write] = field(default_factory=list)

    def carry_out(self, write: Write) -> None:
        """Make one write durable."""
        if write.hard_state is not None:
            self.hard = write.hard_state
        if write.snapshot is not None:
            self.snapshot, self.entries = write.snapshot, []
        if write.entries:
            keep = write.entries[0].index - self.snapshot.index - 1
            self.entries[keep:] = write.entries

    def restored(self) -> Restored:
        """What recovery would find."""
        return Restored(self.hard, self.snapshot, tuple(self.entries))


class Cluster:
    """Machines, their disks, and the network between them."""

    def __init__(self) -> None:
        self.now: Nanos = 0
        self.config = Config()
        self.nodes: dict[str, Node] = {}
        self.disks: dict[str, Disk] = {}
        self.network: list[Message] = []
        self.copies: list[Message] = []
        self.cuts: set[tuple[str, str]] = set()
        self.lines: list[str] = []

    # --- plumbing ---

    def run(self, command: str) -> str:
        """Carry out one command line and return what it printed."""
        self.lines = []
        name, *words = command.split()
        handler: Callable[..., None] = getattr(self, "do_" + name.replace("-", "_"))
        handler(*words)
        return "".join(line + "\n" for line in self.lines) or "ok\n"

    def step(self, name: str, given: Input) -> None:
        """Give a machine one input, and print its output."""
        node = self.nodes[name]
        self.take(name, node.step(self.now, given))

    def take(self, name: str, out: Output) -> None:
        """Print an output, and carry it to disk and network."""
        say = self.lines.append
        if out.role is not None:
            say(f"{name}: {out.role.role.value} in term {out.role.term}, leader {out.role.leader or 'unknown'}")
        if out.proposed is not None:
            say(f"{name}: proposed {out.proposed[1]}/{out.proposed[0]}")
        if out.refused is not None:
            say(f"{name}: refused: {out.refused.value}")
        for message in out.messages:
            self.post(message)
        if out.write is not None:
            say(f"{name}: {describe_write(out.write)}")
            self.disks[name].pending.append(out.write)
        if out.install is not None:
            say(f"{name}: install snapshot {out.install.index}/{out.install.term}")
        if out.committed:
            say(f"{name}: committed {show_entries(out.committed)}")
        for peer in out.send_snapshot or ():
            say(f"{name}: {peer} needs a snapshot")
        for read in out.reads or ():
            say(f"{name}: read {read.context} may be served at {read.index}")
        for context in out.reads_failed or ():
            say(f"{name}: read {context} failed")

    def links(self, words: tuple[str, ...]) -> Callable[[Message], bool]:
        """Read `1->2 3->*` as a choice among messages; nothing chooses all."""
        wanted = [tuple(word.split("->")) for word in words]

        def matches(message: Message) -> bool:
            return not wanted or any(a in ("*", message.sender) and b in ("*", message.to) for a, b in wanted)

        return matches

    # --- commands: the world ---

    def do_add_nodes(self, count: str, *options: str) -> None:
        """add-nodes 3 [learner=3] [max_append_bytes=N ...]: a new world, with machines 1..N and one membership."""
        self.now = 0
        for things in (self.nodes, self.disks, self.network, self.copies, self.cuts):
            things.clear()
        pairs = [option.split("=") for option in options]
        learners = [value for key, value in pairs if key == "learner"]
        self.config = replace(Config(), **{key: int(value) for key, value in pairs if key != "learner"})
        names = [str(number) for number in range(1, int(count) + 1)]
        membership = membership_of([f"{name}=learner" if name in learners else name for name in names])
        for name in names:
            self.disks[name] = Disk(HardState(), SnapshotMeta(0, 0, membership))
            self.start(name)

    def do_join(self, name: str) -> None:
        """Join 4: a new machine that knows no member."""
        self.disks[name] = Disk(HardState(), SnapshotMeta(0, 0, Membership(())))
        self.start(name)

    def start(self, name: str) -> None:
        """Start a machine from its disk."""
        self.nodes[name] = Node(ReplicaId(name), self.disks[name].restored(), self.now, self.config)

    def do_restart(self, name: str) -> None:
        """Restart 1: crash; what was not persisted is lost."""
        self.disks[name].pending.clear()
        self.start(name)
        node = self.nodes[name]
        self.lines.append(
            f"{name}: restarted in term {node.term}, log {node.last_index}/{node.term_at(node.last_index)}, commit {node.commit}"
        )

    def do_tick(self, name: str, duration: str) -> None:
        """Tick 1 30ms: time passes for all, one machine is woken; `tick all 30ms` wakes each."""
        self.now += int(duration.removesuffix("ms")) * MS
        for each in self.nodes if name == "all" else [name]:
            self.step(each, Tick())

    def do_campaign(self, name: str) -> None:
        """Campaign 1: time passes until this machine is due, and it alone is woken."""
        self.now = max(self.now, self.nodes[name].deadline)
        self.step(name, Tick())

    def do_beat(self, name: str, duration: str, times: str) -> None:
        """Beat 1 50ms 3: so many heartbeats of a leader, each after this time and each answered; prints the state they lead to."""
        for _ in range(int(times)):
            self.do_tick(name, duration)
            self.do_stabilize()
        self.lines = []
        self.do_status()

    def do_cut(self, *links: str) -> None:
        """Cut 1->2 2->1: messages on these links are lost from now on."""
        for link in links:
            a, b = link.split("->")
            self.cuts.add((a, b))

    def do_isolate(self, name: str) -> None:
        """Isolate 1: cut every link of a machine."""
        self.cuts |= {(name, "*"), ("*", name)}

    def do_heal(self) -> None:
        """heal: every link works again."""
        self.cuts.clear()

    def is_cut(self, message: Message) -> bool:
        """Whether the message's link is cut."""
        return any((a, b) in self.cuts for a in (message.sender, "*") for b in (message.to, "*"))

    # --- commands: network and disk ---

    def post(self, message: Message) -> None:
        """Send a message, or lose it on a cut link."""
        if self.is_cut(message):
            self.lines.append(f"lost {describe(message)}")
        else:
            self.lines.append(describe(message))
            self.network.append(message)

    def do_deliver(self, *links: str) -> None:
        """Deliver [1->2 ...]: hand over the messages that wait now."""
        matches = self.links(links)
        chosen = [message for message in self.network if matches(message)]
        self.network = [message for message in self.network if not matches(message)]
        self.hand_over(chosen)

    def hand_over(self, messages: list[Message]) -> None:
        """Deliver messages, or lose them on cut links."""
        for message in messages:
            if self.is_cut(message):
                self.lines.append(f"lost {describe(message)}")
            else:
                self.step(message.to, Receive(message))

    def do_drop(self, *links: str) -> None:
        """Drop [1->2 ...]: lose the messages that wait now."""
        matches = self.links(links)
        for message in self.network:
            if matches(message):
                self.lines.append(f"lost {describe(message)}")
        self.network = [message for message in self.network if not matches(message)]

    def do_copy(self, *links: str) -> None:
        """Copy 1->2: the network keeps copies of what waits on these links, for `deliver-copies`."""
        self.copies += [message for message in self.network if self.links(links)(message)]
        self.lines.append(f"{len(self.copies)} kept")

    def do_deliver_copies(self) -> None:
        """deliver-copies: the kept copies arrive, late."""
        copies, self.copies = self.copies, []
        self.hand_over(copies)

    def do_persist(self, name: str, count: str = "all") -> None:
        """Persist 1 [n]: the oldest n writes of a machine become durable."""
        pending = self.disks[name].pending
        for _ in range(len(pending) if count == "all" else int(count)):
            write = pending.pop(0)
            self.disks[name].carry_out(write)
            for message in write.then_send:
                self.post(message)
            self.step(name, Persisted(write.number))

    def do_stabilize(self) -> None:
        """stabilize: persist and deliver until nothing waits."""
        for _ in range(1000):
            for name in self.nodes:
                self.do_persist(name)
            if not self.network:
                return
            self.do_deliver()
        raise AssertionError("the cluster does not come to rest")

    def do_settle(self) -> None:
        """settle: as stabilize, but print nothing; for beginnings and ends that are not the story."""
        self.do_stabilize()
        self.lines = []
        self.do_status()

    # --- commands: inputs ---

    def do_propose(self, name: str, *payloads: str) -> None:
        """Propose 1 x y: two entries."""
        self.step(name, Propose(tuple(payload.encode() for payload in payloads)))

    def do_member(self, name: str, *members: str) -> None:
        """Member 1 1 2 3=learner: ask machine 1 for this membership."""
        self.step(name, ProposeMembership(membership_of(list(members))))

    def do_read(self, name: str, context: str) -> None:
        """Read 1 7: ask for a read index under context 7."""
        self.step(name, Read(int(context)))

    def do_transfer(self, name: str, to: str) -> None:
        """Transfer 1 2: ask machine 1 to hand leadership to 2."""
        self.step(name, TransferLeadership(ReplicaId(to)))

    def do_forge_vote(self, link: str, term: str) -> None:
        """forge-vote 4->2 9: a vote request of that term arrives, from a machine that knows no pre-vote and has a long log."""
        a, b = link.split("->")
        self.step(b, Receive(VoteRequest(ReplicaId(a), ReplicaId(b), int(term), 1000, int(term) - 1, pre=False)))

    def do_unreachable(self, name: str, peer: str) -> None:
        """Unreachable 1 2: the transport of 1 lost messages to 2."""
        self.step(name, Unreachable(ReplicaId(peer)))

    def do_compact(self, name: str, index: str, keep_from: str) -> None:
        """Compact 1 5 4: a snapshot at 5 was taken; entries from 4 on are kept."""
        node, at = self.nodes[name], int(index)
        term = node.term_at(at)
        assert term is not None
        self.step(name, SnapshotTaken(SnapshotMeta(at, term, node.membership_at(at)), int(keep_from)))

    def do_send_snapshot(self, link: str, result: str = "ok") -> None:
        """send-snapshot 1->2 [fail]: the stream of the latest snapshot ends."""
        a, b = link.split("->")
        node = self.nodes[a]
        meta = node.snapshot
        if result == "ok":
            self.hand_over([InstallSnapshot(ReplicaId(a), ReplicaId(b), node.term, meta)])
        self.step(a, SnapshotSent(ReplicaId(b), meta.index, result == "ok"))

    # --- commands: looking ---

    def do_status(self) -> None:
        """status: one line for each machine."""
        for name, node in self.nodes.items():
            self.lines.append(
                f"{name}: {node.role.value} term {node.term} leader {node.leader or '-'} "
                f"log {node.last_index}/{node.term_at(node.last_index)} durable {node.durable_index} commit {node.commit}"
            )

    def do_progress(self, name: str) -> None:
        """Progress 1: what a leader knows of its peers."""
        for peer in self.nodes[name].progress.values():
            flight = f" in flight {peer.inflight_messages}" if peer.inflight_messages else ""
            self.lines.append(f"{peer.id}: {peer.state.value} match {peer.match} next {peer.next}{flight}")

    def do_log(self, *names: str) -> None:
        """Log [1 ...]: the entries of each log."""
        for name in names or self.nodes:
            node = self.nodes[name]
            entries = node.entries(node.first_index, node.last_index + 1)
            self.lines.append(f"{name}: from {node.first_index}: {show_entries(entries) or '(empty)'}")

    def do_members(self, *names: str) -> None:
        """Members [1 ...]: the membership in force at each machine."""
        for name in names or self.nodes:
            self.lines.append(f"{name}: {show_membership(self.nodes[name].membership)}")


# --- printing ---


def show_membership(membership: Membership) -> str:
    """A membership in short."""
    return " ".join(member.id if member.voter else f"{member.id}=learner" for member in membership.members) or "(nobody)"


def show_entries(entries: list[Entry] | tuple[Entry, ...] | object) -> str:
    """Entries as index/term and content."""
    shown = []
    assert isinstance(entries, list | tuple)
    for entry in entries:
        if entry.kind is EntryKind.MEMBERSHIP:
            content = f"[{show_membership(decode_membership(entry.data))}]"
        else:
            content = entry.data.decode() if entry.kind is EntryKind.NORMAL else "noop"
        shown.append(f"{entry.index}/{entry.term} {content}")
    return ", ".join(shown)


def describe_write(write: Write) -> str:
    """A write in one line."""
    parts = []
    if write.hard_state is not None:
        hard = write.hard_state
        parts.append(f"term {hard.term} vote {hard.vote or '-'} commit {hard.commit}")
    if write.snapshot is not None:
        parts.append(f"snapshot {write.snapshot.index}/{write.snapshot.term}")
    if write.entries:
        parts.append(show_entries(write.entries))
    if write.then_send:
        parts.append("then " + " & ".join(describe(message) for message in write.then_send))
    return f"write #{write.number}: " + "; ".join(parts)


def describe(m: Message) -> str:
    """A message in one line."""
    link = f"{m.sender}->{m.to} term {m.term}"
    match m:
        case VoteRequest():
            kind = "pre-vote?" if m.pre else "vote?"
            return f"{link} {kind} log {m.last_index}/{m.last_term}{' transfer' if m.transfer else ''}"
        case VoteReply():
            return f"{link} {'pre-vote' if m.pre else 'vote'} {'granted' if m.granted else 'denied'}"
        case AppendRequest():
            return f"{link} append after {m.prev_index}/{m.prev_term} [{show_entries(m.entries)}] commit {m.commit} round {m.round}"
        case AppendReply():
            if m.accepted:
                return f"{link} has {m.match} round {m.round}"
            return f"{link} lacks {m.match}, hint {m.hint_index}/{m.hint_term} round {m.round}"
        case InstallSnapshot():
            return f"{link} snapshot {m.meta.index}/{m.meta.term}"
        case ReadIndexRequest():
            return f"{link} read {m.context}?"
        case ReadIndexReply():
            return f"{link} read {m.context} at {m.index}"
        case TimeoutNow():
            return f"{link} timeout now"


# --- transcripts ---


def play(text: str) -> str:
    """Play a transcript: the same text, with the output that the machines give now."""
    cluster = Cluster()
    result: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            result.append(line + "\n")
            continue
        output = cluster.run(line)
        result.append(f"{line}\n----\n{output}\n")
        for old in lines:  # skip the output of the last time
            if not old.strip():
                break
    return "".join(result).rstrip("\n") + "\n"
