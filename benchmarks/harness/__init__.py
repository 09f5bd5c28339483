"""What all benchmarks share: servers, processes, rounds, figures, tables and plots."""
