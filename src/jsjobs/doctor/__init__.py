"""What is wrong with a deployment's servers, and what to do about it. It changes nothing."""

from jsjobs.doctor.examination import examine
from jsjobs.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
