"""Handlers in processes of their own: loading (which functions), frames (what is said), child, process and pool (ours).

Own code, since what there is keeps one process's death from the others only as long as it dies at a good moment:
`ProcessPoolExecutor` breaks as a whole, and the processes of pebble (5.2.3, tried) share two pipes and their locks: one
that is killed while it sends its result leaves the lock locked, and all others stand still for a minute, then die too.
Here each process has a socket of its own, nothing is shared and nothing polled.
"""
