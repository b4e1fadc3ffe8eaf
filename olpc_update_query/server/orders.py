"""The signed orders that lie beside builds, for sticks and ``olpc-update BUILD``."""

from olpc_update_query.model.orders import Order, OrderFile
from olpc_update_query.run.places import ORDER
from olpc_update_query.server.above import is_from_above
from olpc_update_query.server.publish import OrderFacts
from olpc_update_query.server.signing import Signer, make_order
from olpc_update_query.server.site import PublishedBuild, Site
from olpc_update_query.system.files import remove_leftovers, replace_file


def order_for(facts: OrderFacts, signer: Signer, now: int) -> bytes:
    """Sign the order for a build.

    Args:
        facts: The build.
        signer: The site's key for answers and orders.
        now: The present.
    """
    order = Order(facts.build, facts.contents, facts.size, urls=())
    return make_order(OrderFile(order, now), signer.sig01)


def own_orders(site: Site) -> list[PublishedBuild]:
    """Return the builds beside which this site has signed an order.

    What `mirror` has brought stays as the higher site has signed it: its laptops trust
    no key of this one.
    """
    found = map(site.find_build, site.build_names())
    return [
        build
        for build in found
        if build is not None
        and (build.path / ORDER).exists()
        and not is_from_above(site, build.path)
    ]


def sign_orders_again(site: Site, signer: Signer, now: int) -> None:
    """Sign this site's orders anew, because the key that signed them is retired.

    Call it inside ``site.change``.

    Args:
        site: The site.
        signer: The key that signs now.
        now: The present.
    """
    for build in own_orders(site):
        remove_leftovers(build.path)
        facts = OrderFacts(build.build, build.contents, build.size)
        replace_file(build.path / ORDER, order_for(facts, signer, now))
