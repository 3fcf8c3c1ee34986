"""The planning core: whom a row means, what would change, who is protected, and what is braked."""

from typing import Any

import pytest

from tasks.planview_admin.brakes import Difference, Rules
from tasks.planview_admin.diff import difference
from tasks.planview_admin.protection import Protection
from tasks.planview_admin.roster import Reader
from tasks.planview_admin.spelling import Spelling
from tasks.planview_admin.writes import in_order
from worker.rows import inline_sheet


def user(number: int, **fields: Any) -> dict[str, Any]:
    """Make a user of the directory."""
    return {
        "id": f"u{number}",
        "email": f"user{number}@x.y",
        "username": None,
        "first_name": "Ada",
        "last_name": "Byron",
        "role": "User",
        "status": "Active",
        "products": (),
        **fields,
    }


def plan(
    rows: list[dict[str, Any]], users: list[dict[str, Any]], *protected: str, own: str = "relay", **rules: Any
) -> Difference:
    """Compare rows with users."""
    reader = Reader(Spelling.of({}), None)
    for row in inline_sheet(rows):
        reader.read(row)
    agreed = rules.pop("agreed", None)
    given = {"deactivate_missing": False, "max_removals": 10, "max_removal_share": 1.0, **rules}
    return difference(reader.finish(), users, Rules(protection=Protection(protected, [own]), **given), agreed)


def actions(found: Difference) -> list[tuple[str, str]]:
    """Give what a plan does to whom."""
    return [(item["action"], item.get("who", "")) for item in found.items]


def invalid(found: Difference) -> list[str]:
    """Give the reasons of rows that can't be used."""
    return [item["reason"] for item in found.items if item["action"] == "invalid"]


def test_a_plan_gives_before_and_after() -> None:
    """An update names each field that differs, as it is and as it is to be."""
    found = plan([{"email": "USER1@x.y", "first_name": "Eda", "last_name": "Byron"}], [user(1)])

    assert found.items == [
        {
            "action": "update",
            "line": 1,
            "who": "USER1@x.y",
            "id": "u1",
            "seen": {"email": "user1@x.y"},
            "changes": {"first_name": {"before": "Ada", "after": "Eda"}},
        }
    ]


@pytest.mark.parametrize(
    ("row", "who"),
    [
        ({"id": "u2", "email": "new@x.y"}, "u2"),
        ({"username": "BOB", "email": "user1@x.y"}, "u3"),
        ({"username": "eve", "email": "user1@x.y", "first_name": "Eda"}, "u1"),
        ({"email": "user2@x.y", "first_name": "Eda"}, "u2"),
    ],
)
def test_a_row_means_a_user_by_id_else_username_else_email(row: dict[str, Any], who: str) -> None:
    """The surest key decides; by email only somebody without another username."""
    users = [user(1), user(2), user(3, username="bob")]

    (item,) = plan([row], users).items

    assert item["id"] == who


def test_somebody_with_another_username_is_somebody_else() -> None:
    """Where usernames are used emails may be shared: a new username is a new person."""
    row = {"username": "eve", "email": "user1@x.y", "first_name": "Eve", "last_name": "Byron"}

    assert actions(plan([row], [user(1, username="ada")])) == [("create", "eve")]


def test_an_email_of_several_names_nobody() -> None:
    """The row is invalid, and neither of them counts as missing."""
    users = [user(1, email="a@x.y", username="a"), user(2, email="a@x.y", username="b")]

    found = plan([{"email": "a@x.y", "first_name": "Eda"}], users, deactivate_missing=True)

    assert invalid(found) == ["2 users have the email 'a@x.y' (u1, u2)"]
    assert found.summary["missing"] == 0


def test_rows_that_mean_one_person_are_all_refused() -> None:
    """Neither the first nor the last is believed."""
    rows = [{"email": "user1@x.y", "first_name": "A"}, {"id": "u1", "first_name": "B"}]

    assert invalid(plan(rows, [user(1)])) == ["lines 1, 2 mean the same person"] * 2


def test_a_new_user_needs_a_name() -> None:
    """What the vendor asks of a new user is asked here, with the line."""
    assert invalid(plan([{"email": "new@x.y", "first_name": "Ada"}], [])) == ["a new user needs last_name"]


