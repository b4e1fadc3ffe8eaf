"""The words of the pages, in English and Spanish."""

from collections.abc import Callable, Mapping
from typing import Final

LANGUAGES: Final = ("en", "es")

SPANISH: Final[Mapping[str, str]] = {
    "%(number)s laptops are listed.": "%(number)s equipos en la lista.",
    "%(number)s asked in the last day.": "%(number)s preguntaron en el último día.",
    "%(number)s asked in the last week.": "%(number)s preguntaron en la última semana.",
    "%(number)s have never asked.": "%(number)s nunca preguntaron.",
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
    "Serial number": "Número de serie",
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
}
"""English text to Spanish."""

Speak = Callable[..., str]


def speaker(language: str) -> Speak:
    """Return what says a text in a language.

    Args:
        language: One of ``LANGUAGES``.
    """

    def say(text: str, **values: object) -> str:
        found = SPANISH.get(text, text) if language == "es" else text
        return found % values if values else found

    return say


ENGLISH: Final = speaker("en")
"""Says everything as it is written in the program."""
