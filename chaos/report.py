"""One page for a run: when what was asked, what broke, who led, how long calls took, and for a violation the part that shows it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from math import log10
from pathlib import Path
from typing import Final

from chaos.checkers.verdict import Judgement, Verdict, worst
from chaos.history import History, Op, Outcome

_WIDTH: Final = 1400
_LEFT: Final = 150
_MOST_OPS: Final = 6_000
_COLOURS: Final = {Outcome.OK: "#2e7d32", Outcome.FAIL: "#9e9e9e", Outcome.UNKNOWN: "#ef6c00"}
_VERDICTS: Final = {Verdict.OK: "#2e7d32", Verdict.UNKNOWN: "#ef6c00", Verdict.VIOLATION: "#c62828"}
_LEADERS: Final = ("#5c6bc0", "#26a69a", "#8d6e63", "#ab47bc", "#789262")
_STYLE: Final = """
body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1460px;padding:0 16px;color:#222;background:#fff}
h1{font-size:22px}h2{font-size:17px;margin:28px 0 8px}code,pre{font-family:ui-monospace,monospace;font-size:12.5px}
pre{background:#f5f5f5;padding:10px;overflow:auto}table{border-collapse:collapse}
td,th{padding:3px 10px;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}
svg{display:block;background:#fafafa;border:1px solid #ddd;max-width:100%}svg text{font:11px system-ui,sans-serif;fill:#333}
.v{color:#fff;padding:2px 10px;border-radius:4px}.f{border-left:4px solid #c62828;padding:4px 12px;margin:10px 0;background:#fff5f5}
.key span{margin-right:16px}.key i{display:inline-block;width:12px;height:12px;margin-right:4px;vertical-align:-1px}
"""


def write(history: History, judgements: Sequence[Judgement], path: Path) -> None:
    """Write the page. Self-contained: no script, no address, nothing to load."""
    path.write_text(page(history, judgements), encoding="utf-8")


def page(history: History, judgements: Sequence[Judgement]) -> str:
    """The page as text."""
    verdict = worst(j.verdict for j in judgements)
    head = history.header
    scale = _Scale(history)
    findings = [(j, f) for j in judgements for f in j.findings]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>chaos: {_e(head.workload)}, {verdict.value}</title><style>{_STYLE}</style>",
        f"<h1>{_e(head.workload)} under {_e(', '.join(head.nemesis) or 'no faults')} ",
        f'<span class=v style="background:{_VERDICTS[verdict]}">{verdict.value}</span></h1>',
        f"<p>{head.nodes} nodes, {head.seconds:g} s of faults, seed {head.seed}, {_counts(history)}.</p>",
        f"<p>Run it again:</p><pre>{_e(head.command())}</pre>",
        "<h2>Judges</h2>",
        _judges(judgements),
    ]
    if findings:
        parts.append("<h2>What must not be</h2>")
        for judgement, finding in findings[:40]:
            parts.append(f"<div class=f><b>{_e(judgement.checker)}: {_e(finding.rule)}</b><br>{_e(finding.text)}</div>")
            parts.append(_minimal(history, finding.ops, finding.context))
    parts += [
        "<h2>Faults, leaders, operations</h2>",
        _key(),
        _timeline(history, scale),
        "<h2>How long calls took</h2>",
        _latency(history, scale),
        "<h2>Outcomes by second</h2>",
        _outcomes(history, scale),
        "<h2>Faults</h2>",
        _faults(history, scale),
        "</html>",
    ]
    return "\n".join(parts)


def _e(text: object) -> str:
    return html.escape(str(text))


class _Scale:
    """Time to pixels."""

    def __init__(self, history: History) -> None:
        times = [o.invoked for o in history.ops] + [o.completed for o in history.ops if not o.kind.startswith("~")]
        times += [f.at for f in history.faults] + [x.at for x in history.leaders]
        self.begin = min(times, default=0)
        self.end = max(max(times, default=1), self.begin + 1)

    def x(self, at: int) -> float:
        """Pixels from the left."""
        inside = min(max(at, self.begin), self.end)
        return round(_LEFT + (inside - self.begin) / (self.end - self.begin) * (_WIDTH - _LEFT - 10), 1)

    def seconds(self, at: int) -> float:
        """Seconds since the beginning."""
        return (at - self.begin) / 1e9

    def ruler(self, height: int) -> str:
        """Vertical lines at whole seconds."""
        span = (self.end - self.begin) / 1e9
        step = next((s for s in (1, 2, 5, 10, 20, 60, 120, 600) if span / s <= 20), 3600)
        lines = []
        for second in range(0, int(span) + 1, step):
            x = self.x(self.begin + second * 1_000_000_000)
            lines.append(
                f'<line x1="{x}" x2="{x}" y1="0" y2="{height - 14}" stroke="#e4e4e4"/><text x="{x + 2}" y="{height - 3}">{second} s</text>'
            )
        return "".join(lines)


def _svg(height: int, body: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">{"".join(body)}</svg>'


def _spans(history: History, end: int) -> list[tuple[str, int, int, str]]:
    """Faults with their beginnings and ends."""
    open_: dict[str, tuple[int, str]] = {}
    found = []
    for fault in sorted(history.faults, key=lambda f: f.at):
        if fault.phase == "begin":
            open_[fault.name] = (fault.at, fault.detail)
        elif fault.phase == "end" and fault.name in open_:
            begin, detail = open_.pop(fault.name)
            found.append((fault.name, begin, fault.at, detail))
        elif fault.phase == "note":
            found.append((fault.name, fault.at, fault.at, fault.detail))
    found.extend((name, begin, end, detail) for name, (begin, detail) in open_.items())
    return sorted(found, key=lambda s: s[1])


def _timeline(history: History, scale: _Scale) -> str:
    spans = _spans(history, scale.end)
    rows = list(dict.fromkeys(["leader", *(name for name, *_ in spans)]))
    calls = [o for o in history.ops if not o.kind.startswith("~")]
    lanes = sorted({_lane(o) for o in calls}, key=lambda n: (len(n), n))
    top = 16 * len(rows) + 10
    height = top + 13 * len(lanes) + 22
    body = [scale.ruler(height)]
    for name, begin, end, _ in spans:
        x, width = scale.x(begin), max(2.0, scale.x(end) - scale.x(begin))
        body.append(f'<rect x="{x}" y="{top - 6}" width="{width}" height="{height - top - 8}" fill="#c62828" opacity="0.06"/>')
        y = 16 * rows.index(name) + 3
        body.append(f'<rect x="{x}" y="{y}" width="{width}" height="11" fill="#c62828" opacity="0.75"/>')
    nodes = sorted({x.node for x in history.leaders})
    leaders = sorted(history.leaders, key=lambda x: x.at)
    for i, each in enumerate(leaders):
        x = scale.x(each.at)
        end_x = scale.x(leaders[i + 1].at if i + 1 < len(leaders) else scale.end)
        colour = _LEADERS[nodes.index(each.node) % len(_LEADERS)]
        body.append(f'<rect x="{x}" y="3" width="{max(1.0, round(end_x - x, 1))}" height="11" fill="{colour}"/>')
        if end_x - x > 26:
            body.append(f'<text x="{x + 3}" y="12" style="fill:#fff">{_e(each.node)}</text>')
    body.extend(f'<text x="4" y="{16 * i + 12}">{_e(row)}</text>' for i, row in enumerate(rows))
    body.extend(f'<text x="4" y="{top + 13 * i + 9}">{_e(lane)}</text>' for i, lane in enumerate(lanes))
    places = {lane: top + 13 * i for i, lane in enumerate(lanes)}
    every = max(1, len(calls) // _MOST_OPS)
    for number, op in enumerate(calls):
        if op.outcome is not Outcome.OK or number % every == 0:
            x = scale.x(op.invoked)
            width = max(0.8, round(scale.x(op.completed) - x, 1))
            body.append(f'<rect x="{x}" y="{places[_lane(op)]}" width="{width}" height="10" fill="{_COLOURS[op.outcome]}"/>')
    return _svg(height, body)


def _lane(op: Op) -> str:
    """All lives of one client share a lane."""
    return op.process.partition(".")[0]


def _latency(history: History, scale: _Scale) -> str:
    """Every call as a point, milliseconds on a logarithmic axis from 0.1 ms to 10 s."""
    height = 220
    floor = height - 24

    def y(milliseconds: float) -> float:
        share = (log10(max(milliseconds, 0.1)) + 1) / 5
        return round(floor - min(share, 1.0) * (floor - 8), 1)

    body = [scale.ruler(height)]
    for _, begin, end, _ in _spans(history, scale.end):
        x = scale.x(begin)
        body.append(f'<rect x="{x}" y="0" width="{max(2.0, scale.x(end) - x)}" height="{floor}" fill="#c62828" opacity="0.06"/>')
    for mark in (0.1, 1, 10, 100, 1_000, 10_000):
        at = y(mark)
        body.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{at}" y2="{at}" stroke="#ddd"/>')
        body.append(f'<text x="4" y="{at + 4}">{mark:g} ms</text>')
    calls = [o for o in history.ops if not o.kind.startswith("~")]
    every = max(1, len(calls) // _MOST_OPS)
    for number, op in enumerate(calls):
        if op.outcome is not Outcome.OK or number % every == 0:
            at = y((op.completed - op.invoked) / 1e6)
            body.append(f'<circle cx="{scale.x(op.invoked)}" cy="{at}" r="1.5" fill="{_COLOURS[op.outcome]}"/>')
    return _svg(height, body)


def _outcomes(history: History, scale: _Scale) -> str:
    """Stacked bars."""
    height = 140
    floor = height - 22
    buckets: dict[int, dict[Outcome, int]] = {}
    for op in history.ops:
        if not op.kind.startswith("~"):
            bucket = buckets.setdefault(int(scale.seconds(op.invoked)), dict.fromkeys(Outcome, 0))
            bucket[op.outcome] += 1
    top = max((sum(b.values()) for b in buckets.values()), default=1)
    body = [scale.ruler(height), f'<text x="4" y="14">{top} a second</text>']
    width = max(1.0, (_WIDTH - _LEFT) / max(1.0, (scale.end - scale.begin) / 1e9) - 1)
    for second, counts in sorted(buckets.items()):
        x, y = scale.x(scale.begin + second * 1_000_000_000), float(floor)
        for outcome, count in counts.items():
            tall = count / top * (floor - 6)
            y -= tall
            if count:
                body.append(f'<rect x="{x}" y="{y:.1f}" width="{width:.1f}" height="{tall:.1f}" fill="{_COLOURS[outcome]}"/>')
    return _svg(height, body)


def _minimal(history: History, core: Sequence[int], context: Sequence[int]) -> str:
    """The operations that show a violation, drawn and listed; those around them in grey."""
    shown = history.find({*core, *context})
    if not shown:
        return ""
    wanted = set(core)
    begin = min(o.invoked for o in shown)
    ends = [o.completed for o in shown if not o.unknown] or [o.invoked + 1 for o in shown]
    end = max(*ends, begin + 1, *(o.invoked + 1 for o in shown))
    lanes = list(dict.fromkeys(_lane(o) for o in shown))

    def x(at: int) -> float:
        return round(_LEFT + (min(at, end) - begin) / (end - begin) * (_WIDTH - _LEFT - 20), 1)

    body = []
    for i, lane in enumerate(lanes):
        body.append(f'<text x="4" y="{22 * i + 18}">{_e(lane)}</text>')
    for op in shown:
        y = 22 * lanes.index(_lane(op)) + 6
        left, right = x(op.invoked), x(end if op.unknown else op.completed)
        colour = "#c62828" if op.id in wanted else "#bdbdbd"
        dash = ' stroke-dasharray="4 3"' if op.unknown else ""
        body.append(
            f'<rect x="{left}" y="{y}" width="{max(2.0, round(right - left, 1))}" height="14" fill="{colour}" fill-opacity="0.35" '
            f'stroke="{colour}"{dash}><title>{_e(op.text())}</title></rect>'
        )
        if op.id in wanted:
            body.append(f'<text x="{left + 2}" y="{y + 11}">#{op.id}</text>')
    rows = []
    for op in shown:
        if op.id in wanted:
            ended = "" if op.unknown else f"{(op.completed - begin) / 1e6:.3f}"
            rows.append(f"<tr><td>{(op.invoked - begin) / 1e6:.3f}</td><td>{ended}</td><td><code>{_e(op.text())}</code></td></tr>")
    table = f"<table><tr><th>from (ms)<th>to (ms)<th>operation</tr>{''.join(rows)}</table>"
    return f"{_svg(22 * len(lanes) + 10, body)}{table}"


def _counts(history: History) -> str:
    calls = [o for o in history.ops if not o.kind.startswith("~")]
    return f"{len(calls)} operations: " + ", ".join(f"{sum(o.outcome is k for o in calls)} {k.value}" for k in Outcome)


def _judges(judgements: Sequence[Judgement]) -> str:
    rows = "".join(
        f'<tr><td><span class=v style="background:{_VERDICTS[j.verdict]}">{j.verdict.value}</span></td><td>{_e(j.checker)}</td>'
        f"<td>{_e(', '.join(f'{k} {v}' for k, v in j.figures.items()))}</td><td>{_e(j.reason)}</td></tr>"
        for j in judgements
    )
    return f"<table>{rows}</table>"


def _key() -> str:
    spans = "".join(f'<span><i style="background:{c}"></i>{o.value}</span>' for o, c in _COLOURS.items())
    return f'<p class=key>{spans}<span><i style="background:#c62828"></i>fault</span></p>'


def _faults(history: History, scale: _Scale) -> str:
    rows = "".join(
        f"<tr><td>{scale.seconds(begin):.2f}</td><td>{scale.seconds(end):.2f}</td><td>{_e(name)}</td><td>{_e(detail)}</td></tr>"
        for name, begin, end, detail in _spans(history, scale.end)
    )
    return f"<table><tr><th>from (s)<th>to (s)<th>fault<th>what</tr>{rows}</table>"