def test_an_unknown_id_is_not_made() -> None:
    """An id that no user has is a mistake, not a new person."""
    assert invalid(plan([{"id": "u9", "email": "n@x.y"}], [user(1)])) == ["no user has the id 'u9'"]


def test_a_name_that_is_whole_already_needs_no_division() -> None:
    """`Ada Augusta Byron` fits whoever has this very name; for anybody else it can't be divided."""
    whole = user(1, first_name="Ada Augusta")
    row = {"email": "user1@x.y", "name": "Ada Augusta  Byron"}

    assert plan([row], [whole]).items == []
    assert "more than one way" in invalid(plan([row], [user(1)]))[0]


@pytest.mark.parametrize(
    ("status", "wanted", "action"),
    [
        ("Active", "Pending", None),
        ("Pending", "Active", None),
        ("Pending", None, None),
        ("Inactive", None, "reactivate"),
        ("Inactive", "inactive", None),
        ("Pending", "inactive", "deactivate"),
    ],
)
def test_pending_is_as_good_as_active(status: str, wanted: str | None, action: str | None) -> None:
    """An invitation is accepted by the user alone; who stands in a roster without a status is to be active."""
    found = plan([{"email": "user1@x.y", "status": wanted}], [user(1, status=status)])

    assert [item["action"] for item in found.items] == ([action] if action else [])


def test_nobody_new_is_made_inactive() -> None:
    """A row of somebody who left and is not there asks for nothing."""
    found = plan([{"email": "n@x.y", "first_name": "N", "last_name": "N", "status": "Inactive"}], [])

    assert found.items == []
    assert found.summary["unchanged"] == 1


def test_missing_users_are_kept_unless_asked() -> None:
    """Without `deactivate_missing` they are counted and left alone."""
    users = [user(1), user(2), user(3, status="Inactive")]

    kept = plan([{"email": "user1@x.y"}], users)
    asked = plan([{"email": "user1@x.y"}], users, deactivate_missing=True)

    assert (kept.items, kept.summary["missing"]) == ([], 1)
    assert actions(asked) == [("deactivate", "user2@x.y")]


@pytest.mark.parametrize(
    ("who", "patterns", "reason"),
    [
        ({"role": "Administrator"}, (), "an administrator"),
        ({}, ("user1@*",), "protected by protected_users"),
        ({}, ("*@X.Y",), "protected by protected_users"),
        ({}, ("id:u1",), "protected by protected_users"),
        ({"username": "svc"}, ("SVC",), "protected by protected_users"),
        ({"username": "relay"}, (), "the account of planrelay itself"),
    ],
)
@pytest.mark.parametrize("row", [{"first_name": "Eda"}, {"status": "Inactive"}, None])
def test_protected_users_are_excluded(
    who: dict[str, str], patterns: tuple[str, ...], reason: str, row: dict[str, str] | None
) -> None:
    """By list, pattern, role or as the worker's own account: no change, no deactivation, and the plan says why."""
    rows = [{"email": "other@x.y"}] if row is None else [{"id": "u1", **row}]
    users = [user(1, **who), user(2, email="other@x.y")]

    found = plan(rows, users, *patterns, deactivate_missing=row is None)

    excluded = [item for item in found.items if item.get("id") == "u1"]
    assert [(item["action"], item["reason"]) for item in excluded] == [("excluded", reason)]
    assert found.summary["deactivate"] == 0


def test_a_star_is_the_only_sign_of_a_pattern() -> None:
    """Dots, brackets and question marks mean themselves."""
    assert actions(plan([{"id": "u1", "first_name": "E"}], [user(1)], "user?@x.y", "user1@x[.]y", "user1@xzy")) == [
        ("update", "u1")
    ]


def test_nobody_is_made_or_renamed_into_protection() -> None:
    """Who would be protected as planned is not touched either."""
    rows = [
        {"email": "boss2@x.y", "first_name": "B", "last_name": "B"},
        {"id": "u1", "email": "boss3@x.y"},
    ]

    assert [item["action"] for item in plan(rows, [user(1)], "boss*").items] == ["excluded", "excluded"]


