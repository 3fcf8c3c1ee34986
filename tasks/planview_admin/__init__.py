"""
Planview Admin: users, products and audit history of one customer.

Sources, and what is from where
-------------------------------
- planview_admin.txt: the vendor's page. Token, limits, paging, and what the API is for. Nothing else is published: the
  endpoint reference that the page links to could not be found anywhere.
- PVA-USERS: success.planview.com, Planview_Admin/040_Managing_Users: what a user is, as the user interface shows it.
- PVA-CRED: success.planview.com, OAuth2_Client_Credentials: where client id and secret come from.

Only `POST /io/v1/oauth2/token` and `GET /public/v1/user` are confirmed. Every other path, method and JSON key here is
the likeliest one, marked `assumed` in `planrelay operations`, and the configuration's to overrule:

    [connections.X.fields]                          our name = the vendor's JSON key, of users and of what asks for them
    last_login = "lastSignIn"
    department = "dept"                             also a field that we don't know
    "status.inactive" = "Disabled"                  one of our values = the vendor's: of status and role
    [connections.X.operations."user.update"]        method and path of one call; with PUT the whole user is sent
    method = "PUT"
    [connections.X.operations."customer.audit".fields]
    timestamp = "when"                              names of one call only: of audit records, products, `since`

What it wants
-------------
- `base_url` is the customer's sign-in host (`https://us.id.planview.com`, `https://<org>.id.planview.com`). That the
  API is on the host of the token call is assumed.
- Client credentials (planview_admin.txt, "Client Credentials"): a form and Basic; the answer's `id_token` goes into
  `Authorization: Bearer …`. `worker.auth` knows how long it lives.

How it answers
--------------
- The limit is per customer, and points are what it counts: `X-Rate-Limit-Remaining` on success, 429 and `Retry-After`
  in seconds beyond ("Working with Rate Limits"). What a call costs and how long a window is, nobody says.
- Pages: `startIndex` (from 1) and `count` are asked, `startIndex`, `itemsPerPage` and `Resources` answered. The next
  page is at `startIndex + itemsPerPage` of the answer; an empty or short one is the last ("Working with Paged
  Responses"). Rows move between pages while the data change: one reading alone proves nothing absent.
- Error bodies are unpublished: JSON `message`, `detail` or `error`, else text.

What is unusual
---------------
- An email is unique unless the customer uses usernames; then several people may share one (PVA-USERS).
- A new user is pending until the invitation is accepted; deactivated ones stay and can be reactivated (PVA-USERS).
- No idempotency key is known: what an interrupted create made is found by username, else by email.
- Search parameters are unpublished: what a search asks for is checked again here, as the vendor may ignore it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.planview_admin.client import USER_LIST
from worker.auth import CLIENT_CREDENTIALS, ClientCredentials
from worker.command import System

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.auth import Flow


def sign_in(connection: Connection) -> Flow:
    """Give how a connection signs in: its client credentials; raises `ValueError` without them."""
    if connection.client_id and connection.client_secret is not None:
        said = connection.operations.get(CLIENT_CREDENTIALS.name)
        endpoint = CLIENT_CREDENTIALS if said is None else CLIENT_CREDENTIALS.overridden(said.method, said.path)
        return ClientCredentials(connection.client_id, connection.client_secret.get_secret_value(), endpoint)
    raise ValueError(f"connections.{connection.name} needs client_id and client_secret")


SYSTEM = System(
    name="planview_admin",
    auth=sign_in,
    cheapest=USER_LIST,
    cheapest_query={"count": "1"},
    headers={"Accept": "application/json"},
)
