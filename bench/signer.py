"""A web server that only signs: ``python -m bench.signer SITE PORT``.

It answers whatever is asked with as many bytes as an answer has, after one signature.
What it costs is the least that any application under the same web server can cost.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from waitress import serve

from olpc_update_query.server.keys import load_key
from olpc_update_query.server.site import Site
from olpc_update_query.system.host import SystemClock
from olpc_update_query.trust.keys import Role

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_ANSWER = bytes(1500)


def main() -> None:
    """Serve until SIGTERM."""
    site, port = sys.argv[1:]
    signer = load_key(Site(Path(site), SystemClock()), Role.OATS)

    def sign(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        signer.sign(environ["wsgi.input"].read())
        start("200 OK", [("Content-Length", str(len(_ANSWER)))])
        return [_ANSWER]

    serve(sign, host="127.0.0.1", port=int(port), threads=8, asyncore_use_poll=True)


if __name__ == "__main__":
    main()