def leaving(count: int, of: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make a roster without the first users of a directory."""
    return [{"email": f"user{n}@x.y"} for n in range(count + 1, of + 1)], [user(n) for n in range(1, of + 1)]


@pytest.mark.parametrize(
    ("count", "of", "rules", "says"),
    [
        (10, 1000, {}, None),
        (11, 1000, {}, "max_removals allows 10"),
        (5, 100, {"max_removal_share": 0.05}, None),
        (6, 100, {"max_removal_share": 0.05}, "max_removal_share allows 5.0%"),
        (60, 100, {"max_removals": 100}, "more than half of them"),
        (1, 100, {"last_rows": 123}, None),
        (1, 100, {"last_rows": 130}, "it has shrunk"),
    ],
)
def test_removals_have_their_brakes(count: int, of: int, rules: dict[str, Any], says: str | None) -> None:
    """By number, by share, by half of all whatever is allowed, and after a roster that was larger."""
    rows, users = leaving(count, of)

    reasons = plan(rows, users, deactivate_missing=True, **rules).reasons

    assert (says is None) == (not reasons)
    assert says is None or any(says in reason for reason in reasons)


def test_a_roster_with_unusable_rows_deactivates_nobody_unseen() -> None:
    """Somebody may seem missing only because their row can't be read."""
    found = plan([{"email": "user1@x.y"}, {"email": "typo"}], [user(1), user(2)], deactivate_missing=True)

    assert any("needs a clean roster" in reason for reason in found.reasons)


def test_losing_a_product_is_a_removal() -> None:
    """Who is locked out of a product environment is locked out."""
    users = [user(n, products=("p1", "p2")) for n in range(1, 5)]

    lost = plan([{"id": "u1", "products": ["p1"]}], users, max_removals=0)
    gained = plan([{"id": "u1", "products": ["p2", "p1", "p3"]}], users, max_removals=0)

    assert lost.summary["removals"] == 1
    assert lost.reasons
    assert gained.reasons == ()


@pytest.mark.parametrize("name", ["role", "status"])
def test_a_directory_that_does_not_show_what_protects_is_not_trusted(name: str) -> None:
    """Where no user shows a role or a status, the field map is wrong: nobody is removed by it."""
    found = plan([{"id": "u1"}], [user(1, **{name: None}), user(2, **{name: None})], deactivate_missing=True)

    assert any(f"set fields.{name}" in reason for reason in found.reasons)


def test_a_directory_that_shows_no_products_is_not_overwritten_unseen() -> None:
    """A list of products replaces the one there: where nobody's is shown, nobody can tell who would lose what."""
    hidden = user(1)
    del hidden["products"]

    assert "set fields.products" in plan([{"id": "u1", "products": ["p1"]}], [hidden]).reasons[0]
    assert plan([{"id": "u1", "first_name": "Eda"}], [hidden]).reasons == ()


def test_a_role_that_nobody_knows_may_be_an_administrators() -> None:
    """`Superuser` is neither of the two roles: who has it loses nothing unseen, and may be given anything."""
    users = [user(n) for n in range(1, 40)] + [user(40, role="Superuser")]

    lost = plan([{"id": "u40", "status": "inactive"}], users).reasons
    assert "'Superuser'" in lost[0]
    assert "role.administrator" in lost[0]
    assert plan([{"id": "u1", "status": "inactive"}, {"id": "u40", "first_name": "Eda"}], users).reasons == ()


@pytest.mark.parametrize(
    ("field", "count", "of", "says"),
    [
        ("email", 101, 200, "another username or email"),
        ("username", 101, 200, "another username or email"),
        ("role", 11, 200, "become administrators"),
        ("email", 10, 12, None),  # ten people are looked at by hand
        ("email", 100, 200, None),  # a department moves to another domain
        ("first_name", 200, 200, None),
    ],
)
def test_a_column_in_the_wrong_place_is_held(field: str, count: int, of: int, says: str | None) -> None:
    """Who is renamed signs in no more, and whoever becomes an administrator may do anything: not to many, unseen."""
    value = "Administrator" if field == "role" else "new{}@x.y"
    rows = [{"id": f"u{n}", field: value.format(n)} for n in range(1, count + 1)]

    reasons = plan(rows, [user(n, username=f"name{n}") for n in range(1, of + 1)]).reasons

    assert (says is None) == (not reasons)
    assert says is None or says in reasons[0]


def test_an_old_roster_lets_nobody_in_again_unseen() -> None:
    """Who left stands in it without a status, as if active: a few are let in, many are looked at first."""
    rows = [{"email": f"user{n}@x.y"} for n in range(1, 31)]
    users = [user(n, status="Inactive" if n <= 30 else "Active") for n in range(1, 81)]

    assert "30 inactive users would be let in again" in plan(rows, users).reasons[0]
    assert plan(rows[5:], users).reasons == ()


def test_a_directory_that_shrank_makes_nobody_twice() -> None:
    """Users are never deleted here: where many are gone, a reading may have lost them, and they would be made anew."""
    rows = [{"email": f"user{n}@x.y", "first_name": "A", "last_name": "B"} for n in range(1, 11)]

    assert "it has shrunk" in plan(rows, [], last_users=10).reasons[0]
    assert "it has shrunk" in plan(rows, [user(n) for n in range(1, 8)], last_users=10).reasons[0]
    assert plan(rows, [user(n) for n in range(1, 9)], last_users=10).reasons == ()
    assert plan(rows, []).reasons == ()


@pytest.mark.parametrize("spelled", ["ZOE\u0308@x.y", "zo\u00eb@x.y\u200b", "zo\u00eb@\uff58.y", " Zo\u00eb@x.y\u00a0"])
def test_an_address_spelled_otherwise_is_the_same_person(spelled: str) -> None:
    """Nobody is made twice, or taken for missing, because a Mac composes letters in its own way."""
    zoe = user(1, email="zo\u00eb@x.y")

    found = plan([{"email": spelled, "first_name": "Ada"}], [zoe], deactivate_missing=True)

    assert found.items == []
    assert plan([{"email": "x@x.y"}], [zoe], spelled, deactivate_missing=True).summary["deactivate"] == 0


def test_a_removal_needs_both_readings() -> None:
    """What only the second reading of the directory leads to is left out, and the plan says so."""
    rows, users = leaving(2, 40)

    found = plan(rows, users, deactivate_missing=True, agreed={("deactivate", "u1")})

    assert [(item["action"], item["id"]) for item in found.items] == [("excluded", "u2"), ("deactivate", "u1")]


def test_nobody_is_renamed_into_another() -> None:
    """An email is unique (PVA-USERS): of a row that would double it nothing is done."""
    found = plan([{"id": "u1", "email": "USER2@x.y"}], [user(1), user(2)])

    assert "another user has, or would have" in invalid(found)[0]


def test_a_refused_rename_is_in_the_way_of_the_next() -> None:
    """Who can't give up a name keeps it, so nobody else gets it."""
    rows = [{"id": "u1", "email": "user2@x.y"}, {"id": "u2", "email": "user3@x.y"}]

    assert len(invalid(plan(rows, [user(1), user(2), user(3)]))) == 2


def test_names_handed_on_are_written_from_the_end() -> None:
    """Whoever takes a name comes after the one who gives it up."""
    rows = [{"id": f"u{n}", "email": f"user{n + 1}@x.y"} for n in range(1, 4)]
    found = plan(rows, [user(n) for n in range(1, 4)])

    assert [[item["id"] for _, item in group] for group in in_order(enumerate(found.items))] == [["u3"], ["u2"], ["u1"]]


def test_names_that_go_round_are_refused() -> None:
    """Two users can't exchange their emails one by one."""
    rows = [{"id": "u1", "email": "user2@x.y"}, {"id": "u2", "email": "user1@x.y"}]

    assert ["exchange" in reason for reason in invalid(plan(rows, [user(1), user(2)]))] == [True, True]


def test_deactivations_come_last() -> None:
    """Nobody loses access before those who gain it have it."""
    rows = [{"id": "u1", "status": "Inactive"}, {"email": "n@x.y", "first_name": "N", "last_name": "N"}]
    found = plan(rows, [user(1)])

    groups = in_order(enumerate(found.items))

    assert [[item["action"] for _, item in group] for group in groups] == [["create"], ["deactivate"]]
