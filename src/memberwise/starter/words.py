"""What column names say: the words by which people call members, items, times and outcomes."""

from __future__ import annotations

import re


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEMBER = {
    **dict.fromkeys(("user", "member", "customer", "household", "visitor", "subscriber", "shopper"), 3.0),
    **dict.fromkeys(("viewer", "reader", "listener", "player", "reviewer", "buyer", "consumer"), 3.0),
    **dict.fromkeys(("person", "client", "account", "patient", "student", "profile", "uid"), 2.0),
    **dict.fromkeys(("cookie", "device", "candidate", "session"), 1.0),
}
"""Words for the member, with how much each says."""

ITEM = {
    **dict.fromkeys(("item", "product", "movie", "film", "article", "ad", "advert", "creative"), 3.0),
    **dict.fromkeys(("job", "song", "track", "video", "book", "sku", "asin", "isbn", "post", "news"), 3.0),
    **dict.fromkeys(("listing", "hotel", "property", "restaurant", "business", "recipe", "game"), 3.0),
    **dict.fromkeys(("document", "doc", "pin", "offer", "course", "story", "photo", "image"), 2.5),
    **dict.fromkeys(("app", "content", "coupon", "notification", "show", "episode", "gene"), 2.0),
    **dict.fromkeys(("campaign", "artist", "album", "merchant", "page", "url"), 1.0),
}
"""Words for the item, with how much each says."""

REQUEST = {
    **dict.fromkeys(("request", "impression", "slate", "auction", "feed", "search", "query"), 3.0),
    **dict.fromkeys(("basket", "order", "transaction", "visit", "page", "session", "cart"), 2.0),
}
"""Words for what groups rows shown together."""

ID = _set("id key uuid guid code no number num hash unique anon index idx fk pk")
TIME = {
    **dict.fromkeys(("timestamp", "time", "ts", "datetime", "event"), 3.0),
    **dict.fromkeys(("date", "day", "at", "when", "logged", "occurred", "created", "unixtime"), 2.0),
    **dict.fromkeys(("review", "rated", "viewed", "clicked", "seen", "served", "unix"), 1.0),
}
NOT_TIME = _set(
    "birth born birthday release released publish published expire expiry expires registration signup joined "
    "end until valid start updated modified duration spent watch dwell zone hour weekday month week"
)

BINARY_OUTCOME = _set(
    "label target click like purchase buy bought convert conversion install apply application watch "
    "complete completed finish save share follow subscribe open respond response engage engagement order "
    "book booking hire skip favorite favourite bookmark comment accept view positive outcome interact "
    "repost retweet reply reaction cart play listen rent redeem churn feedback y"
)
GRADED_OUTCOME = _set("rating rate star score grade overall vote")
AMOUNT_OUTCOME = _set(
    "dwell watch duration amount quantity qty revenue sale spend spent paid playtime progress elapsed "
    "payment payout gmv margin"
)
SHOWN = _set("position rank slot place propensity")
"""Where the item stood: the ranker decides it, so it is not known when the ranker is asked."""

TOTALS = _set(
    "click view impression purchase order sale sold rating review vote play watch like share download "
    "install interaction event ctr cvr popularity conversion engagement"
)
COUNTED = _set("n num count total sum avg average mean rate ratio share popularity ctr cvr cnt nb number")

_STEMS = (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))
_EXTRA = _set("original external internal global encrypted is was has the did")


def tokens(name: str) -> list[str]:
    """The words of a column name in lower case: ``movieId``, ``movie_id`` and ``MOVIE-ID`` are the same.

    Examples
    --------
    >>> tokens("movieId"), tokens("USER_IDS"), tokens("visitorid")
    (['movie', 'id'], ['user', 'ids'], ['visitor', 'id'])
    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    words: list[str] = []
    for part in (p.lower() for p in parts):
        if len(part) > 4 and part.endswith("id") and (part[:-2] in MEMBER or part[:-2] in ITEM):
            words += [part[:-2], "id"]
        else:
            words.append(part)
    return words


def stems(name: str) -> set[str]:
    """The words of a name with and without their endings: ``clicked`` and ``clicks`` hold ``click``."""
    out: set[str] = set()
    for word in tokens(name):
        out.add(word)
        for ending, instead in _STEMS:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                stem = word[: len(word) - len(ending)]
                out |= {stem + instead, stem + "e"}
    return out


def is_id(name: str) -> bool:
    """Whether a name ends like an id."""
    words = tokens(name)
    return bool(words) and (words[-1] in ID or words[-1] in ("ids", "uid"))


def called(name: str, words: dict[str, float]) -> float:
    """How strongly a name calls an id by one of the words; 0 if it names something about it.

    Examples
    --------
    >>> called("product_id", ITEM) > called("product", ITEM) > called("product_category", ITEM)
    True
    """
    parts = [t for t in tokens(name) if t not in _EXTRA]
    hits = [words[_singular(t, words)] for t in parts if _singular(t, words) in words]
    others = [t for t in parts if _singular(t, words) not in words and t not in ID and not t.isdigit()]
    if not hits or others:
        return 0.0
    return max(hits) + (0.5 if is_id(name) else 0.0)


def _singular(word: str, words: dict[str, float]) -> str:
    return word[:-1] if word.endswith("s") and word[:-1] in words else word


def plain_name(name: str) -> str:
    """A column name as a name in the project file: letters, digits and underscores.

    Examples
    --------
    >>> plain_name("is clicked?")
    'is_clicked'
    """
    cleaned = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    return cleaned if re.match(r"[A-Za-z_]", cleaned) else f"t_{cleaned}"
