"""Find the JobService that `module:attr` or `path/to/file.py:attr` means."""

import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import jsjobs
from jsjobs import JobService
from jsjobs.cli.errors import Failed, WrongUse
from jsjobs.cli.output import talk
from jsjobs.model.errors import JobError

_FRAMES = 3
_OURS = str(Path(jsjobs.__file__).parent)


def load_application(target: str) -> JobService:
    """Import an application whose jobs are to be run.

    Raises:
        WrongUse: If `load_service` raises it, or the application has no handlers.
        Failed: If `load_service` raises it.
    """
    service = load_service(target)
    if not service.types:
        # Its worker would record every job as a dead letter, HandlerMissing.
        raise WrongUse(f"{target} has no handlers: register them with @jobs.handler(...) in a module that it imports")
    return service


def say_what_is_ignored(service: JobService) -> None:
    """Say which settings of the environment, the options or `jsjobs dev` the application's own settings override."""
    config = service.config
    database = None if config.database_url is None else config.database_url.get_secret_value()
    used = {"NATS_URL": config.nats_url, "DATABASE_URL": database, "NAMESPACE": config.namespace}
    ignored = [f"JSJOBS_{name}" for name, value in used.items() if os.environ.get(f"JSJOBS_{name}", value) != value]
    if ignored:
        talk(f"the application sets these itself, so they have no effect here: {', '.join(ignored)}", style="yellow")


def load_service(target: str) -> JobService:
    """Import the application and return its service.

    Args:
        target: `module:attr`, or `path/to/file.py:attr`; modules are also looked for in the current folder.

    Raises:
        WrongUse: If there is no such module or attribute, or it is not a JobService.
        Failed: If the module cannot be imported; the text names the place in it.
    """
    place, colon, attribute = target.rpartition(":")
    if not (place and colon and attribute):
        raise WrongUse(f"{target!r} must name a module and the JobService in it, like app:jobs or path/app.py:jobs")
    folder, name = _file_module(Path(place)) if place.endswith(".py") else (Path.cwd(), place)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    module = _imported(name)
    if place.endswith(".py") and not _is_from(module, Path(place)):
        raise WrongUse(
            f"{place} cannot be imported: {name} is the name of another module ({module.__file__}); rename yours"
        )
    return _service_in(module, attribute)


def check_target(target: str) -> None:
    """Check that there is something to import, without importing it.

    Raises:
        WrongUse: If there is no such file or module.
    """
    place, colon, _ = target.rpartition(":")
    if not (place and colon):
        raise WrongUse(f"{target!r} must name a module and the JobService in it, like app:jobs or path/app.py:jobs")
    if place.endswith(".py"):
        _file_module(Path(place))
        return
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    top = place.partition(".")[0]
    if not top.isidentifier() or importlib.util.find_spec(top) is None:
        raise WrongUse(f"there is no module {top!r} in {Path.cwd()} or among the installed packages")


def source_folders(target: str) -> list[Path]:
    """Return the folders with the application's sources: this folder, and the application's own if it is elsewhere.

    Args:
        target: A target that `check_target` accepted.
    """
    place = target.rpartition(":")[0]
    if place.endswith(".py"):
        folder, _ = _file_module(Path(place))
    else:
        spec = importlib.util.find_spec(place.partition(".")[0])
        origin = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or []), None)
        folder = Path.cwd() if origin is None else Path(origin).resolve().parent
    here = Path.cwd().resolve()
    return [here] if folder.is_relative_to(here) or "site-packages" in folder.parts else [here, folder]


def _file_module(file: Path) -> tuple[Path, str]:
    """Return the folder to import a file from, and the module's name; it has its packages, for relative imports."""
    if not file.is_file():
        raise WrongUse(f"there is no file {file}")
    file = file.resolve()
    words, folder = [file.stem], file.parent
    while (folder / "__init__.py").exists():
        words.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(words)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise WrongUse(
                f"there is no module {error.name!r} in {Path.cwd()} or among the installed packages"
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> Failed:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", _OURS)) and "importlib" not in frame.filename
    ]
    places = [f"  {_shown(frame.filename)}:{frame.lineno}: {frame.line}" for frame in frames[-_FRAMES:]]
    what = error.message if isinstance(error, JobError) else traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError):
        places = [f"  {_shown(str(error.filename))}:{error.lineno}: {(error.text or '').strip()}"]
    return Failed("\n".join([f"{name} cannot be imported: {what}", *places]))


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _is_from(module: ModuleType, file: Path) -> bool:
    return module.__file__ is not None and Path(module.__file__).resolve() == file.resolve()


def _service_in(module: ModuleType, attribute: str) -> JobService:
    found: object = module
    for word in attribute.split("."):
        if not hasattr(found, word):
            raise WrongUse(f"{module.__name__} has no {attribute!r}{_instead(module)}")
        found = getattr(found, word)
    if not isinstance(found, JobService):
        raise WrongUse(f"{module.__name__}:{attribute} is a {type(found).__name__}, not a JobService{_instead(module)}")
    return found


def _instead(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, JobService)]
    return "".join(f"; did you mean {module.__name__}:{name}?" for name in names[:1])
