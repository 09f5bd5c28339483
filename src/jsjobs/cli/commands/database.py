"""`jsjobs db`: the database's tables."""

import typer

from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import print_json, talk
from jsjobs.cli.runtime import run, service_with_database
from jsjobs.postgres.migrate import migrate as apply_migrations

app = typer.Typer(no_args_is_help=True, help="Set up the database of the dead letters.", rich_markup_mode="rich")


@app.callback()
def _db() -> None:
    """Keep `migrate` a command of its own, though it is the only one."""


@app.command(
    epilog=examples("jsjobs db migrate", "jsjobs db migrate --database-url postgresql://app@db.internal/app --json")
)
@with_servers
def migrate(*, as_json: Json = False) -> None:
    """Create the dead-letter table, or update it to this version of jsjobs; running it again changes nothing."""
    service = service_with_database()

    async def go() -> list[str]:
        try:
            return await apply_migrations(service.database())
        finally:
            await service.close()

    applied = run(go())
    if as_json:
        print_json(applied)
    elif applied:
        for name in applied:
            talk(f"applied {name}")
    else:
        talk("nothing to do: the tables are up to date")
