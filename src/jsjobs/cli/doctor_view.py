"""How findings look: the worst first, each with its remedy below it."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from jsjobs.cli.output import display, plain, talk
from jsjobs.doctor import Finding, Severity

_STYLES = {
    Severity.PROBLEM: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Severity.OK: "green",
}


def print_findings(findings: Sequence[Finding], namespace: str) -> None:
    """Print what was found, and say how bad it is."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for severity, style in _STYLES.items():
        for finding in findings:
            if finding.severity is severity:
                table.add_row(Text(severity, style), _text(finding))
    display(table)
    counts = [_counted(findings, severity) for severity in (Severity.PROBLEM, Severity.WARNING)]
    talk(f"namespace {namespace}: {' and '.join(counts)}", style="dim")


def _text(finding: Finding) -> Text:
    parts = [plain(f"{finding.where}: ", "bold")] if finding.where else []
    parts.append(plain(finding.what))
    if finding.remedy:
        parts.append(plain(f"\n→ {finding.remedy}", "dim"))
    return Text.assemble(*parts)


def _counted(findings: Sequence[Finding], severity: Severity) -> str:
    count = sum(finding.severity is severity for finding in findings)
    return f"{count or 'no'} {severity}{'' if count == 1 else 's'}"
