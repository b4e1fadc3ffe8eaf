"""What became of a laptop's last attempt, in the language of whoever looks.

Laptops tell it in English, with an exit code; other languages have a sentence for each
code, and what the laptop said as it is on the laptop's own page.
"""

from collections.abc import Callable, Mapping
from typing import Final

from olpc_update_query.server.records import State
from olpc_update_query.server.words import speaker

SPANISH: Final[Mapping[int, str]] = {
    0: "sin error",
    1: "un error del programa",
    2: "una orden mal escrita",
    3: "un archivo de configuración no sirve",
    4: "falta el permiso para escribir",
    5: "otra ejecución estaba en marcha",
    6: "espera: algo retiene la descarga; lo que llegó se conserva",
    10: "no se pudo llegar a ningún servidor",
    11: "alguien contestó, pero no el servidor: un portal o una página de error",
    12: "el proxy pide un nombre y una contraseña, o los rechazó",
    13: "ninguna fuente tiene la versión",
    14: "todas las fuentes fallaron antes del final; lo que llegó se conserva",
    15: "el servidor dijo que no puede contestar ahora",
    16: "la orden es auténtica, pero venció",
    17: "la orden es auténtica, pero para otros equipos",
    20: "algo no prueba lo que afirma",
    21: "la respuesta o la orden no está bien firmada, o no es para este equipo",
    22: "la concesión no está bien firmada, o es para otro equipo",
    23: "la lista de archivos no es la que la orden firma",
    24: "un archivo de clave no sirve",
    25: "llegaron datos que no siguen su formato",
    26: "una declaración sobre claves no se puede seguir",
    27: "una delegación no permite firmar",
    28: "el servidor pide más trabajo del que hace un equipo",
    29: "el equipo no tiene número de serie ni UUID",
    30: "un archivo de la versión no es lo que debe ser",
    31: "la versión tiene una ruta peligrosa",
    32: "llegaron datos dañados; se descargan de nuevo",
    33: "no cabe: falta espacio en el equipo",
    34: "el equipo no puede tener dos versiones",
    35: "el disco no deja leer o escribir",
    75: "otra cosa ocupa el lugar de un archivo del programa",
    36: "la versión no está en el equipo",
    37: "faltan partes de la versión; se descargan de nuevo",
    38: "la memoria USB se sacó, o no deja leer o escribir",
    39: "falta el permiso para usar la memoria USB",
    40: "no se pudo cambiar la versión que arranca; arranca la de antes",
    41: "no hay versión a la que volver",
    42: "un script de la escuela falló; la versión no se activó",
    43: "la orden es auténtica, pero el equipo no puede seguirla ahora",
    63: "el servidor no acepta más equipos en este momento",
    64: "falta el programa rsync, o es muy antiguo",
    66: "la reparación no bastó: quedan diferencias",
    69: "la versión no arrancó bien y el equipo volvió a la de antes",
    70: "un error del programa que descarga",
    71: "la versión está a prueba, y un control de la escuela dice que no está bien",
    72: "el instalador rechazó lo que le dejaron",
    73: "falta preparar el instalador",
    74: "lo que esperaba al instalador ya era viejo; el equipo pregunta de nuevo",
    130: "se interrumpió; lo que llegó se conserva",
}
"""What an exit code means (docs/exit-codes.md), in Spanish."""


def outcome_teller(language: str) -> Callable[[State], str]:
    """Return what tells how a laptop's last attempt ended.

    Args:
        language: Of whoever reads it.
    """
    if language != "es":
        return lambda state: state.result
    say = speaker(language)

    def tell(state: State) -> str:
        code = state.exit_code
        if code is None:
            return ""
        return SPANISH.get(code) or say("exit code %(code)s", code=code)

    return tell
