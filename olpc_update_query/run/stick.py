"""`olpc-update --usb`: a lease and a build from a stick, and a report back home on it.

A stick proves nothing, what lies on it proves itself. It comes from nobody's
conversation with a server, so it may be old: its lease is taken only if it ends later
than the laptop's, and its build only if that is not older, unless a person names it or
the order allows it.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from olpc_update_query import errors
from olpc_update_query.model import canonical
from olpc_update_query.model.canonical import Json
from olpc_update_query.model.messages import MAX_QUERY, BuildId, Order
from olpc_update_query.model.stick import LEASES, MAX_LEASES, REPORTS, report_name
from olpc_update_query.model.wire import format_time
from olpc_update_query.perform_update.sources.local import directory_of
from olpc_update_query.policy.decide import Refuse
from olpc_update_query.report import (
    Audience,
    LeaseKept,
    LeaseRefused,
    Outcome,
    Result,
    never_in_the_way,
)
from olpc_update_query.run.by_hand import SHORT_ID, ByHand
from olpc_update_query.run.facts import (
    Facts,
    last_report,
    look,
    make_query,
)
from olpc_update_query.run.leases import better_lease, with_refused_lease
from olpc_update_query.run.machine import (
    AskerEndedError,
    Machine,
    Numbers,
    Parcel,
    Slip,
    as_asker,
)
from olpc_update_query.run.memory import recall
from olpc_update_query.run.places import (
    LARGEST_ORDER,
    ORDER,
    choose,
    has_leases,
    has_statements,
    newest,
    on_stick,
    path_of,
    url_of,
)
from olpc_update_query.run.trial import settle
from olpc_update_query.system.files import read_bounded
from olpc_update_query.system.host import draw_nonce
from olpc_update_query.system.lent import lend, reach
from olpc_update_query.system.security import install_lease
from olpc_update_query.system.sticks import (
    Stick,
    is_failing,
    leave_file,
    refused,
    stick_errors,
)
from olpc_update_query.trust.answer import TrustedOrder
from olpc_update_query.trust.lease import MAX_LEASE_LINE, find_lease, lines_for

_LONGEST_REPORT = 512


class FromStick(ByHand):
    """What a stick has for this laptop.

    Args:
        machine: The laptop; it has followed what the stick says about keys.
        audience: Who listens.
        stick: Where the stick is mounted.
        build: The build that a person names; None for what the stick orders.
        force: Install it even if it failed here, or its time has not come.

    Raises:
        BuildNotFound: The build that was named is not on it, or nothing is.
        StickFailed: It cannot be read.
    """

    def __init__(
        self,
        machine: Machine,
        audience: Audience,
        stick: Path,
        build: BuildId | None,
        *,
        force: bool = False,
    ) -> None:
        with stick_errors(stick):
            found = on_stick(stick)
            has_other = has_leases(stick) or has_statements(stick)
        if build is not None:
            found = {build: choose(found, build, str(stick))}
        elif not (found or has_other):
            raise errors.BuildNotFound(str(stick), "nothing for laptops is on it")
        places = [url_of(path) for path in found.values()]
        super().__init__(machine, audience, build or BuildId(""), places, force=force)
        self._purpose = "olpc-update --usb"
        self._first = f"reading {stick}"
        self._stick, self._is_named = stick, build is not None
        self._there = Stick.at(stick)
        with stick_errors(stick):
            lend(stick.resolve())
        self._signed = 0

    def run(self) -> int:
        """Take the lease, then the build; leave a report whatever becomes of them.

        Returns:
            The exit code. Everything has been told to the audience.
        """
        code = super().run()
        if code not in {errors.Busy.exit_code, errors.StickFailed.exit_code}:
            with (
                never_in_the_way("report on the stick"),
                contextlib.suppress(AskerEndedError),
            ):
                self._leave_report()
        return code

    def _update(self) -> Outcome:
        facts = look(self._machine)
        settle(self._machine, facts.layout, self._report)
        facts, refused = self._take_lease(facts)
        if self._places:
            facts.require_layout()
            outcome = self._follow_order(facts)
        elif refused is not None:
            raise refused
        else:
            text = "nothing to do: the stick holds no build"
            outcome = Outcome(Result.NOTHING, text)
        if outcome.result is Result.INSTALLED:
            text = f"{outcome.text}; restart the laptop to begin using it"
            outcome = replace(outcome, text=text)
        return outcome if refused is None else with_refused_lease(outcome, refused)

    # --- the lease -------------------------------------------------------------------

    def _take_lease(self, facts: Facts) -> tuple[Facts, errors.UntrustedLease | None]:
        """Install the laptop's lease, if the stick has one that ends later."""
        machine, parcel = self._machine, Parcel(MAX_LEASE_LINE)
        if facts.stolen or not has_leases(self._stick):
            return facts, None
        as_asker(machine, lambda: self._find_lease(facts, parcel), self._asker)
        raw = parcel.take()
        if not raw:
            return facts, None
        try:
            lease = better_lease(machine, facts, raw)
        except errors.UntrustedLease as error:
            self._report.tell(LeaseRefused(error))
            return facts, error
        if lease is None:
            self._report.note("the lease on the stick ends no later than ours")
            return facts, None
        changed = install_lease(machine.root, lease)
        self._report.tell(LeaseKept(changed, lease.expiry))
        return replace(facts, lease=lease), None

    def _find_lease(self, facts: Facts, parcel: Parcel) -> None:
        """Leave our best line for the installer, or one that it will refuse.

        Raises:
            StickFailed: There are leases, but they cannot be read.
        """
        identity, failure = self._machine.identity, None
        for name in LEASES:
            path = self._stick / name
            try:
                raw = read_bounded(reach(self._stick.resolve() / name), MAX_LEASES)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and is_failing(error):
                    failure = refused(error, path)
                self._asker.note(f"{path} is of no use: {error}")
                continue
            line = next(lines_for(identity.serial, raw), None)
            if line is None:
                self._asker.note(f"{path} has no lease for this laptop")
                continue
            with contextlib.suppress(errors.UntrustedLease):
                line = find_lease(
                    raw,
                    serial=identity.serial,
                    uuid=identity.uuid,
                    ring=self._machine.ring,
                    now=facts.now,
                ).line
            parcel.put(line.encode()[:MAX_LEASE_LINE])
            return
        if failure is not None:
            raise failure

    # --- the order -------------------------------------------------------------------

    def _fetch_order(self, slip: Slip, parcel: Parcel) -> None:
        """Choose, of the orders that are good here, the one that was signed last."""
        now = max(self._machine.clock.now(), recall(self._machine.asker).floor)
        good: dict[BuildId, tuple[int, TrustedOrder]] = {}
        bad: dict[BuildId, errors.UpdateError] = {}
        for number, place in enumerate(self._places):
            try:
                trusted = self._open(_read(place), now, place)
                good[_name_of(place)] = number, trusted
            except (
                errors.NetworkError,
                errors.StickFailed,
                errors.StickForbidden,
                errors.TrustError,
            ) as error:
                self._asker.note(f"{place}: {error}")
                bad[_name_of(place)] = error
        number, trusted = _signed_last(good, bad)
        chosen, last = trusted.order.build, trusted.time
        signers = ", ".join(name[:SHORT_ID] for name in trusted.signers)
        self._asker.note(
            f"the stick orders build {chosen}, signed on {format_time(last)} "
            f"by {signers}"
        )
        slip.write(Numbers(server=number))
        parcel.put(trusted.raw)

    def _open(self, raw: bytes, now: int, place: str) -> TrustedOrder:
        self._build = _name_of(place)
        trusted = super()._open(raw, now, place)
        self._signed = trusted.time
        return trusted

    def _refusal(self, order: Order, decision: Refuse) -> str:
        if not decision.is_older:
            return decision.reason
        again = f"`olpc-update --usb {order.build}` installs it all the same"
        return f"{decision.reason}; {again}"

    def _as_wanted(self, order: Order) -> Order:
        return super()._as_wanted(order) if self._is_named else order

    # --- the report ------------------------------------------------------------------

    def _leave_report(self) -> None:
        """Leave on the stick what a poll would tell, for `reports import`."""
        machine, parcel = self._machine, Parcel(MAX_QUERY)
        facts = look(machine)
        time = max(facts.now, self._signed)
        as_asker(machine, lambda: self._write_report(facts, time, parcel), self._asker)
        path = f"{REPORTS}/{report_name(machine.identity.serial)}"
        leave_file(self._there, path, parcel.take())
        self._report.note(f"a report is on the stick: {path}")

    def _write_report(self, facts: Facts, time: int, parcel: Parcel) -> None:
        machine = self._machine
        query = replace(make_query(machine, facts, draw_nonce()), lease=None)
        report = last_report(machine) | {"time": format_time(time)}
        parcel.put(replace(query, report=_shortened(report)).encode())


