"""Downloads from a server that does what no framework would let it: never a part of a file, nor anything else."""

import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.barometerit.conftest import Tenant
from tests.worker.raw_server import Conversation, raw_server
from worker.errors import ContractBroken, RelayError, Unanswered

ROWS = [b"%d,x%d,%s\n" % (number, number, b"y" * 80) for number in range(30_000)]
CSV = b"A,B,C\n" + b"".join(ROWS)
ETAG = '"v1"'
Answer = tuple[str, bytes, list[str]]
Answers = Callable[[Conversation, int], Answer]


class Vendor:
    """A vendor of one snapshot, whose downloads a test answers; `size` None: it knows no sizes."""

    def __init__(self, tenant: Tenant, download: Answers, *, size: int | None = None) -> None:
        self.tenant = tenant
        self.download = download
        self.size: Answer = ("404 Not Found", b"", []) if size is None else ("200 OK", b'{"size": %d}' % size, [])
        self.generated: Answer = ("200 OK", b'{"assetBn": "040U00000001", "fileFormat": "CSV"}', [])
        self.asked: list[str] = []
        self.downloads = 0

    async def answer(self, said: Conversation) -> None:
        """Answer one request, then close: what is wrong with it stays with it."""
        self.asked.append(said.target)
        if said.target.startswith("POST"):
            status, body, headers = self.generated
        elif said.target.endswith("/size"):
            status, body, headers = self.size
        else:
            self.downloads += 1
            status, body, headers = self.download(said, self.downloads)
        if not any(line.startswith("Content-Length") for line in headers):
            headers = [*headers, f"Content-Length: {len(body)}"]
        lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]
        await said.say("\r\n".join(lines).encode() + body)
        said.hang_up()

    async def export(self, format: str = "csv", attempts: int = 1, **more: Any) -> dict[str, Any]:
        """Run the export until it is done, or raise what its last attempt raised; a failed one publishes nothing."""
        path = self.tenant.file(f"hostile.{format}")
        data = {"report_bn": "042400000001", "destination": f"out/{path.name}", "format": format, **more}
        for attempt in range(1, attempts + 1):
            self.tenant.bench.attempt = attempt
            try:
                return await self.tenant.do("report.export", data, key=str(data["report_bn"]))
            except RelayError:
                assert not path.exists()
                if attempt == attempts:
                    raise
        raise AssertionError


@pytest.fixture
def vendor(tenant: Tenant) -> Callable[..., Any]:
    """Give a way to have one."""

    @asynccontextmanager
    async def make(download: Answers, **more: Any) -> AsyncIterator[Vendor]:
        made = Vendor(tenant, download, **more)
        async with raw_server(made.answer) as server:
            tenant.connect(base_url=server.url)
            yield made

    return make


def whole(body: bytes = CSV, *headers: str) -> Answer:
    """Answer with a body as it is."""
    return "200 OK", body, list(headers)


def content(vendor: Vendor, result: dict[str, Any]) -> bytes:
    """Give what was published."""
    return Path(vendor.tenant.home / result["destination"]).read_bytes()


# What is no report


PAGE = b"<html>\n<body>Something went wrong</body>\n</html>\n"


@pytest.mark.parametrize(
    ("format", "body", "media_type"),
    [
        ("csv", PAGE, "text/html"),
        ("csv", b"Something went wrong\n", "text/html; charset=utf-8"),
        ("csv", b"Something went wrong, we are sorry\n", "text/html"),
        ("csv", b"\n <!DOCTYPE html>\n" + PAGE, "text/plain"),
        ("csv", b'{"message": "Something went wrong"}\n', "application/json"),
        ("csv", b'[{"barometerNo": "041800000001"}]\n', "text/plain"),
        ("csv", b"<?xml version='1.0'?>\n<rows>\n</rows>\n", "text/plain"),
        ("xml", PAGE, "text/plain"),
        ("json", b'{"message": "Something went wrong"}', "application/json"),
    ],
)
async def test_a_page_that_says_what_went_wrong_is_no_report(
    vendor: Callable[..., Any], format: str, body: bytes, media_type: str
) -> None:
    """However it is labelled, and as wide in each line: it is asked for again, and then it is the vendor's."""
    async with vendor(lambda said, nth: whole(body, f"Content-Type: {media_type}")) as one:
        with pytest.raises(ContractBroken, match="3 times"):
            await one.export(format, attempts=3)
    assert sum(target.startswith("POST") for target in one.asked) == 1


async def test_a_report_is_one_whatever_its_label_says(vendor: Callable[..., Any]) -> None:
    """A heading and rows as wide as it prove themselves; how a server labels what it does not know proves nothing."""
    async with vendor(lambda said, nth: whole(CSV, "Content-Type: text/html; charset=utf-8")) as one:
        result = await one.export()
        assert content(one, result) == CSV
    assert result["columns"] == 3


