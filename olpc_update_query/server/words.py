"""The words of the pages, in English and Spanish."""

import re
from collections.abc import Callable, Mapping
from typing import Final

LANGUAGES: Final = ("en", "es")

SPANISH: Final[Mapping[str, str]] = {
    "%(number)s laptops are listed.": "%(number)s equipos en la lista.",
    "%(number)s asked in the last day.": "%(number)s preguntaron en el último día.",
    "%(number)s asked in the last week.": "%(number)s preguntaron en la última semana.",
    "%(number)s are marked stolen.": "%(number)s marcados como robados.",
    "%(running)s of %(whole)s run it, %(told)s are told to, %(failed)s failed": (
        "%(running)s de %(whole)s ya la usan, %(told)s tienen la orden, "
        "%(failed)s fallaron"
    ),
    "All updates are paused.": "Todas las actualizaciones están en pausa.",
    "Approve": "Aceptar",
    "Assign": "Asignar",
    "Assign a build": "Asignar una versión",
    "For": "Para",
    "Found again": "Recuperado",
    "How long leases last": "Cuánto duran las concesiones",
    "Laptop": "Equipo",
    "Laptops": "Equipos",
    "Lease ends within a week": "La concesión vence en una semana",
    "Log in": "Entrar",
    "Log out": "Salir",
    "Mark as stolen": "Marcar como robado",
    "Not in laptops.csv": "No están en laptops.csv",
    "Nothing is assigned.": "No hay nada asignado.",
    "No laptop found.": "No se encontró ningún equipo.",
    "Password": "Contraseña",
    "Pause all updates": "Pausar todo",
    "Pause": "Pausar",
    "Percent": "Por ciento",
    "Resume all updates": "Reanudar todo",
    "Resume": "Reanudar",
    "Search": "Buscar",
    "Serial number, name or group": "Serie, nombre o grupo",
    "That was not the password.": "La contraseña no es correcta.",
    "Too many wrong passwords; try again in a few minutes.": (
        "Demasiadas contraseñas incorrectas; pruebe de nuevo en unos minutos."
    ),
    "They end at six in the morning of a school day, %(zone)s.": (
        "Vencen a las seis de la mañana de un día de clases, %(zone)s."
    ),
    "%(number)s days": "%(number)s días",
    "longer ones are shortened": "las más largas se acortan",
    "no leases": "sin concesiones",
    "Told for days to update, and has not": (
        "Con orden de actualizar desde hace días, sin hacerlo"
    ),
    "Update failed": "La actualización falló",
    "What changed": "Qué cambió",
    "Which build for whom": "Qué versión para quién",
    "Which build runs where": "Qué versión usan",
    "Who asked last": "Quién preguntó último",
    "Has not asked for days": "No pregunta desde hace días",
    "Has never asked": "Nunca preguntó",
    "Keep build %(build)s": "Que siga con la versión %(build)s",
    "Let it follow the others": "Que siga a los demás",
    "It has not said which build it runs.": "No dijo qué versión usa.",
    "Single laptops: %(number)s": "Equipos sueltos: %(number)s",
    "It has never asked.": "Nunca preguntó.",
    "It is marked as stolen.": "Está marcado como robado.",
    "It is not in laptops.csv.": "No está en laptops.csv.",
    "All laptops": "Todos los equipos",
    "see all %(number)s": "ver los %(number)s",
    "never": "nunca",
    "Page %(page)s of %(pages)s": "Página %(page)s de %(pages)s",
    "back": "atrás",
    "next": "siguiente",
    "Approve those that are ticked": "Aceptar los marcados",
    "Change share and times": "Cambiar porcentaje y horas",
    "Opens (UTC)": "Empieza (UTC)",
    "Until (UTC)": "Hasta (UTC)",
    "Write a time such as 2027-01-31 06:00, or nothing.": (
        "Escriba un momento como 2027-01-31 06:00, o nada."
    ),
    "It must end after it begins.": "Debe terminar después de empezar.",
    "Only a command lets laptops go back to an older build:": (
        "Solo un comando hace volver equipos a una versión anterior:"
    ),
    "Too many ask for pages at once; try again in a few seconds.": (
        "Demasiados piden páginas a la vez; pruebe de nuevo en unos segundos."
    ),
    "Take away": "Quitar",
    "%(number)s of %(whole)s delegations end from %(time)s on; have new ones made:": (
        "%(number)s de %(whole)s delegaciones vencen desde el %(time)s; pida otras:"
    ),
    "Take this assignment away": "Quitar esta asignación",
    "What is assigned to a wider circle counts then, if anything is.": (
        "Después vale lo asignado a un círculo más amplio, si hay algo."
    ),
    "Look at the laptops that failed before you resume it.": (
        "Mire los equipos que fallaron antes de reanudarla."
    ),
    "Who changed what": "Quién cambió qué",
    "when (UTC)": "cuándo (UTC)",
    "who": "quién",
    "what": "qué",
    "More": "Más",
    "Forgotten? On the server, this sets a new one:": (
        "¿La olvidó? En el servidor, esto pone una nueva:"
    ),
    "listed": "en la lista",
    "polls": "preguntas",
    "address": "dirección",
    "lease until (UTC)": "concesión hasta (UTC)",
    "yes": "sí",
    "no": "no",
    "(halted by the server: %(why)s)": "(detenida por el servidor: %(why)s)",
    "(not published!)": "(¡no está publicada!)",
    "(paused)": "(en pausa)",
    ", the others build %(build)s": ", los demás la versión %(build)s",
    "all": "todos",
    "asked (UTC)": "preguntó (UTC)",
    "because": "porque",
    "build": "versión",
    "build %(build)s": "versión %(build)s",
    "everybody else": "todos los demás",
    "for %(percent)s percent": "para el %(percent)s por ciento",
    "from": "desde",
    "from %(time)s": "desde %(time)s",
    "group": "grupo",
    "last address": "última dirección",
    "last asked": "preguntó por última vez",
    "last build": "última versión",
    "last lease": "última concesión",
    "last ordered": "última orden",
    "last polls": "preguntas",
    "last report": "último informe",
    "last result": "último resultado",
    "lease": "concesión",
    "leases": "concesiones",
    "leases because": "concesiones porque",
    "lease signed until": "concesión firmada hasta",
    "lease until": "concesión hasta",
    "name": "nombre",
    "new": "nuevo",
    "not said": "no lo dijo",
    "number": "número",
    "ordered": "orden",
    "report": "informe",
    "runs": "usa",
    "serial": "serie",
    "stolen": "robado",
    "stream": "canal",
    "to run": "debe usar",
    "told to run": "tiene orden de usar",
    "until %(time)s": "hasta %(time)s",
    "when": "cuándo",
    "Change how long leases last": "Cambiar cuánto duran las concesiones",
    "Leases for": "Concesiones para",
    "Days (0: no leases)": "Días (0: sin concesiones)",
    "Shorten those that end later": "Acortar las que vencen más tarde",
    "As for everybody else": "Como para todos los demás",
    "Change": "Cambiar",
    "Time zone": "Zona horaria",
    "Set the time zone": "Poner la zona horaria",
    "There is no such group or stream.": "No hay tal grupo ni canal.",
    "Choose a group or a stream.": "Elija un grupo o un canal.",
    "It is so already.": "Ya es así.",
    "Write a number from 0 to 3650.": "Escriba un número de 0 a 3650.",
    "This server knows no such time zone.": "Este servidor no conoce esa zona horaria.",
    "all updates are paused": "todas las actualizaciones están en pausa",
    'its stream is "none": it wants no updates': (
        'su canal es "none": no quiere actualizaciones'
    ),
    "nothing is assigned to it": "no tiene nada asignado",
    "assigned to %(whom)s": "asignado a: %(whom)s",
    "the assignment to %(whom)s is paused: %(why)s": (
        "la asignación para %(whom)s está en pausa: %(why)s"
    ),
    "the assignment to %(whom)s is paused": "la asignación para %(whom)s está en pausa",
    "the assignment to %(whom)s is not open yet": (
        "la asignación para %(whom)s todavía no empieza"
    ),
    "the assignment to %(whom)s has closed": "la asignación para %(whom)s ya terminó",
    "not yet among the %(percent)s percent of %(whom)s": (
        "todavía no está entre el %(percent)s por ciento de: %(whom)s"
    ),
    "%(failed)s of %(tried)s laptops failed": (
        "fallaron %(failed)s de %(tried)s equipos"
    ),
    "every other laptop": "todos los demás equipos",
    "group %(name)s": "grupo %(name)s",
    "stream %(name)s": "canal %(name)s",
    "laptop %(name)s": "equipo %(name)s",
    "that is said for %(whom)s": "así se dijo para: %(whom)s",
    "leases of 1 day": "concesiones de 1 día",
    "leases of 1 day, longer ones shortened": (
        "concesiones de 1 día, las más largas se acortan"
    ),
    "leases of %(number)s days, longer ones shortened": (
        "concesiones de %(number)s días, las más largas se acortan"
    ),
    "leases of %(number)s days": "concesiones de %(number)s días",
    "none": "ninguna",
    "for ever": "para siempre",
    "A file of the site is damaged; the server goes on with what it said before.": (
        "Un archivo del sitio está dañado; el servidor sigue con lo que decía antes."
    ),
    "Forbidden: this page is not shown to your address.": (
        "Prohibido: esta página no se muestra a su dirección."
    ),
    "Forbidden: log in again, and use the form that is shown then.": (
        "Prohibido: entre de nuevo y use el formulario que se muestra entonces."
    ),
    "There is no such page.": "No hay tal página.",
    "There is no such laptop.": "No hay tal equipo.",
    "Write a percentage from 0 to 100.": "Escriba un porcentaje de 0 a 100.",
    "That is no serial number.": "Eso no es un número de serie.",
    "That is no serial number, group or stream.": (
        "Eso no es un número de serie, grupo ni canal."
    ),
    "Say what this is the name of, or leave it empty for all.": (
        "Diga de qué es este nombre, o déjelo vacío para todos."
    ),
    "That build is not published.": "Esa versión no está publicada.",
    "Nothing is assigned there.": "Ahí no hay nada asignado.",
    "That laptop is not in laptops.csv.": "Ese equipo no está en laptops.csv.",
    "The server did not understand that.": "El servidor no entendió eso.",
    "The server cannot do that now. Its log and the command check tell more.": (
        "El servidor no puede hacer eso ahora. Su registro y el comando "
        "check dicen más."
    ),
    "exit code %(code)s": "código de salida %(code)s",
}
"""English text to Spanish."""

