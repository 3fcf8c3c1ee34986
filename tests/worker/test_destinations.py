import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.destinations import Allowed, fill, open_directory
from worker.errors import BadCommand

NOW = datetime(2026, 11, 22, 23, 15, 0, tzinfo=UTC)
LONG = "x" * 241


@pytest.fixture
def allowed(tmp_path: Path) -> Allowed:
    """Give a folder of its own in the working directory, one that an absolute URL names, and a place in each cloud."""
    (tmp_path / "work").mkdir()
    places = [
        "./var/artifacts/",
        f"file://{tmp_path}/elsewhere",
        "s3://bucket/reports/",
        "gs://all-of-it",
        "az://container/a/b",
    ]
    return Allowed(places, cwd=tmp_path / "work")


@pytest.mark.parametrize(
    ("destination", "scheme", "key"),
    [
        ("var/artifacts/a.csv", "file", "a.csv"),
        ("./var/artifacts/deep/er/a.csv", "file", "deep/er/a.csv"),
        ("var//artifacts/./a.csv", "file", "a.csv"),
        ("var/artifacts/Üben & more.CSV", "file", "Üben & more.CSV"),
        ("var/artifacts/..a", "file", "..a"),
        ("var/artifacts/100%.csv", "file", "100%.csv"),
        ("file://{tmp}/elsewhere/a%20b.csv", "file", "a b.csv"),
        ("FILE://{tmp}/elsewhere/a.csv", "file", "a.csv"),
        ("file://{tmp}/work/var/artifacts/a.csv", "file", "a.csv"),
        ("s3://bucket/reports/2026/a.csv", "s3", "reports/2026/a.csv"),
        ("gs://all-of-it/a.csv", "gs", "a.csv"),
        ("az://container/a/b/c", "az", "a/b/c"),
        ("var/artifacts/capacity-{date}-{time}-{report_bn}-{asset_bn}.csv", "file", None),
    ],
)
def test_what_is_allowed_is_taken(
    allowed: Allowed, tmp_path: Path, destination: str, scheme: str, key: str | None
) -> None:
    """Relative paths, file URLs and object stores are taken as they stand, each below its allowed place."""
    place = allowed.check(destination.replace("{tmp}", str(tmp_path)))
    assert place.scheme == scheme
    assert key is None or place.key == key


@pytest.mark.parametrize(
    ("destination", "rule"),
    [
        ("", "is empty"),
        (" var/artifacts/a", "blank"),
        ("var/artifacts/a\n", "blank"),
        ("a.csv", "outside"),
        ("var/a.csv", "outside"),
        ("var/artifactsy/a.csv", "outside"),
        ("var/artifacts", "outside"),
        ("var/artifacts/", "directory"),
        ("var/artifacts/sub/.", "directory"),
        (".", "directory"),
        ("var/artifacts/../a.csv", ".."),
        ("var/artifacts/sub/../a.csv", ".."),
        ("..", ".."),
        ("file:///..", ".."),
        ("var/artifacts/%2e%2e/a.csv", "hides"),
        ("var/artifacts/%2E./a.csv", "hides"),
        ("var/artifacts/%252e%252e/a.csv", "hides"),
        ("var/artifacts/a%2fb.csv", "hides"),
        ("var/artifacts/a%00.csv", "hides"),
        ("var/artifacts/..\\a.csv", "hides"),
        ("var/artifacts/a\0b.csv", "control"),
        ("var/artifacts/a\x1b[2Jb.csv", "control"),
        ("var/artifacts/a\u2028b.csv", "control"),
        ("var/artifacts/a\ud800b.csv", "control"),
        ("file:///tmp/%0a/a.csv", "control"),
        ("file:///tmp/%ff.csv", "UTF-8"),
        ("/etc/passwd", "absolute path without scheme"),
        ("file:///etc/passwd", "outside"),
        ("file://host/etc/passwd", "host"),
        ("file:/etc/passwd", "lacks //"),
        ("file:///tmp/a?b", "? or #"),
        ("http://bucket/reports/a.csv", "unknown scheme"),
        ("ftp://x/y", "unknown scheme"),
        ("s3:bucket/reports/a.csv", "lacks //"),
        ("s3://bucket/a.csv", "outside"),
        ("s3://bucket/reports", "outside"),
        ("s3://bucket/reports/", "directory"),
        ("s3://bucket/reportsx/a.csv", "outside"),
        ("s3://bucket/reports/../a.csv", ".."),
        ("s3://bucket/reports//a.csv", "segment"),
        ("s3://bucket/reports/./a.csv", "segment"),
        ("s3://other/reports/a.csv", "outside"),
        ("s3:///reports/a.csv", "no bucket"),
        ("s3://user@bucket/reports/a.csv", "no bucket"),
        ("gs://bucket/reports/a.csv", "outside"),
        ("az://container/a/c", "outside"),
        (f"var/artifacts/{LONG}", "longer"),
        ("s3://bucket/reports/" + "a/" * 500 + "b", "longer"),
        ("var/artifacts/.planrelay-x", "unfinished"),
        ("var/artifacts/{reportbn}.csv", "braces"),
        ("var/artifacts/{date.__class__}.csv", "braces"),
        ("var/artifacts/{date.csv", "braces"),
        ("var/artifacts/{{date}}.csv", "braces"),
    ],
)
def test_what_is_not_is_refused(allowed: Allowed, destination: str, rule: str) -> None:
    """The refusal names the field, the destination and the rule."""
    with pytest.raises(BadCommand) as caught:
        allowed.check(destination, field="rows_url")
    assert caught.value.message.startswith("rows_url: ")
    assert rule in caught.value.message


