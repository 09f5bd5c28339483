"""Commands that run until stopped: worker, router, rpc, and the processes of a worker."""
