"""What goes over the wire: the requests and answers of the server, as msgspec structs."""

from __future__ import annotations

import difflib
import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from memberwise.errors import MemberwiseError

Id = str | int
K = Annotated[int, Meta(ge=1, le=1_000_000)]


class RankRequest(Struct, forbid_unknown_fields=True):
    """Order candidates for a member."""

    member: Id
    candidates: list[Id] | None = None
    """None: the server retrieves some itself."""
    context: dict[str, Any] = {}
    """Event columns that features read: one value, or a list with one per candidate."""
    k: K = 10
    tasks: list[str] | None = None
    """Whose probabilities to return; default: all."""
    utility: dict[str, float] | None = None
    """Weight of each task in the order; default: the project's."""
    explore: bool = False
    explain: bool = False
    """Also return each component's share of the logits, and how near the graph sees the items."""
    at: datetime | None = None
    """Moment of the request; default: now."""


class RankedItem(Struct, omit_defaults=True):
    """One item of an answer."""

    item: str
    utility: float
    probabilities: dict[str, float]
    propensity: float | None = None
    """Probability that this item stands at this place; only where the server explored."""
    shares: dict[str, dict[str, float]] | None = None
    """Logit by task that each component adds."""
    similarity: float | None = None
    """With the member's vector, where the graph knows both; the ranker reads the same vectors."""


class RankResponse(Struct, omit_defaults=True):
    """Items, best first."""

    version: str
    as_of: str | None
    items: list[RankedItem]
    retrieved: str | None = None
    """Only where the request named no candidates, how they were found: ``graph`` (by the member's vector,
    without what the member has chosen) or ``popular`` (most rows in train)."""


class EventsResponse(Struct, omit_defaults=True):
    """What became of events: those accepted are on disk."""

    accepted: int
    left_out: dict[str, int] = {}
    """How many of the others were not stored, by reason."""
    unread: dict[str, str] = {}
    """Keys that nothing of the project reads, each with what may have been meant."""


class ForgetResponse(Struct):
    """What a request to forget a member has done, and whether there is anything to forget."""

    known: bool | None
    """Whether the version in service, or an event that came through the server, knows the id; None where
    that cannot be told now, since no version is in service or it is too busy."""
    listed: bool
    """Whether the id was on the list of the forgotten already."""
    said: str
    """The same in a sentence, with what is left to do."""
    blocked: bool = True
    """From now on: the id is ranked as somebody new, and its events are not stored."""

    @classmethod
    def of(cls, known: bool | None, listed: bool) -> ForgetResponse:
        """Say it."""
        if known is not False:
            there = "what" if known else "what, if anything,"
            rest = f"{there} versions and files know of it is removed by: memberwise forget PROJECT"
        elif listed:
            rest = "it was asked for before, and the version in service knows nothing of it"
        else:
            rest = (
                "neither the version in service nor any event sent to this server knows it: is it mistyped? "
                "To lift the block: memberwise forget PROJECT --member ID --undo"
            )
        return cls(known, listed, f"ranked as somebody new from now on; {rest}")


class Problem(Struct, omit_defaults=True):
    """What is wrong, where, and what to do about it."""

    error: str
    where: str | None = None
    fix: str | None = None

    @classmethod
    def of(cls, error: MemberwiseError) -> Problem:
        """A message for people as an answer."""
        return cls(error.what, error.where, error.fix)


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that gets an answer other than 200.

    Parameters
    ----------
    status
        Of HTTP.
    problem
        Body of the answer.
    retry_after
        Seconds after which to try again.
    """

    def __init__(self, status: int, problem: Problem, retry_after: int | None = None) -> None:
        super().__init__(problem.error)
        self.status, self.problem, self.retry_after = status, problem, retry_after


encode = msgspec.json.Encoder().encode
_RANK = msgspec.json.Decoder(RankRequest)
_EVENTS = msgspec.json.Decoder(list[dict[str, Any]] | dict[str, Any])


def decode_rank(body: bytes) -> RankRequest:
    """A request from its JSON.

    Raises
    ------
    Refused
        400 if it is no JSON, 422 if it is another thing.
    """
    ask: RankRequest = _decode(_RANK, body)
    return ask


def decode_events(body: bytes) -> list[dict[str, Any]]:
    """Events from JSON: one object, a list of them, or one object a line.

    Raises
    ------
    Refused
        400 if it is no JSON, 422 if it is another thing.
    """
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > 1 and body.lstrip()[:1] == b"{":
        try:
            found = [_decode(_EVENTS, line) for line in lines]
        except Refused:  # one object over several lines
            found = [_decode(_EVENTS, body)]
    else:
        found = [_decode(_EVENTS, body)]
    return [event for part in found for event in (part if isinstance(part, list) else [part])]


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Refused(422, _misfit(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, Problem(f"the body is not JSON: {error}")) from error
    except RecursionError as error:
        raise Refused(400, Problem("the body is nested too deeply")) from error


def _misfit(said: str) -> Problem:
    """What msgspec says of a value in the wrong place, with the place apart and what would fit."""
    what, _, place = said.partition(" - at `")
    where = place.rstrip("`").removeprefix("$").removeprefix(".") or None
    unknown = re.search(r"unknown field `(.*)`", what)
    if unknown is None:
        return Problem(what, where, "see /docs for what the request may hold")
    fields = RankRequest.__struct_fields__
    near = difflib.get_close_matches(unknown[1], fields, 1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return Problem(what, where or unknown[1], f"{guess}Known fields: {', '.join(fields)}")


def schemas() -> dict[str, Any]:
    """JSON Schemas of the messages, for the OpenAPI document."""
    types = [RankRequest, RankResponse, EventsResponse, ForgetResponse, Problem]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return components
