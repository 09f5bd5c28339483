"""OpenTelemetry spans and metrics of jobs; imported only where telemetry is on."""