async def test_a_page_under_a_name_that_tells_no_format_is_no_report(vendor: Callable[..., Any]) -> None:
    """There only the label tells."""
    async with vendor(lambda said, nth: whole(PAGE, "Content-Type: text/html")) as one:
        with pytest.raises(Unanswered, match="a page, and no report"):
            await one.tenant.do("report.download", {"asset_bn": "040U00000001", "destination": "out/hostile.bin"})


async def test_what_failed_otherwise_in_between_is_no_bad_download(vendor: Callable[..., Any]) -> None:
    """Three downloads must be wrong in the same way, not three attempts."""

    def download(said: Conversation, nth: int) -> Answer:
        return ("404 Not Found", b"", []) if nth in {2, 3} else whole(PAGE)

    async with vendor(download) as one:
        for match in ("not whole", "not ready", "not ready", "not whole", "3 times"):
            with pytest.raises(RelayError, match=match):
                await one.export()
            one.tenant.bench.attempt += 1
    assert one.downloads == 5


async def test_the_format_that_was_asked_for_is_what_counts(vendor: Callable[..., Any]) -> None:
    """Not the one that the vendor names beside the asset BN: another is never saved under the name of this one."""
    async with vendor(lambda said, nth: whole(b'[{"a": 1}]')) as one:
        assert (await one.export("json"))["format"] == "json"
        one.generated = ("200 OK", b'{"assetBn": "040U00000002", "fileFormat": "JSON"}', [])
        with pytest.raises(RelayError, match="not like a CSV"):
            await one.export("csv", report_bn="042400000002")


async def test_an_asset_bn_may_stand_in_an_object(vendor: Callable[..., Any]) -> None:
    """As `updatedByBn` does in entities."""
    async with vendor(lambda said, nth: whole()) as one:
        one.generated = ("200 OK", b'{"assetBn": {"bn": "040U00000003"}, "fileFormat": "CSV"}', [])
        assert (await one.export())["asset_bn"] == "040U00000003"


# Parts


def part(said: Conversation) -> int:
    """Give where the part begins that is asked for; -1: the whole is."""
    range_ = said.header("Range")
    return -1 if range_ is None else int(range_.removeprefix("bytes=").removesuffix("-"))