Speak = Callable[..., str]

_SPOKEN: Final = frozenset({"whom", "why"})
"""What stands in a sentence and is itself one."""


def speaker(language: str) -> Speak:
    """Return what says a text in a language.

    It says a text of the catalog, with values in the places of their names, or a
    sentence that was made of one, such as why a rollout was halted.

    Args:
        language: One of ``LANGUAGES``.
    """

    def say(text: str, **values: object) -> str:
        found = SPANISH.get(text) if language == "es" else text
        if found is None:
            return _translated(text)
        if language == "es":
            values = {name: _spoken(name, value) for name, value in values.items()}
        return found % values if values else found

    return say


def _translated(text: str) -> str:
    """Return a sentence that was made of one of the catalog in Spanish."""
    if text in SPANISH:
        return SPANISH[text]
    for pattern, spanish in _PATTERNS:
        found = pattern.fullmatch(text)
        if found is not None:
            return spanish % {
                name: _spoken(name, value) for name, value in found.groupdict().items()
            }
    return text


def _spoken(name: str, value: object) -> object:
    return _translated(str(value)) if name in _SPOKEN else value


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"%\\\((\w+)\\\)s", r"(?P<\1>.{1,99}?)", re.escape(text)))


_PATTERNS: Final = [
    (_pattern(text), SPANISH[text])
    for text in sorted(SPANISH, key=len, reverse=True)
    if "%(" in text
]
"""Sentences with values, and their Spanish: the longest that fits is taken."""

ENGLISH: Final = speaker("en")
"""Says everything as it is written in the program."""
