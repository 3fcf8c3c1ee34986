"""Lists: to their end whatever a page holds, each row once, counted; filters built and sent as the vendor wants."""

import json
from typing import Any

import pytest

import tasks.barometerit.tasks
from tests.tasks.barometerit.conftest import Tenant
from tests.tasks.bench import Bench, answer
from tests.worker.raw_server import Conversation, raw_server
from worker.errors import BadCommand, ContractBroken, Unavailable
from worker.rest import Request, Response

LIST = "entity.list"


def bns(result: dict[str, Any]) -> list[str]:
    """Give the BNs of a result's rows."""
    return [row["bn"] for row in result["rows"]]


async def test_a_list_is_read_to_its_end(tenant: Tenant) -> None:
    """All pages, each entity once, in our names."""
    seeded = tenant.seed("entities", 250, type="SYS")
    tenant.seed("entities", 3, type="ORG")

    result = await tenant.do(LIST, {"type": "SYS", "page_size": 100, "destination": "out/systems.jsonl"})

    assert (result["rows"], result["complete"]) == (250, True)
    rows = [json.loads(line) for line in tenant.file("systems.jsonl").read_text().splitlines()]
    assert [row["bn"] for row in rows] == seeded
    assert rows[0].keys() >= {"entity_discriminator", "last_update_date", "content_status"}
    assert tenant.operations() == ["entity.list"] * 3


async def test_a_vendor_that_gives_less_than_asked_is_asked_on(tenant: Tenant) -> None:
    """A page shorter than asked may be the vendor's limit, with filters and without."""
    tenant.configure(page_max=7)
    seeded = tenant.seed("entities", 30, type="SYS")

    assert bns(await tenant.do(LIST, {"type": "SYS"})) == seeded
    assert bns(await tenant.do(LIST, {"type": "SYS", "created_from": "2020-01-01"})) == seeded


@pytest.mark.parametrize("spelling", ["unfilterdCount", "unfilteredCount"])
async def test_both_spellings_of_the_count_are_understood(tenant: Tenant, spelling: str) -> None:
    """The last page is known by the count: no request more than needed."""
    tenant.configure(unfiltered_spelling=spelling)
    tenant.seed("entities", 90, type="SYS")

    result = await tenant.do(LIST, {"type": "SYS", "page_size": 50})

    assert (result["count"], result["complete"]) == (90, True)
    assert len(tenant.operations()) == 2


async def test_a_limit_takes_no_more_than_it_needs(tenant: Tenant) -> None:
    """Asked for one row more than the limit, which tells that there are more."""
    tenant.seed("entities", 50, type="SYS")

    result = await tenant.do(LIST, {"type": "SYS", "limit": 3})

    assert (result["count"], result["complete"]) == (3, False)
    assert tenant.sandbox.journal.entries()[-1].query.endswith("count=4")


async def test_filters_are_built_on_the_way(tenant: Tenant) -> None:
    """`filter` and `operable_filter` take what they are built from, or the string that was built."""
    tenant.seed("entities", 4, type="SYS")
    wanted = tenant.put(entityDiscriminator="SYS", name="Claims & more, 100 %+ \u6771\u4eac")
    spec = {"search_string": "& more, 100 %+ \u6771"}

    built = await tenant.do("filter.build", spec)
    operable = await tenant.do("operable_filter.build", spec)

    assert bns(await tenant.do(LIST, {"type": "SYS", "filter": spec})) == [wanted]
    assert bns(await tenant.do(LIST, {"type": "SYS", **built})) == [wanted]
    assert bns(await tenant.do(LIST, {"type": "SYS", **operable})) == [wanted]
    assert bns(await tenant.do(LIST, {"type": "SYS", "operable_filter": {**spec, "joining_operator": "OR"}})) == [
        wanted
    ]


async def test_filters_by_property_values(tenant: Tenant) -> None:
    """With the filter BNs and value BNs that `entity_properties.read` lists."""
    tenant.seed("entities", 2, type="SYS")
    properties = (await tenant.do("entity_properties.read", {"type": "SYS"}))["rows"]
    state = next(one for one in properties if one["name"] == "lifecycleState")
    planned = next(value for value in state["values"] if value["name"] == "Planned")
    made = await tenant.do(
        "entity.create", {"type": "SYS", "properties": {"name": "New", "lifecycle_state": "Planned"}}
    )

    any_of = {"params": [{state["filter_bn"]: [planned["bn"]]}]}
    compared = {"params": [{"key_bn": state["filter_bn"], "operator": "EQUALS", "value_bn": planned["bn"]}]}

    assert bns(await tenant.do(LIST, {"type": "SYS", "filter": any_of})) == [made["bn"]]
    assert bns(await tenant.do(LIST, {"type": "SYS", "operable_filter": compared})) == [made["bn"]]


