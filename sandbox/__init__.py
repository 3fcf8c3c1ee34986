"""
The sandbox: stand-ins of barometerIT, Planview Admin and Planpoint on one port, with limits, faults and a journal.

It is a second reading of the vendors' documents: it imports nothing else of this project, so a client and the sandbox
agree only where both read the same page. Where the documents are silent it takes the likely reading, and a switch for
the others.

Addresses
---------
`http://127.0.0.1:P/barometerit` (then `/api/c/…`), `/planview_admin` (then `/io/v1/…`, `/public/v1/…`), `/planpoint`
(then `/api/…`). More tenants: `/t/<tenant>/barometerit` and so on; each has its own objects, limits, tokens and
switches and comes into being with its first request. Without a prefix the tenant is `default`.

Credentials, unless configured otherwise: barometerIT `svc-relay` / `sandbox-password` (Basic); Planview Admin
`sandbox-client` / `sandbox-secret` (client credentials); Planpoint token `sandbox-token`, or login `relay@example.com`
/ `sandbox-password`.

In a program
------------
Three forms of one API. `Sandbox` serves on the running loop, `SandboxThread` on a loop of its own in a thread (for
tests without a loop), `SandboxProcess` in a process of its own (for benchmarks and for tests that kill things):

    async with Sandbox(port=0, quota="50/2s", latency="100ms") as sandbox: ...
    with SandboxThread() as sandbox: ...
    with SandboxProcess(latency="100ms") as sandbox: ...

All take `host="127.0.0.1"`, `port=0` (a free one), `quota=None` (Planview Admin's points window, "points/period"),
`latency=None` ("100ms", or "80ms-120ms" for a uniform spread), `seed=0` (all chance), `journal_limit=200_000`
(entries).

    sandbox.url                                   "http://127.0.0.1:41234"
    sandbox.base_url(vendor, tenant="default")    what a connection's base_url is to be
    sandbox.configure(vendor, tenant=None, **switches)      None: every tenant and those to come; gives the switches
    sandbox.configuration(vendor, tenant="default")         every switch and its value
    sandbox.seed(vendor, collection, count=None, objects=None, tenant="default", **with_) -> list of ids
    sandbox.state(vendor, collection, tenant="default", first=0, count=None) -> list of objects (copies)
    sandbox.count(vendor, collection, tenant="default") -> int
    sandbox.duplicates(vendor=None, tenant=None) -> list of {"vendor", "tenant", "collection", "key", "ids"}, one item
                                                  for each natural key that several objects have; empty: nothing twice
    sandbox.invalidate_tokens(vendor, tenant="default")     every token handed out is refused from now on
    sandbox.digest(asset_bn, tenant="default")    {"bytes", "sha256", "rows", "columns"} of a report snapshot, computed
    sandbox.reset()                               as new: state, switches, faults, journal (the port stays)
    sandbox.summary()                             tenants, sizes of their collections, requests, rules
    await sandbox.stop(); await sandbox.start()   only `Sandbox`: gone, and back on the same port with its state
    sandbox.pid                                   only `SandboxProcess`

`seed` makes `count` objects (100,000 users in about a second) or takes `objects` as given, ids and missing fields
filled in. Collections, with their natural key, and what `with_` may say:

    barometerit     entities (type + name; type="SYS", status="IDFD"|"COMP"|"APPR") · reports (type + name: entities of
                    type ADQ; rows=1000, columns=7, or size=bytes) · assets · proposals · fields (name) · fieldsets
                    (name; type="SYS") · associations (source, target, qualifier) · documents (name)
    planview_admin  users (username, or else email; status="Active", role="User", products=[]) · audit (user_id=None) ·
                    products (name)
    planpoint       projects (namespace + name; namespace=, host_name=) · floors (project + name; project=) · units
                    (floor + name; floor= or project=, made if missing) · groups (namespace + name) · enterprises
                    (namespace + name) · leads (no key; project=)

Switches
--------
Every vendor: `latency`; `quota` ("50/2s": fixed windows aligned to the clock; None: unlimited); `remaining_on_429`
(False). Durations are "100ms", "2s", "5m", a number of seconds, or a timedelta.

barometerit: `username`, `password`; `page_default` (100), `page_max` (1000); `unfiltered_spelling` ("unfilterdCount" |
  "unfilteredCount"); `create_answer` ("entity" | "bn"); `put_replaces` (True: PUT of an entity needs `name` and empties
  the basic fields left out; False: it merges); `editor` (True; False: writes are 403); `report_time` ("0s":
  until a snapshot is ready); `report_not_ready` ("404" | "202" | "204" | "empty"); `report_answer` ("at_once" |
  "when_ready": when the POST answers); `report_busy` (409 | 423 | 503), `report_busy_retry_after` (None | "1s");
  `report_framing` ("length" | "chunked"); `report_etag` ("none" | "strong" | "weak"); `report_ranges` (False);
  `report_content_type` ("text/plain" | "by_format"); `report_rate` (None | bytes a second); `report_size_path` (True);
  `report_size_delta` (0: the size is told wrong by so many bytes).
planview_admin: `client_id`, `client_secret`; `token_lifetime` ("1h"); `expires_in` (False: in the token answer);
  `access_token` (False: beside id_token); `token_error` (401 | 400 | 403); `page_default` (50), `page_max` (200);
  `total_results` (False); `page_bug` (None | "zero" | "missing" | "repeat": itemsPerPage 0 or absent, the same page for
  ever); `usernames` (False: email is unique; True: username is); `unique` (True; False: nothing is refused as a
  duplicate); `points` (1 a call); `methods` (("PATCH", "PUT"): how a user is edited); `audit_order` ("ascending" |
  "descending").
planpoint: `generation` ("B" | "A"); `auth` (None: by generation | "bearer" | "raw"); `token`, `username`, `password`;
  `token_lifetime` ("1h": of a login); `find_shape` (None: by generation | "object" | "array"); `find_auth` (None: by
  generation | True | False); `paused` (None | True | {"value": True, "reason": "…"}: the account); `editor` (False;
  True: 403 on all but units); `count_skew` (0: added to `count` of `{records, count}`); `batch_max` (None).
  A project is paused by its own `paused` field.

Faults
------
    sandbox.faults.add(kind, **match_and_detail) -> id         rules are tried in order; the first that fires decides
        kind       "status" (status=, headers=, body=) · "delay" · "reset" (TCP RST) · "truncate" (fraction=0.5 of the
                   body, then the connection ends: end="close"|"reset", or stalls: "hang") · "short" (fraction=, but
                   framed as if whole) · "malformed" (the answer's status with a body that is no JSON) · "hang" (no
                   answer until released or the client goes)
        detail     after_effect=False: "status", "delay", "reset" and "hang" strike before the vendor acts; True: after.
                   delay=None: any kind waits so long first. truncate, short and malformed always act first.
        match      vendor, tenant, method, path (regular expression, searched in the path behind the vendor's prefix),
                   operation (as in the journal, "unit.create"; "*" wildcards), body_matches (regular expression)
        when       skip=0 (matches let pass first), nth=None (these matches only, counted from 1), times=None (fires so
                   often), probability=1.0 (with seed=)
    sandbox.faults.mix(throttled=0.10, retry_after="1", unavailable=0.05, reset=0.01, after_effect=0.5, seed=None,
                       **match) -> id      one draw a matching request, in order of arrival, from the seed: 429, 503,
                                           RST; `after_effect`: the share of 503s and resets that strike after it
    sandbox.faults.rules() · remove(id) · clear() · release()      release: what hangs is let go, and answered

Journal
-------
    sandbox.journal.entries(**filters, limit=None) -> list of Entry, in order of arrival
    sandbox.journal.count(**filters) -> int · counts(by="status", **filters) -> {value: n} (by any attribute of Entry)
    sandbox.journal.in_flight(vendor=None, tenant=None) · peak(vendor=None, tenant=None)   now, and at most so far
    sandbox.journal.clear() · seen()                requests since the start, forgotten ones included
        filters: vendor, tenant, method, path (regular expression), operation ("*" wildcards), status, fault, since (seq
        >), answered (True | False)
    Entry: seq, vendor, tenant, operation, method, path (behind the vendor's prefix), query, headers (a few;
        Authorization as scheme and a short hash), body (the first 2,000 characters, passwords and tokens removed),
        in_flight (on arrival, itself included), arrived and answered (`time.monotonic()`, comparable between processes
        of one machine), arrived_at and answered_at (UTC), status (None: not answered, or reset), fault (its kind;
        "bug": the sandbox's own fault), sent (bytes of body), effects (list of [verb, collection, id]: created,
        updated, deleted, generated, proposed, ignored).

Over HTTP
---------
The same under `/_sandbox/`, JSON both ways; arguments are the names above, in the body, or with GET and DELETE in the
query: GET `/` (a summary) · POST `/configure` · GET `/configuration` · POST `/seed` · GET `/state` · GET `/count` ·
GET `/duplicates` · POST `/tokens/invalidate` · GET `/digest` · POST `/reset` · GET, POST, DELETE `/faults` (DELETE:
`id=`, or all) · POST `/faults/mix` · POST `/faults/release` · GET, DELETE `/journal` · GET `/journal/count` · GET
`/journal/counts` · GET `/journal/seen` · GET `/journal/in_flight` · GET `/journal/peak`. An error is a 400 with
{"error": sentence}.

On the command line: `python -m sandbox [--port P] [--host H] [--quota 50/2s] [--latency 100ms] [--seed N]` prints
`sandbox http://127.0.0.1:P` when it serves, then how to reach each vendor; SIGINT or SIGTERM ends it.
`serve(port=…, host=…, quota=…, latency=…, seed=…, announce=None)` is the same from Python and blocks.
"""

from sandbox.faults import Faults
from sandbox.journal import Entry, Journal
from sandbox.remote import SandboxProcess, SandboxThread, serve
from sandbox.server import Sandbox

__all__ = ["Entry", "Faults", "Journal", "Sandbox", "SandboxProcess", "SandboxThread", "serve"]
