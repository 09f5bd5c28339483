"""Diagnostics of a deployment: findings with remedies; nothing is changed."""

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.runner import examine

__all__ = ["Finding", "Severity", "examine"]