async def test_what_belongs_to_one_entity_is_listed(tenant: Tenant) -> None:
    """Associations and proposals page by page, links and tags whole; rows to a destination if there is one."""
    system = tenant.put(
        entityDiscriminator="SYS", name="Billing", links=[{"name": "Wiki", "url": "https://example.com"}]
    )
    people = tenant.seed("entities", 25, type="PER")
    added = [{"target_bn": one, "relationship_type": "OWNER"} for one in people]
    await tenant.do("association.update", {"source_bn": system, "added_assocs": added})
    asked = {"source_bn": system, "target_entity_type": "PER", "page_size": 10}

    associations = await tenant.do("association.list", {**asked, "destination": "out/people.csv"})
    links = await tenant.do("entity.links", {"bn": system, "destination": "out/{bn}.jsonl"})

    assert associations["rows"] == 25
    assert tenant.file("people.csv").read_text().count("OWNER") == 25
    assert links["destination"] == f"out/{system}.jsonl"


@pytest.mark.parametrize(
    "destination", ["../out.jsonl", "/etc/out.csv", "elsewhere/x.csv", "ftp://host/x.csv", "out/{x}.csv"]
)
async def test_a_destination_that_cannot_be_is_refused_before_anything_is_asked(
    tenant: Tenant, destination: str
) -> None:
    """Nothing is sent for a list that has nowhere to go, not even for its filter."""
    for type in (LIST, "fieldset.list", "entity_properties.read"):
        with pytest.raises(BadCommand, match="destination"):
            await tenant.do(type, {"type": "SYS", "destination": destination})
    with pytest.raises(BadCommand, match="destination"):
        await tenant.do(LIST, {"type": "SYS", "filter": {"search_string": "x"}, "destination": destination})

    assert tenant.operations() == []


# Vendors as nobody documents them


def page(rows: list[str], **counts: Any) -> Response:
    """Make a page of entities."""
    entities = [{"bn": bn, "name": bn, "entityDiscriminator": "SYS"} for bn in rows]
    return answer({"first": 0, "count": len(rows), "entities": entities, **counts})


@pytest.fixture
def bench() -> Bench:
    """Give a bench on a made-up wire."""
    return Bench(tasks.barometerit.tasks)


async def test_a_count_that_more_than_came_is_told(bench: Bench) -> None:
    """What the vendor counts and does not list makes the list incomplete, and says so."""
    bench.wire = lambda request: page(["A", "B"] if request.query["first"] == "0" else [], unfilterdCount=5)

    result = await bench.do(f"barometerit.{LIST}", {"type": "SYS"})

    assert (result["count"], result["complete"]) == (2, False)
    assert "counts 5 without filters and lists 2" in result["warnings"][0]


@pytest.mark.parametrize("told", [0, -1, 2, 4, True, None, "many", [5]])
async def test_a_count_that_is_too_small_ends_no_list(bench: Bench, told: Any) -> None:
    """Nor does one that is none: a full page is never taken for the last."""

    def app(request: Request) -> Response:
        first = int(str(request.query["first"]))
        return page(list("ABCDE")[first : first + 2], unfilterdCount=told)

    bench.wire = app
    assert bns(await bench.do(f"barometerit.{LIST}", {"type": "SYS", "page_size": 2})) == list("ABCDE")


@pytest.mark.parametrize("told", ["7", 7.0])
async def test_a_count_may_come_as_a_text(bench: Bench, told: Any) -> None:
    """It is held against what came all the same."""
    bench.wire = lambda request: page(["A", "B"] if request.query["first"] == "0" else [], unfilterdCount=told)
    assert not (await bench.do(f"barometerit.{LIST}", {"type": "SYS"}))["complete"]


@pytest.mark.parametrize("again", ["2", "4"])
async def test_a_page_that_comes_again_leaves_a_filtered_list_incomplete(bench: Bench, again: str) -> None:
    """With filters no count tells what is missing, so a page from before in the place of the next one does."""

    def app(request: Request) -> Response:
        first = 0 if request.query["first"] == again else int(str(request.query["first"]))
        return page(list("ABCDEF")[first : first + 2], unfilterdCount=900)

    bench.wire = app
    result = await bench.do(f"barometerit.{LIST}", {"type": "SYS", "created_from": "2020-01-01", "page_size": 2})
    assert (result["count"], result["complete"]) == (int(again), False)
    assert "came before" in result["warnings"][0]


async def test_a_vendor_that_knows_no_pages_gives_all_at_once(bench: Bench) -> None:
    """The same answer to every page, of another size than asked, is the whole list."""
    bench.wire = lambda request: answer([{"bn": bn} for bn in "ABC"])

    result = await bench.do("barometerit.proposal.list", {"entity_type": "SYS", "page_size": 2})

    assert (bns(result), result["complete"]) == (["A", "B", "C"], True)


