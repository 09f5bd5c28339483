"""OpenTelemetry: spans and metrics of jobs. Nothing else in jsjobs imports it, and nothing does while it is off.

`switch` decides; only when it says yes are the other modules here, and OpenTelemetry itself, imported.
"""