@given(st.text())
def test_no_text_gets_out(text: str) -> None:
    """Whatever stands in a destination, it is refused or lies below its allowed place."""
    allowed = Allowed(["safe/"], cwd=Path("/nonexistent"))
    for destination in (text, f"safe/{text}", f"file:///nonexistent/safe/{text}"):
        try:
            place = allowed.check(destination)
        except BadCommand:
            continue
        path = os.path.normpath(Path(place.root).joinpath(*place.parts))
        assert path.startswith("/nonexistent/safe/")


@given(template=st.text(alphabet="{}abdnet_/.-\0"), value=st.text())
def test_no_id_leaves_its_segment(template: str, value: str) -> None:
    """Whatever an id is, a template filled with it is refused or has the same segments."""
    try:
        filled = fill("dir/{asset_bn}/" + template, now=NOW, tz="UTC", asset_bn=value)
    except BadCommand:
        return
    assert filled.count("/") == template.count("/") + 2
    assert filled.split("/")[1] == value
    assert value not in {"", ".", ".."}


def test_a_symlink_that_leads_out_is_refused(allowed: Allowed, tmp_path: Path) -> None:
    """Neither a directory nor the file itself may be a symlink to somewhere else."""
    inside = tmp_path / "work/var/artifacts"
    inside.mkdir(parents=True)
    (inside / "out").symlink_to(tmp_path)
    (inside / "file.csv").symlink_to(tmp_path / "secret.csv")
    for destination in ("var/artifacts/out/a.csv", "var/artifacts/file.csv", "var/artifacts/out/work/../../etc"):
        with pytest.raises(BadCommand):
            allowed.check(destination)


def test_a_symlink_that_stays_inside_is_followed(allowed: Allowed, tmp_path: Path) -> None:
    """The place is where it leads; opening it then follows nothing."""
    inside = tmp_path / "work/var/artifacts"
    (inside / "2026").mkdir(parents=True)
    (inside / "now").symlink_to("2026")
    assert allowed.check("var/artifacts/now/a.csv").key == "2026/a.csv"


def test_a_symlink_loop_is_refused(allowed: Allowed, tmp_path: Path) -> None:
    """A path that leads nowhere is no place to write to."""
    inside = tmp_path / "work/var/artifacts"
    inside.mkdir(parents=True)
    (inside / "a").symlink_to("b")
    (inside / "b").symlink_to("a")
    with pytest.raises(BadCommand):
        os.close(open_directory(allowed.check("var/artifacts/a/x.csv"), create=True))


def test_an_allowed_place_may_itself_be_a_symlink(tmp_path: Path) -> None:
    """The operator's own link is the operator's word."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk")
    place = Allowed(["artifacts/"], cwd=tmp_path).check("artifacts/a.csv")
    assert place.root == str(tmp_path / "disk")


def test_a_directory_is_no_destination(allowed: Allowed, tmp_path: Path) -> None:
    """One that is there already is told from a file before anything is sent."""
    (tmp_path / "work/var/artifacts/a.csv").mkdir(parents=True)
    with pytest.raises(BadCommand, match="is a directory"):
        allowed.check("var/artifacts/a.csv")


def test_a_symlink_swapped_in_after_the_check_is_refused(allowed: Allowed, tmp_path: Path) -> None:
    """The path is walked without following links, so what was a directory at the check must still be one."""
    place = allowed.check("var/artifacts/sub/a.csv")
    (tmp_path / "work/var/artifacts").mkdir(parents=True)
    (tmp_path / "work/var/artifacts/sub").symlink_to(tmp_path)
    with pytest.raises(BadCommand, match="symlink"):
        open_directory(place, create=True)


@pytest.mark.parametrize("place", ["", "http://x/", "s3://", "../up/", "var/%2e%2e/", "s3://bucket//x"])
def test_a_senseless_allowed_place_is_a_configuration_error(place: str) -> None:
    """The operator hears of it when the worker starts, as a ValueError that names the setting."""
    with pytest.raises(ValueError, match=r"artifacts\.allowed"):
        Allowed([place], cwd=Path("/"))


def test_date_and_time_are_the_zones(tmp_path: Path) -> None:
    """A quarter past eleven at night in UTC is the next day in Paris."""
    assert fill("a-{date}-{time}.csv", now=NOW, tz="UTC") == "a-2026-11-22-231500.csv"
    assert fill("a-{date}-{time}.csv", now=NOW, tz="Europe/Paris") == "a-2026-11-23-001500.csv"


def test_ids_are_filled_in_wherever_they_stand() -> None:
    """The same id may stand twice, in directories and names."""
    filled = fill("{report_bn}/{report_bn}-{asset_bn}.csv", now=NOW, tz="UTC", report_bn="042", asset_bn="A1")
    assert filled == "042/042-A1.csv"


def test_an_unknown_placeholder_names_the_known_ones() -> None:
    """The error lists what may stand there."""
    with pytest.raises(BadCommand, match=r"\{date\}, \{time\}, \{report_bn\}"):
        fill("{reportbn}.csv", now=NOW, tz="UTC", report_bn="042")


def test_the_manifest_stands_beside(allowed: Allowed) -> None:
    """Its name is the file's with an ending added."""
    place = allowed.check("var/artifacts/sub/a.csv").beside(".manifest.json")
    assert (place.key, place.given) == ("sub/a.csv.manifest.json", "var/artifacts/sub/a.csv.manifest.json")