async def test_one_person_may_be_associated_twice(bench: Bench) -> None:
    """As owner and as user: the same BN in two rows is two rows."""
    rows = [{"bn": "A", "relationshipType": kind} for kind in ("OWNER", "USER")]
    bench.wire = lambda request: answer(rows if request.query["first"] == "0" else [])

    result = await bench.do("barometerit.association.list", {"source_bn": "B", "target_entity_type": "PER"})

    assert [row["relationship_type"] for row in result["rows"]] == ["OWNER", "USER"]


async def test_a_filter_goes_into_the_url_byte_for_byte(tenant: Tenant) -> None:
    """As the vendor encoded it, a space as a plus among it; plain JSON is encoded."""
    built = "%7B%22searchString%22%3A%22a+b%2Bc*%22%7D"

    async def empty(said: Conversation) -> None:
        await said.answer("200 OK", b'{"entities": []}')

    async with raw_server(empty) as server:
        tenant.connect(base_url=server.url)
        await tenant.do(LIST, {"type": "SYS", "filter": built, "operable_filter": '{"searchString": "a+b é&"}'})

    assert f"&filter={built}&" in server.asked[0].target
    assert "&operableFilter=%7B%22searchString%22%3A%20%22a%2Bb%20%C3%A9%26%22%7D&" in server.asked[0].target


async def test_a_page_is_no_filter(bench: Bench) -> None:
    """What can't be a filter string is refused before a list is filtered by it."""
    bench.wire = lambda request: answer(b"<html>\n<body>Something went wrong</body></html>")
    with pytest.raises(ContractBroken, match="a filter is"):
        await bench.do("barometerit.filter.build", {"search_string": "x"})


async def test_rows_that_moved_between_pages_come_once(bench: Bench) -> None:
    """An entity that was made meanwhile pushes others onto the next page."""
    pages = {"0": ["A", "B"], "2": ["B", "C"], "4": []}
    bench.wire = lambda request: page(pages[str(request.query["first"])], unfilterdCount=3)

    result = await bench.do(f"barometerit.{LIST}", {"type": "SYS", "page_size": 2})

    assert bns(result) == ["A", "B", "C"]
    assert result["complete"]


async def test_a_vendor_that_gives_the_same_page_for_ever_is_left(bench: Bench) -> None:
    """A page that brings nothing new is the end; what is missing is told."""
    bench.wire = lambda request: page(["A", "B"], unfilterdCount=9)

    result = await bench.do(f"barometerit.{LIST}", {"type": "SYS", "page_size": 2})

    assert bns(result) == ["A", "B"]
    assert not result["complete"]
    assert len(bench.sent) == 2


async def test_lists_may_stand_in_an_object(bench: Bench) -> None:
    """Where a page's body could not be read by us, a bare array and an object with one list are understood."""
    rows = [{"bn": "A", "targetBn": "B"}]
    asked = {"source_bn": "0" * 12, "target_entity_type": "SYS"}
    for body in (rows, {"first": 0, "count": 1, "associations": rows}):
        bench.wire = lambda request, body=body: answer(body if request.query["first"] == "0" else [])  # type: ignore[misc] # bound now
        assert (await bench.do("barometerit.association.list", asked))["rows"] == [{"bn": "A", "target_bn": "B"}]


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", {"entities": "none"}, {"entities": ["A"]}, {"entities": [{"name": "A"}]}, []),
        *(b'{"entities": [{"bn": "A", "cost": NaN}]}', b'{"entities": [{"bn": "A", "cost": 1e999}]}', b"[" * 99_999),
    ],
)
async def test_a_list_that_is_none_breaks_the_contract(bench: Bench, body: Any) -> None:
    """Another body than documented is never an empty list, nor is what JSON has no word for told on."""
    bench.wire = lambda request: answer(body)

    with pytest.raises(ContractBroken):
        await bench.do(f"barometerit.{LIST}", {"type": "SYS"})


async def test_a_list_that_was_cut_short_goes_on_where_it_was(bench: Bench) -> None:
    """Pages that came are kept: the next run asks for the one that did not."""
    broken = [True]

    def app(request: Request) -> Response:
        if request.query["first"] == "4" and broken.pop():
            raise Unavailable("no")
        names = "ABCDEF"[int(str(request.query["first"])) :][:2]
        return page(list(names), unfilterdCount=6)

    bench.wire = app
    with pytest.raises(Exception, match="unfinished"):
        await bench.do(f"barometerit.{LIST}", {"type": "SYS", "page_size": 2}, key="k")
    broken.append(False)
    result = await bench.do(f"barometerit.{LIST}", {"type": "SYS", "page_size": 2}, key="k")

    assert bns(result) == list("ABCDEF")
    assert [request.query["first"] for request in bench.sent] == ["0", "2", "4", "4", "6"]
