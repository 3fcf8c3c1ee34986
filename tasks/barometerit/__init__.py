"""
barometerIT: entities, custom fields, fieldsets, associations, proposals, reports and documents of an IT portfolio.

Sources, and what is from where
-------------------------------
- barometerit.txt: the vendor's page "About Integrations". Signing in, headers, the services, a report's steps.
- BIT-…: the vendor's pages under success.planview.com/Planview_Barometer/Barometer_API/Intergration_Services (spelled
  so), as far as they can be read: ENT Entity_Service, FLD Field_Services, FS Fieldset_Service, FILT Filter_Service,
  REP Reporting_Service, SRCH Search_Service, ASSOC Association_Service, PROP Proposal_Service, GS 2Getting_Started.
- Nothing: where these name an operation and no page shows it, method, path and body are assumed. Each says so in
  `planrelay operations`; `[connections.X.operations."…"]` sets them right (method, path, and by `fields` the names in
  its body).

What it wants
-------------
- `base_url` is the tenant's address; paths follow `/api/c`, where `c` is the current version (barometerit.txt);
  `api_prefix` names another.
- HTTP Basic with the login of a Person record (barometerit.txt). Writing needs Editor roles.
- `Content-Type` and `Accept: application/json;charset=UTF-8`; an answer that the client does not accept is a 406
  (barometerit.txt). Filter strings and reports come as text/plain.

How it answers
--------------
- Lists have `first` (0-based) and `count`; the largest `count` is unknown: 100 here. `GET /entities` also tells
  `unfilterdCount` (BIT-ENT; spelled so), how many there are without filters.
- No limits are published. Errors have no documented body.

What is unusual
---------------
- A write to an entity whose content status is Completed or Approved is held as a *proposal* for an editor: a success
  that changes nothing yet (About_contributions). `proposedChangeBns` tells (BIT-ASSOC); where an answer doesn't, what
  was written is read back. Results have `saved` and `proposed`.
- `PUT /entities/{bn}` takes all basic fields, so an update reads first and sends what it does not change as well.
- A report is locked while a snapshot of it is generated (BIT-REP): 409, 423 and 503 are taken for that. One snapshot of
  a report at a time, in the whole fleet. Its format is the request's Content-Type.
- A snapshot may not be ready when its asset BN is there: 404, 202, 204 and an empty body are taken for that.
- `deleteAsset=true` removes a snapshot as it is read: done only after the file is verified, by a second read.
- A BN has 12 digits and capitals in all examples; another shape is worth a warning, not an error.
- A filter string comes URL-encoded and goes into the URL as it is, not encoded twice (BIT-FILT).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.barometerit.client import JSON_TYPE
from tasks.barometerit.endpoints import ENTITY_LIST
from worker.auth import Basic
from worker.command import System

if TYPE_CHECKING:
    from config.connections import Connection
    from worker.auth import Flow


def sign_in(connection: Connection) -> Flow:
    """Give how a connection signs in: username and password; raises `ValueError` where they are missing."""
    if connection.username and connection.password is not None:
        return Basic(connection.username, connection.password.get_secret_value())
    raise ValueError(f"connections.{connection.name} needs username and password")


SYSTEM = System(
    name="barometerit",
    auth=sign_in,
    cheapest=ENTITY_LIST,
    cheapest_query={"type": "ORG", "first": "0", "count": "1"},
    headers={"Accept": JSON_TYPE},
    default_prefix="/api/c",
)
