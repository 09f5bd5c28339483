import pytest

from jsjobs.postgres.database import Database
from jsjobs.postgres.errors import InvalidDatabaseUrl


@pytest.fixture(autouse=True)
def no_postgres_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://user:hunter2@db.example:6432/jobs?sslmode=require", "db.example:6432/jobs"),
        ("postgres://user:hunter2@db.example/jobs", "db.example:5432/jobs"),
        ("postgresql://user:hunter2@[::1]:6432/jobs", "[::1]:6432/jobs"),
        ("postgresql://[::1]/jobs", "[::1]:5432/jobs"),
        ("postgresql://user:hunter2@a:1,b:2/jobs", "a:1,b:2/jobs"),
        ("postgresql://user:h%40nter2@/jobs?host=/tmp/pg&port=5433", "/tmp/pg:5433/jobs"),
        ("postgresql://user@%2Ftmp%2Fpg/jobs", "/tmp/pg:5432/jobs"),
        ("postgresql://?dbname=jobs&password=hunter2", "localhost:5432/jobs"),
        ("postgresql://", "localhost:5432"),
    ],
)
def test_names_the_place_without_secrets(url: str, place: str) -> None:
    assert Database(url).place == place


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "begin with postgresql://"),
        ("user:hunter2@host/db", "begin with postgresql://"),
        ("mysql://user:hunter2@host/db", "begin with postgresql://"),
        ("postgresql://user:hunter2@host:port/db", "a port must be a number"),
        ("postgresql://user:hunter2@host:70000/db", "a port must be a number"),
        ("postgresql://user:hunter2@host:/db", "a port must be a number"),
        ("postgresql://user:hunter2@host/db?port=hunter2", "a port must be a number"),
        ("postgresql://user:hunt/er2@host/db", "stray @"),
        ("postgresql://user:12/hunter2@host/db", "stray @"),
        ("postgresql://user:hunt@er2@host/db", "stray @"),
        ("postgresql://user:hunt#er2@host/db", "stray @ or #"),
        ("postgresql://user:hunt?er2@host/db", "name=value pairs"),
        ("postgresql://user:hunter2@[::1/db", "host cannot be read"),
    ],
)
def test_tells_what_is_wrong_without_secrets(url: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as caught:
        Database(url)
    assert isinstance(caught.value, InvalidDatabaseUrl)
    assert "hunt" not in str(caught.value)
    assert "er2" not in str(caught.value)


async def test_an_option_that_does_not_exist_is_named_when_it_is_used() -> None:
    async with Database("postgresql://user:hunter2@localhost/db?sslmode=maybe") as database:
        with pytest.raises(InvalidDatabaseUrl, match="sslmode"):
            async with database.connection():
                pass
