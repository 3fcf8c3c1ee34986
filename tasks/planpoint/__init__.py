"""
Planpoint: projects, groups, enterprises, floors, units and leads of a real estate viewer.

Sources, and what is from where
-------------------------------
- planpoint.txt: the vendor's page. Three finds by POST, bearer token, 200/400/401/403/500.
- PP-OAS: `api/openapi.yaml` of github.com/planpoint-io/planpoint-sdk-java (it has Go, PHP and Python siblings):
  *generation B*. Everything but the finds of groups and enterprises, and making or deleting projects.
- PP-DOC: viewerdocs.planpoint.io/api-documentation: *generation A*, older. What B leaves out, such as making projects.

The two generations disagree; both are understood.

What it wants
-------------
- `base_url` is `https://app.planpoint.io`; paths start with `/api` (planpoint.txt, PP-OAS).
- A token in each request: `Authorization: Bearer …` (planpoint.txt, PP-OAS; `auth = "bearer"`) or the key as it is
  (PP-DOC; `auth = "raw"`). With username and password instead, `POST /api/users/login` gives one, `access_token` (B)
  or `token` (A). Its lifetime is unknown: a 401 makes the connection sign in again, once.
- The login's answer holds secrets (`token`, `resetToken`, `stripe…`): nothing of it leaves the sign-in but the token.

How it answers
--------------
- Success is any 2xx: B answers 201 to many reads (PP-OAS), planpoint.txt knows 200 only.
- Lists are bare arrays or `{records, count}`; no list has pages. Where `count` is not the number of records, the result
  says so. `projects/find` gives one object (PP-OAS) or all that the host can reach (planpoint.txt).
- Errors are `{message, paused?}` (PP-OAS). `paused` (true, or `{value: true, reason}`) means that the account or the
  project is suspended (inferred), whatever the status: an error of its own, not tried again.
- No limits are published; 429 is not in PP-OAS. Waits are as `Retry-After` says, else a backoff.
- An editor's token may change units only (help.planpoint.io, article 9): a 403 elsewhere may mean just that (inferred).

What is unusual
---------------
- Units: `status`, `bed`, `bath`, `sqft` in B are `availability`, `bedrooms`, `bathrooms`, `squareFeet` in A. Read: the
  first that is there. Written: the name that this tenant's units have, never both (`tasks.planpoint.spelling`);
  `[connections.X.fields]` settles it by hand.
- Statuses beyond the five documented are a tenant's own and pass through.
- `PATCH /api/units` sets the same fields on many units; its largest number of ids is unknown: 50 here.
- Creating a unit documents the floor alone (PP-OAS): what the create does not take over is set by an update.
- Setting the same values twice is harmless (inferred), so updates are replayable; creates are not, and no idempotency
  key is documented: what an interrupted create made is found by its natural key.
- Deleting projects is mentioned (planpoint.txt), but no page shows how: path and method are assumed.
- Leads are personal data: never in a log or an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.planpoint.client import PROJECT_MINE, paused
from worker.auth import Bearer, Login
from worker.command import System

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.auth import Flow


def sign_in(connection: Connection) -> Flow:
    """Give how a connection signs in: its token, else username and password; raises `ValueError` without either."""
    if connection.token is not None:
        return Bearer(connection.token.get_secret_value(), connection.auth)
    if connection.username and connection.password is not None:
        return Login(connection.username, connection.password.get_secret_value(), connection.auth)
    raise ValueError(f"connections.{connection.name} needs token, or username and password")


SYSTEM = System(
    name="planpoint", auth=sign_in, cheapest=PROJECT_MINE, headers={"Accept": "application/json"}, final=paused
)
