"""The keys shipped with the program, with their origin.

There are none. OLPC's production keys were never published outside the machines, and
the one OATS key that is public, in OpenFirmware's ``oatstime.fth``, is an example
("Replace this key") whose private half may be anybody's: a program that trusted it
would obey everybody. A deployment's keys come from the manufacturing data and from
``/etc/olpc-update-query/keys.d``; a distributor may list its own here.
"""

from typing import Final

from olpc_update_query.trust.keys import PublicKey

BUILT_IN: Final[tuple[PublicKey, ...]] = ()
