"""Documents: files go up whole and once, without being held in memory."""

import hashlib
import tracemalloc

import pytest

from tests.tasks.barometerit.conftest import Tenant
from worker.errors import BadCommand, NotFound, Unanswered

UPLOAD = "document.upload"


@pytest.fixture
def content(tenant: Tenant) -> bytes:
    """Put a file there, of lines that look like the parts of a form."""
    content = b'--planrelay-x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' * 1000
    tenant.home.joinpath("out").mkdir()
    tenant.file("there.csv").write_bytes(content)
    return content


async def test_a_file_becomes_a_document(tenant: Tenant, content: bytes) -> None:
    """Every byte, under the name given, an entity of type AST."""
    result = await tenant.do(UPLOAD, {"name": 'Capacity "Q2" \u00fc', "path": "out/there.csv"})

    (document,) = tenant.sandbox.state("barometerit", "documents")
    assert document["sha256"] == hashlib.sha256(content).hexdigest()
    assert document["size"] == result["bytes"] == len(content)
    assert (result["bn"], result["how"]) == (document["bn"], "created")
    assert tenant.entity(document["bn"])["entityDiscriminator"] == "AST"


async def test_the_name_reaches_the_vendor(tenant: Tenant, content: bytes) -> None:
    """As the form's file name."""
    await tenant.do(UPLOAD, {"name": "Capacity \u00fc", "path": "out/there.csv"})

    assert tenant.sandbox.state("barometerit", "documents")[0]["name"] == "Capacity \u00fc"


async def test_an_interrupted_upload_makes_one_document(tenant: Tenant, content: bytes) -> None:
    """Cut off after it took effect: the document is found by its name."""
    tenant.sandbox.faults.add("reset", operation=UPLOAD, after_effect=True, times=1)
    data = {"name": "Capacity", "path": "out/there.csv"}
    with pytest.raises(Unanswered):
        await tenant.do(UPLOAD, data, key="k")

    assert (await tenant.do(UPLOAD, data, key="k"))["how"] == "found"
    assert tenant.sandbox.count("barometerit", "documents") == 1


async def test_a_large_file_is_not_held_in_memory(tenant: Tenant) -> None:
    """Sent as it is read."""
    tenant.home.joinpath("out").mkdir()
    with tenant.file("large.bin").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()

    result = await tenant.do(UPLOAD, {"name": "Large", "path": "out/large.bin"})

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result["bytes"] == 64 * 1024 * 1024
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize("path", ["/etc/passwd", "out/../../x", "s3://bucket/key", "ftp://host/x", "elsewhere/x"])
async def test_a_path_outside_is_refused(tenant: Tenant, path: str) -> None:
    """Nothing but what `[artifacts].allowed` names can leave this machine."""
    with pytest.raises(BadCommand, match="path"):
        await tenant.do(UPLOAD, {"name": "x", "path": path})
    assert tenant.operations() == []


async def test_a_file_that_is_not_there_is_not_found(tenant: Tenant) -> None:
    """Asked before anything is sent."""
    with pytest.raises(NotFound, match=r"out/none\.csv"):
        await tenant.do(UPLOAD, {"name": "x", "path": "out/none.csv"})
    assert tenant.operations() == []
