"""Parts of a router, each alone."""

from jsjobs import JobService
from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.maintenance.schedule_cleaner import ScheduleCleaner


def recorder_of(jobs: JobService) -> DeadLetterRecorder:
    """What makes dead letters of messages."""
    names, config = Names(jobs.config.namespace), jobs.config
    state = StateStore(jobs.connection, names)
    return DeadLetterRecorder(jobs.connection, names, state, jobs.dlq, result_ttl=config.result_ttl)


def cleaner_of(jobs: JobService) -> ScheduleCleaner:
    """What clears fired jobs away."""
    return ScheduleCleaner(jobs.connection, Names(jobs.config.namespace), recorder_of(jobs))
