"""The application in this process: what each route answers, and how it says no."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from fastapi.testclient import TestClient

from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.app import Server, create_app
from memberwise.serving.settings import ServingSettings

CONTEXT = {"num": 0.5, "cat": "u", "tags": ["g1", "g2"]}
ITEMS = [f"i{k}" for k in range(15)]


@pytest.fixture(scope="module")
def client(fitted: Project) -> Iterator[TestClient]:
    with TestClient(create_app(Server(fitted, settings(clock="log", max_candidates=500)))) as client:
        yield client


def settings(**values: Any) -> ServingSettings:
    return ServingSettings(**{"engine": "torch"} | values)


def ask(**values: Any) -> dict[str, Any]:
    return {"member": "m1", "candidates": ITEMS, "context": CONTEXT} | values


def test_answers_what_the_recommender_says(client: TestClient, fitted: Project) -> None:
    answer = client.post("/rank", json=ask(k=15)).json()
    rec = Recommender.load(fitted.bundles)
    ranked = rec.rank("m1", ITEMS, 15, context=CONTEXT)
    assert [i["item"] for i in answer["items"]] == ranked["item"].to_list()
    for item, row in zip(answer["items"], ranked.iter_rows(named=True), strict=True):
        assert item["utility"] == pytest.approx(row["score"], abs=2e-6)
        assert item["probabilities"] == pytest.approx({t: row[t] for t in ("y", "z")}, abs=2e-6)
    assert answer["version"] == "000001"


def test_weights_decide_the_order(client: TestClient) -> None:
    by_z = client.post("/rank", json=ask(utility={"z": 2.0}, k=15)).json()["items"]
    z = [i["probabilities"]["z"] for i in by_z]
    assert z == sorted(z, reverse=True)
    assert [i["utility"] for i in by_z] == pytest.approx([2 * p for p in z], rel=1e-5)


def test_only_the_tasks_asked_for_come_back(client: TestClient) -> None:
    items = client.post("/rank", json=ask(tasks=["z"], k=3)).json()["items"]
    assert [set(i["probabilities"]) for i in items] == [{"z"}] * 3


def test_shares_sum_to_the_logit(client: TestClient) -> None:
    for item in client.post("/rank", json=ask(explain=True)).json()["items"]:
        for task, p in item["probabilities"].items():
            logit = sum(share[task] for share in item["shares"].values())
            assert 1 / (1 + np.exp(-logit)) == pytest.approx(p, abs=1e-6)


def test_retrieves_where_no_candidates_are_named(client: TestClient) -> None:
    items = client.post("/rank", json=ask(candidates=None, k=15)).json()["items"]
    assert sorted(i["item"] for i in items) == sorted(ITEMS)


def test_whom_nobody_knows_is_ranked_too(client: TestClient) -> None:
    answer = client.post("/rank", json=ask(member="stranger", candidates=["i1", "news", "../../etc/passwd"]))
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 3


@pytest.mark.parametrize(
    ("number", "status"), [("NaN", 400), ("Infinity", 400), ("-Infinity", 400), ("1e999", 422)]
)
def test_what_is_no_json_number_is_told(client: TestClient, number: str, status: int) -> None:
    body = msgspec.json.encode(ask()).replace(b"0.5", number.encode())
    assert client.post("/rank", content=body).status_code == status


def test_numbers_beyond_float_count_as_missing(client: TestClient) -> None:
    answers = [
        client.post("/rank", json=ask(context=CONTEXT | {"num": number})).json()["items"]
        for number in (None, 1e300, -1e300, "no number")
    ]
    assert answers[0] == answers[1] == answers[2] == answers[3]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b"[1, 2]", 422, "object"),
        (b"[" * 100_000, 422, "object"),
        (b'{"member": "m1", "context": {"num": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", 400, "nested"),
        (b'{"member": "m1", "candidates": []}', 422, "no candidates"),
        (b'{"member": null}', 422, "member"),
        (b'{"member": "m1", "k": 0}', 422, "k"),
        (b'{"member": "m1", "tasks": ["nope"]}', 422, "use some of: y, z"),
        (b'{"member": "m1", "candidates": ["i1"]}', 422, "tags"),
        (b'{"member": "", "candidates": ["i1"], "context": {"num": 1, "cat": "u", "tags": []}}', 422, "id"),
        (b'{"member": "m1", "items": ["i1"]}', 422, "unknown field `items`"),
        (b'{"member": "m1", "candidate": ["i1"]}', 422, "did you mean 'candidates'? Known fields: member,"),
        (msgspec.json.encode(ask(candidates=["i1"] * 501)), 422, "at most 500"),
        (msgspec.json.encode(ask(at="2001-01-01T00:00:00Z")), 422, "older"),
        (msgspec.json.encode(ask(context=CONTEXT | {"num": [1, 2]})), 422, "2 values"),
        (msgspec.json.encode(ask(context=CONTEXT | {"num": {"a": 1}})), 422, ""),
        (msgspec.json.encode(ask(context=CONTEXT | {"tags": [["g1"]] * 15})), 200, ""),
    ],
)
def test_says_what_is_wrong(client: TestClient, body: bytes, status: int, words: str) -> None:
    answer = client.post("/rank", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text


def test_a_hundred_thousand_candidates(client: TestClient, fitted: Project) -> None:
    """Refused by default and named; answered by a server that was told to take them."""
    many = ask(candidates=[f"i{k % 40}" for k in range(100_000)])
    answer = client.post("/rank", json=many)
    assert answer.status_code == 422
    assert "100,000 candidates, at most 500" in answer.json()["error"]
    with TestClient(create_app(Server(fitted, settings(clock="log", max_candidates=100_000)))) as large:
        assert len(large.post("/rank", json=many).json()["items"]) == 10


def test_every_no_has_the_same_shape(client: TestClient) -> None:
    """What is wrong, where, and what to do: for the body, the method, the path and the query."""
    asked = [
        ("POST", "/rank", ask(candidats=[]), 422, "candidats", "did you mean 'candidates'"),
        ("POST", "/rank", ask(k="x"), 422, "k", "/docs"),
        ("POST", "/rank", ask(utility={"y": "much"}), 422, "utility", "/docs"),
        ("POST", "/rank", ask(candidates=["i1", [2]]), 422, "candidates[1]", "/docs"),
        ("GET", "/rank", None, 405, "/rank", "use POST"),
        ("DELETE", "/events", None, 405, "/events", "use POST"),
        ("POST", "/health", None, 405, "/health", "use GET"),
        ("GET", "/ranks", None, 404, "/ranks", "/docs"),
        ("GET", "/items?" + "&".join(["id=i"] * 1001), None, 422, "query.id", "/docs"),
    ]
    for method, path, body, status, where, fix in asked:
        answer = client.request(method, path, json=body)
        assert answer.status_code == status, (method, path, answer.text)
        said = answer.json()
        assert set(said) == {"error", "where", "fix"}, (method, path)
        assert where in said["where"]
        assert fix in said["fix"]
        if status == 405:
            assert answer.headers["allow"] in said["fix"]


def test_too_large_a_body_is_refused_unread(fitted: Project) -> None:
    with TestClient(create_app(Server(fitted, settings(max_body=1000)))) as small:
        answer = small.post("/rank", content=b" " * 2000)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


def test_a_token_is_asked_for(fitted: Project) -> None:
    with TestClient(create_app(Server(fitted, settings(token="s3cret", clock="log")))) as client:
        assert client.post("/rank", json=ask()).status_code == 401
        for wrong in ("s3cre", "s3crets", "Bearer", "", "\xe9"):
            header = {"Authorization": f"Bearer {wrong}".encode("latin-1")}
            assert client.post("/rank", json=ask(), headers=header).status_code == 401
            assert client.delete("/members/m1", headers=header).status_code == 401
        assert client.get("/metrics").status_code == 401
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        header = {"Authorization": "Bearer s3cret"}
        assert client.post("/rank", json=ask(), headers=header).status_code == 200


def test_measures_and_versions(client: TestClient) -> None:
    client.post("/rank", json=ask())
    text = client.get("/metrics").text
    assert 'memberwise_requests_total{route="/rank",status="200"}' in text
    assert "memberwise_version 1.0" in text
    assert "memberwise_score_seconds_bucket" in text
    about = client.get("/version").json()
    assert (about["version"], about["tasks"]) == ("000001", ["y", "z"])
    assert client.get("/ready").json()["ready"] is True


def test_events_are_on_disk_and_bad_ones_are_not(project: Project) -> None:
    event = {"m": "m1", "i": "i2", "cat": "u", "tags": ["g1"], "num": 1.0, "y": 1}
    with TestClient(create_app(Server(project, settings()))) as client:
        assert client.post("/events", json=event).json() == {"accepted": 1}
        assert client.post("/events", json=[event, event | {"t": "2024-05-06T07:08:09.5+02:00"}]).json() == {
            "accepted": 2
        }
        lines = b"\n".join(msgspec.json.encode(event | {"y": k}) for k in (0, 1))
        assert client.post("/events", content=lines).json() == {"accepted": 2}
        bad = [
            ([event, event | {"m": None}], "event 1"),
            (event | {"t": "soon"}, "time"),
            (event | {"t": "2999-01-01"}, "future"),
            (event | {"y": [1, 2]}, ""),
            ([], "no events"),
            ("text", ""),
        ]
        for body, words in bad:
            answer = client.post("/events", json=body)
            assert answer.status_code == 422, (body, answer.text)
            assert words in answer.text
    (segment,) = (project.output / "inbox").iterdir()
    found = [msgspec.json.decode(line) for line in segment.read_bytes().splitlines()]
    assert [len(f) if isinstance(f, list) else 1 for f in found] == [1, 2, 2]
    assert found[1][1]["t"] == "2024-05-06T05:08:09.500000Z"


def test_a_key_that_nothing_reads_is_named_with_what_may_be_meant(project: Project) -> None:
    event = {"m": "m1", "i": "i2", "cat": "u", "tags": ["g1"], "num": 1.0, "y": 1}
    misspelt = {("mum" if k == "num" else k): v for k, v in event.items()} | {"trace": 7}
    with TestClient(create_app(Server(project, settings()))) as client:
        answer = client.post("/events", json=[event, misspelt]).json()
        assert answer == {
            "accepted": 2,
            "unread": {"mum": "did you mean 'num'?", "trace": "not read by this project"},
        }
        # What is there is not what was meant.
        both = client.post("/events", json=event | {"mum": 2.0}).json()
        assert both["unread"] == {"mum": "not read by this project"}
        bad = client.post("/events", json=[event, {**misspelt, "m": None, "yy": 1, "y": None}])
    assert bad.status_code == 422
    assert bad.json()["where"] == "event 1"
    fix = bad.json()["fix"]
    assert "It has no 'm', 'num', 'y'" in fix
    assert "'mum': did you mean 'num'?" in fix


def test_on_the_clock_of_a_log_an_event_says_its_own_time(project: Project) -> None:
    """The wall clock would carry a log of the past into the present, and no later event would be new."""
    event = {"m": "m1", "i": "i2", "cat": "u", "tags": ["g1"], "num": 1.0, "y": 1}
    with TestClient(create_app(Server(project, settings(clock="log")))) as client:
        answer = client.post("/events", json=event)
        assert answer.status_code == 422
        assert "give it the column 't'" in answer.text
        assert client.post("/events", json=event | {"t": "2024-05-06"}).json() == {"accepted": 1}


def test_a_forgotten_member_is_somebody_new(project: Project) -> None:
    event = {"m": "m1", "i": "i2", "cat": "u", "tags": ["g1"], "num": 1.0, "y": 1, "t": "2024-05-06"}
    options = settings(clock="log")
    with TestClient(create_app(Server(project, options))) as client:
        before = client.post("/rank", json=ask()).json()["items"]
        stranger = client.post("/rank", json=ask(member="stranger")).json()["items"]
        assert client.delete("/members/m1").status_code == 202
        assert client.post("/rank", json=ask()).json()["items"] == stranger != before
        other = event | {"m": "m2"}
        assert client.post("/events", json=[event, other, event]).json() == {
            "accepted": 1,
            "left_out": {"the member asked to be forgotten": 2},
        }
        (segment,) = project.output.glob("inbox/*")
        assert msgspec.json.decode(segment.read_bytes())["m"] == "m2"
        segment.unlink()
    assert not list((project.output).glob("inbox/*"))
    with TestClient(create_app(Server(project, options))) as again:  # a restart remembers
        assert again.post("/rank", json=ask()).json()["items"] == stranger
    assert "m1" not in (project.output / "forgotten.jsonl").read_text()


def test_forgetting_says_whether_there_was_anything_to_forget(project: Project) -> None:
    """A mistyped id is blocked, as everybody is who asks; but nobody is told that a member was forgotten."""
    event = {"m": 'sent "ö', "i": "i2", "cat": "u", "tags": ["g1"], "num": 1.0, "y": 1, "t": "2024-05-06"}
    server = Server(project, settings(clock="log"))

    def forget(client: TestClient, member: str) -> tuple[bool | None, bool, str]:
        answer = client.delete(f"/members/{member}")
        assert answer.status_code == 202
        body = answer.json()
        assert set(body) == {"known", "listed", "said", "blocked"}
        assert body["blocked"]
        return body["known"], body["listed"], body["said"]

    with TestClient(create_app(server)) as client:
        assert client.post("/events", json=event).json() == {"accepted": 1}
        known, listed, said = forget(client, "m1")
        assert (known, listed) == (True, False)
        assert "memberwise forget PROJECT" in said
        assert forget(client, "m1")[:2] == (True, True)
        assert forget(client, "sent %22%C3%B6")[:2] == (True, False)
        known, listed, said = forget(client, "m1x")
        assert (known, listed) == (False, False)
        assert "is it mistyped?" in said
        assert "--undo" in said
        known, listed, said = forget(client, "m1x")
        assert (known, listed) == (False, True)
        assert "asked for before" in said
        left = {"accepted": 0, "left_out": {"the member asked to be forgotten": 1}}
        assert client.post("/events", json=event | {"m": "m1x"}).json() == left
        server.keeper.served = None
        known, _, said = forget(client, "m2")
        assert known is None
        assert "if anything" in said
    assert "m2" in server.forgotten


def test_logs_name_nobody(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "memberwise.serving"):
        client.post("/rank", json=ask(member="alice-the-member"))
        client.delete("/members/alice%2F..%2Fthe-member")
    lines = [getattr(r, "fields", {}) for r in caplog.records]
    assert {line["route"] for line in lines} >= {"/rank"}
    assert "alice" not in str(lines)


def test_the_document_describes_the_raw_routes(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/rank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/RankRequest"}
    assert {"member", "candidates", "k", "explore"} <= set(
        document["components"]["schemas"]["RankRequest"]["properties"]
    )


def test_the_clock_never_goes_back(fitted: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from memberwise.serving import served

    now = [1_900_000_000_000_000_000]
    monkeypatch.setattr(served.time, "time_ns", lambda: now[0])
    loaded = served.Served(Recommender.load(fitted.bundles), settings())
    first = loaded.moment()
    now[0] -= 3600 * 10**9
    assert loaded.moment() == first
    now[0] = 0
    assert loaded.moment() >= (loaded.rec.pipeline.last_event or 0) + 1