def _name_of(place: str) -> BuildId:
    return BuildId(_directory(place).name)


def _directory(place: str) -> Path:
    found = directory_of(place)
    if found is None:
        raise ValueError(f"{place} is no directory")
    return found


def _read(place: str) -> bytes:
    try:
        return read_bounded(_directory(place) / ORDER, LARGEST_ORDER)
    except FileNotFoundError:  # it was there when the stick was looked at
        raise errors.StickFailed(place, "its order is not there any more") from None
    except OSError as error:
        raise refused(error, path_of(place) / ORDER) from None
    except ValueError as error:
        raise errors.NoAnswer(place, str(error)) from None


def _signed_last(
    good: Mapping[BuildId, tuple[int, TrustedOrder]],
    bad: Mapping[BuildId, errors.UpdateError],
) -> tuple[int, TrustedOrder]:
    """Return the order to follow; of those signed at once, that of the newest build.

    Raises:
        UpdateError: There is none, or that of a newer build cannot be judged. Orders
            that are only over, or for others, are what a stick may well have.
    """
    if not good:
        ours = [e for e in bad.values() if not isinstance(e, errors.OrderForOthers)]
        raise (ours or list(bad.values()))[0]
    last = max(trusted.time for _, trusted in good.values())
    latest = [build for build, (_, one) in good.items() if one.time == last]
    chosen = newest(latest)
    for build, error in bad.items():
        is_usual = isinstance(error, (errors.OrderExpired, errors.OrderForOthers))
        if not is_usual and newest([build, chosen]) == build:
            raise error
    return good[chosen]


def _shortened(report: dict[str, Json]) -> dict[str, Json]:
    """Cut the sentence in a report until it can be sent."""
    while len(canonical.encode(report)) > _LONGEST_REPORT:
        report = {**report, "result": str(report.get("result", ""))[:-16]}
    return report
