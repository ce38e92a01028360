"""Checks 20 to 23: who acted, and whether they had agreed to. Pure."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

from stillroom.common.consent import CLOCK_SKEW_S, Consent, Record, check_record, standing
from stillroom.common.errors import StillroomError
from stillroom.common.signed_study import StudySignature, check_signature
from stillroom.common.signing import public_key_from_hex
from stillroom.server.audit.case import Case
from stillroom.server.audit.findings import Problem, failed, said, warned

_AFTER: Mapping[str, set[str | None]] = {
    "invited": {None, "invited", "revoked", "left"},
    "approved": {None, "invited", "revoked", "left", "approved"},
    "renewed": {"approved", "renewed"},
    "revoked": {"invited", "approved", "renewed"},
    "left": {"approved", "renewed"},
}
"""What may come before what, in the life of a site."""


def members(case: Case) -> Iterator[Problem]:
    """20: sites came and went in order, with the signing keys that they themselves name."""
    last: dict[str, str] = {}
    keys: dict[str, str] = {}
    for index, entry in case.history.members:
        where = f"entry {index}"
        if last.get(entry.site) not in _AFTER[entry.act]:
            before = last.get(entry.site, "nothing")
            was = "left" if entry.act == "left" else f"was {entry.act}"
            yield failed(where, f"Site {entry.site} {was} after {before}.")
        if entry.act == "approved" and entry.signing_key is None:
            yield failed(where, f"Site {entry.site} was approved without a signing key.")
        if entry.act in {"revoked", "left"}:
            keys.pop(entry.site, None)  # a new invitation brings new keys
        elif entry.signing_key is not None:
            if keys.setdefault(entry.site, entry.signing_key) != entry.signing_key:
                yield failed(
                    where, f"Site {entry.site} has another signing key, without a new approval."
                )
            keys[entry.site] = entry.signing_key
        last[entry.site] = entry.act
    for site, key in case.keys.items():
        told = keys.get(site)
        if told != key:
            what = (
                f"The signing key that the log gives {site} is not the one the site itself names."
            )
            yield failed(f"site {site}", what)
        else:
            yield said(
                f"site {site}", "Its signing key in the log is the one that it names itself."
            )
    untold = sorted(keys.keys() - case.keys.keys())
    if untold:
        what = (
            f"Signing keys of {', '.join(untold)} were taken from the log: give --witness with what "
            "each site says of its own key, or --seen."
        )
        yield said("", what)


def consents(case: Case) -> Iterator[Problem]:
    """21: every consent and withdrawal was signed with the site's own key."""
    count = 0
    for given in case.history.consents:
        where, entry = f"entry {given.index}", given.entry
        act = "consent" if entry.act == "given" else "withdrawal"
        if given.record is None:
            yield failed(where, f"It holds no {act}.")
            continue
        key = case.history.keys_at(given.index).get(entry.site)
        if key is None:
            yield failed(where, f"Site {entry.site} was no member when its {act} was written down.")
            continue
        said_by = given.record
        if (said_by.study, said_by.site) != (entry.study, entry.site):
            yield failed(where, f"The {act} is of another site or on another study.")
            continue
        try:
            check_record(said_by, public_key_from_hex(case.keys.get(entry.site, key)))
        except StillroomError:
            yield failed(where, f"Site {entry.site} did not sign this {act}.")
            continue
        if (entry.act == "given") != isinstance(said_by, Consent):
            yield failed(where, "The entry says the opposite of the record in it.")
        count += 1
    yield said("", f"{count} consents and withdrawals carry their site's signature.")


def studies(case: Case) -> Iterator[Problem]:
    """22: every study that ran was signed by an operator of the consortium."""
    for index, entry in case.history.studies:
        where = f"entry {index}"
        if entry.act != "started":
            continue
        try:
            signature = StudySignature.parse(entry.signature.encode("utf-8"))
            check_signature(entry.study, signature, case.consortium.operator_keys)
        except StillroomError as error:
            yield failed(
                where, f"Study {entry.name} ran without an operator's signature. {error.what}"
            )
            continue
        who = case.consortium.operators[signature.key_id].name
        yield said(where, f"Study {entry.name} was signed by operator {who}.")


def places(case: Case) -> Iterator[Problem]:
    """23: every entry belongs to something that came before it."""
    for index, why in case.history.strays:
        yield failed(f"entry {index}", f"It {why}.")


def agreed(case: Case) -> Iterator[Problem]:
    """32: an update counts only from a member that had consented to this study by then."""
    for run in case.runs():
        for stage in run.stages.values():
            for turn in stage.rounds.values():
                for index, update in turn.updates:
                    if update.status == "admitted":
                        found = standing_at(case, index, update.site, update.study, update.time)
                        if found != "given":
                            what = f"An update of {update.site} was admitted: {found}."
                            yield failed(f"entry {index}", what)


def standing_at(case: Case, index: int, site: str, study: str, time: str) -> str:
    """What a site had agreed to when entry ``index`` was written: ``given``, or why not."""
    key = case.history.keys_at(index).get(site)
    if key is None:
        return "it was no member"
    record = None
    for given in case.history.consents:
        if given.index >= index:
            break
        if (given.entry.site, given.entry.study) == (site, study) and given.record is not None:
            record = given.record
    if record is None:
        return "no consent"
    found = _meaning(record, study, site, case.keys.get(site, key))
    if found == "given" and isinstance(record, Consent):
        moment = datetime.fromisoformat(time).timestamp()
        if moment < record.given_at - CLOCK_SKEW_S:
            found = "early"
        elif moment >= record.expires_at:
            found = "expired"
    return "given" if found == "given" else f"consent {found}"


@lru_cache(maxsize=4096)
def _meaning(record: Record, study: str, site: str, key: str) -> str:
    """What a record allows at the moment it was signed: a signature is verified once, not per update."""
    return standing(record, study=study, site=site, key=public_key_from_hex(key), now=record.at)


def refusals(case: Case) -> Iterator[Problem]:
    """38: what was refused, with its reason."""
    counted: dict[str, int] = {}
    for run in case.runs():
        for stage in run.stages.values():
            for turn in stage.rounds.values():
                for index, update in turn.updates:
                    if update.status == "refused":
                        code = update.code or "no reason"
                        counted[f"{update.site} {code}"] = (
                            counted.get(f"{update.site} {code}", 0) + 1
                        )
                    if update.status in {"refused", "failed"} and update.code is None:
                        what = f"An answer of {update.site} was {update.status} without a reason."
                        yield warned(f"entry {index}", what)
    edge = sum(sum(entry.reasons.values()) for _, entry in case.history.refused)
    if counted:
        listed = "; ".join(f"{who}: {count}" for who, count in sorted(counted.items()))
        yield said("", f"Updates refused: {listed}.")
    yield said("", f"{edge} connections or requests were refused at the server's edge.")