def begun_and_cut() -> Answer:
    """Answer with two thirds, and hang up."""
    headers = [f"Content-Length: {len(CSV)}", f"ETag: {ETAG}", "Accept-Ranges: bytes"]
    return "200 OK", CSV[: 2 * len(CSV) // 3], headers


OTHER = CSV.replace(b"x", b"z")
ENDS = len(CSV) - 1
PARTS: dict[str, Callable[[int], Answer]] = {
    "as asked": lambda at: (
        "206 Partial",
        CSV[at:],
        [f"Content-Range: bytes {at}-{ENDS}/{len(CSV)}", f"ETag: {ETAG}"],
    ),
    "another version": lambda at: (
        "206 Partial",
        OTHER[at:],
        [f"Content-Range: bytes {at}-{ENDS}/{len(CSV)}", 'ETag: "v2"'],
    ),
    "no version": lambda at: ("206 Partial", OTHER[at:], [f"Content-Range: bytes {at}-{ENDS}/{len(CSV)}"]),
    "another place": lambda at: (
        "206 Partial",
        CSV[at + 9 :],
        [f"Content-Range: bytes {at + 9}-{ENDS}/{len(CSV)}", f"ETag: {ETAG}"],
    ),
    "less than it says": lambda at: (
        "206 Partial",
        CSV[at + 9 :],
        [f"Content-Range: bytes {at}-{ENDS}/{len(CSV)}", f"ETag: {ETAG}"],
    ),
    "of unknown length": lambda at: (
        "206 Partial",
        CSV[at : CSV.index(b"\n", at + 9000) + 1],
        [f"Content-Range: bytes {at}-{at + 9000}/*", f"ETag: {ETAG}"],
    ),
    "no range at all": lambda at: ("206 Partial", CSV[at:], [f"ETag: {ETAG}"]),
    "beyond the end": lambda at: ("416 Range Not Satisfiable", b"", [f"Content-Range: bytes */{at}"]),
    "a condition failed": lambda at: ("412 Precondition Failed", b"", []),
    "the whole": lambda at: whole(CSV, f"ETag: {ETAG}"),
}


@pytest.mark.parametrize("kind", PARTS)
async def test_whatever_comes_for_the_rest_the_file_is_the_snapshot(vendor: Callable[..., Any], kind: str) -> None:
    """Only the rest of the very same version is put behind what is there (RFC 9110, 15.3.7.3); else it begins anew."""

    def download(said: Conversation, nth: int) -> Answer:
        if nth == 1:
            return begun_and_cut()
        at = part(said)
        return whole() if at < 0 else PARTS[kind](at)

    async with vendor(download) as one:
        result = await one.export(attempts=4)
        assert content(one, result) == CSV
    assert ("continued_at" in result) is (kind == "as asked")
    assert one.downloads <= 3


async def test_a_part_that_nobody_asked_for_is_no_file(vendor: Callable[..., Any]) -> None:
    """A 206 to a request without Range, that ends with a whole row."""
    some = CSV[: CSV.index(b"\n500,") + 1]

    def download(said: Conversation, nth: int) -> Answer:
        if nth == 1:
            return "206 Partial", some, [f"Content-Range: bytes 0-{len(some) - 1}/{len(CSV)}"]
        return whole()

    async with vendor(download) as one:
        assert content(one, await one.export(attempts=2)) == CSV
    assert one.downloads == 2


# Packed


def packed_up_to_a_row() -> bytes:
    """Give a gzip stream that ends where a row does, and is not finished."""
    packing = zlib.compressobj(wbits=31)
    return packing.compress(CSV[: CSV.index(b"\n1000,") + 1]) + packing.flush(zlib.Z_FULL_FLUSH)


async def test_a_packed_download_that_lacks_its_end_is_fetched_again(vendor: Callable[..., Any]) -> None:
    """Its length is right and every row is whole: only the packing tells."""

    def download(said: Conversation, nth: int) -> Answer:
        return whole(packed_up_to_a_row() if nth == 1 else gzip.compress(CSV), "Content-Encoding: gzip")

    async with vendor(download) as one:
        with pytest.raises(Unanswered, match="cut short"):
            await one.export()
        result = await one.export(attempts=1)
        assert content(one, result) == CSV
    assert result["bytes"] == len(CSV)


# Sizes


@pytest.mark.parametrize("status", ["500 Oh", "409 Conflict", "405 Not Allowed", "302 Found"])
async def test_a_size_that_nobody_tells_stands_in_nobodys_way(vendor: Callable[..., Any], status: str) -> None:
    """Its path is assumed, and a vendor may answer anything there."""
    async with vendor(lambda said, nth: whole()) as one:
        one.size = (status, b"", [])
        assert (await one.export())["size_checked"] is False
    assert one.downloads == 1
    assert sum(target.endswith("/size") for target in one.asked) == 1  # attempts are the download's


async def test_a_vendor_that_wants_us_to_wait_says_so_before_the_download(vendor: Callable[..., Any]) -> None:
    """Asked for the size first (contract §9): what is to be waited for costs no download."""
    async with vendor(lambda said, nth: whole()) as one:
        one.size = ("429 Too Many Requests", b"", ["Retry-After: 60"])
        with pytest.raises(RelayError, match="429"):
            await one.export()
    assert one.downloads == 0


# Afterwards


async def test_a_snapshot_that_cannot_be_removed_in_the_end_is_a_warning(vendor: Callable[..., Any]) -> None:
    """The file is there, so the last attempt tells that instead of failing."""

    def download(said: Conversation, nth: int) -> Answer:
        return ("500 Oh", b"", []) if "deleteAsset" in said.target else whole()

    async with vendor(download) as one:
        with pytest.raises(RelayError, match="500"):
            await one.tenant.do(
                "report.export",
                {"report_bn": "042400000001", "destination": "out/hostile.csv", "delete_asset": True},
                key="k",
            )
        one.tenant.bench.attempt = one.tenant.bench.settings.retry.max_attempts
        result = await one.tenant.do(
            "report.export",
            {"report_bn": "042400000001", "destination": "out/hostile.csv", "delete_asset": True},
            key="k",
        )
    assert result["asset_deleted"] is False
    assert "could not be removed" in result["warnings"][0]
    assert content(one, result) == CSV


async def test_an_upload_that_fails_says_where_the_file_is(vendor: Callable[..., Any]) -> None:
    """The command fails, and nobody needs to look for the report."""

    def download(said: Conversation, nth: int) -> Answer:
        return ("403 Forbidden", b"", []) if "/entities" in said.target else whole()

    async with vendor(download) as one:
        data = {"report_bn": "042400000001", "destination": "out/hostile.csv", "upload_as": "Capacity"}
        with pytest.raises(RelayError) as raised:
            await one.tenant.do("report.export", data)
        assert "The report is saved at out/hostile.csv" in raised.value.message
        assert one.tenant.file("hostile.csv").read_bytes() == CSV


async def test_a_last_newline_may_lack_where_the_size_says_that_all_is_there(vendor: Callable[..., Any]) -> None:
    """RFC 4180 asks for none after the last record."""
    body = CSV[:-1]
    async with vendor(lambda *_: whole(body), size=len(body)) as made:
        result = await made.export()
        assert (result["rows"], content(made, result)) == (len(ROWS), body)


async def test_a_last_newline_may_not_lack_where_nobody_told_the_size(vendor: Callable[..., Any]) -> None:
    """The file may be cut short at the end of a cell."""
    async with vendor(lambda *_: whole(CSV[:-1])) as made:
        with pytest.raises(Unanswered, match="not ended by a newline"):
            await made.export()
