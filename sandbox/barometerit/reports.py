"""barometerIT's reports: snapshots that take time and lock their report, downloads of any size, uploaded documents."""

import asyncio
import hashlib

from sandbox.barometerit.snapshots import Body, body
from sandbox.barometerit.tenant import FORMATS, Tenant
from sandbox.wire import Answer, Call, Object, Operation, Refusal, Stream, operation


class Reports(Tenant):
    """The Reporting Service, and documents."""

    @operation("POST", "/reports/*", "report.generate")
    async def report_generate(self, call: Call) -> Answer:
        """A new snapshot; its format is the request's Content-Type. One at a time for each report."""
        report = self._report(call.ident)
        for asset in self.assets.page(0, None, call.ident):
            if asset["readyAt"] > call.now:
                after = self.switches.report_busy_retry_after
                headers = {} if after is None else {"Retry-After": str(max(1, round(after.total_seconds())))}
                raise Refusal(self.switches.report_busy, "a snapshot of this report is being made", headers=headers)
        kind = call.headers["Content-Type"].partition(";")[0].strip().lower()
        wait = self.switches.report_time.total_seconds()
        asset = {
            "bn": self._bn("040U"),
            "reportBn": call.ident,
            "fileFormat": FORMATS[kind],
            "readyAt": call.now + wait,
            "rows": report["rows"],
            "columns": report["columns"],
        }
        self.assets.add(asset)
        call.did("generated", "assets", asset["bn"])
        if self.switches.report_answer == "when_ready" and wait:
            await asyncio.sleep(wait)
        return self.answer({"assetBn": asset["bn"], "fileFormat": asset["fileFormat"]})

    @operation("GET", "/reports/*", "report.download")
    def report_download(self, call: Call) -> Answer:
        """The snapshot's data; `deleteAsset=true` removes it as soon as it is read, come what may of the download."""
        asset = self.existing("assets", call.ident)
        if asset["readyAt"] > call.now:
            return self._not_ready()
        if call.query.get("deleteAsset", "false").lower() == "true":
            self.assets.remove(call.ident)
            call.did("deleted", "assets", call.ident)
        return self._download(call, asset)

    @operation("GET", "/reports/*/size", "report.size")
    def report_size(self, call: Call) -> Answer:
        """`{assetBn, size}`; that there is such a step is documented, the path is not."""
        if not self.switches.report_size_path:
            raise Refusal(404, "there is nothing here")
        asset = self.existing("assets", call.ident)
        if asset["readyAt"] > call.now:
            return self._not_ready()
        return self.answer({"assetBn": call.ident, "size": _body(asset).length + self.switches.report_size_delta})

    def digest(self, asset_bn: str) -> Object:
        """Bytes, sha256, rows and columns of a snapshot."""
        asset = self.assets.get(asset_bn)
        if asset is None:
            raise ValueError(f"there is no asset {asset_bn}")
        made = _body(asset)
        facts = {"rows": asset["rows"], "columns": asset["columns"]}
        return {"bytes": made.length, "sha256": made.sha256(), **facts}

    @operation("POST", "/documents", "document.upload", upload=True)
    async def document_upload(self, call: Call) -> Answer:
        """A file as a form's part, or as the body with `name` in the query; becomes an entity of type AST."""
        name, size, digest = call.query.get("name", ""), 0, hashlib.sha256()
        if call.upload is not None:
            async for field, block in call.upload():
                if field == "=name":
                    name = block.decode(errors="replace")
                elif not field.startswith("="):
                    name = name or field
                    size += len(block)
                    digest.update(block)
        if not name:
            raise Refusal(400, "name is required: in the query, or a form's part")
        entity = self._new_entity("AST", call.now, self._self)
        entity["name"] = name
        self.entities.add(entity)
        document = {"bn": entity["bn"], "name": name, "size": size, "sha256": digest.hexdigest()}
        self.documents.add(document)
        call.did("created", "documents", entity["bn"])
        return self.answer({"bn": entity["bn"], "name": name, "size": size})

    # Snapshots

    def produced(self, call: Call, wanted: Operation) -> str:
        """A download's media type is the report's."""
        if wanted.name == "report.download":
            return self._report_type(self.assets.get(call.ident))
        return super().produced(call, wanted)

    def _report(self, bn: str) -> Object:
        known = self.reports.get(bn)
        if known is not None:
            return known
        entity = self.entities.get(bn)
        if entity is None or entity["entityDiscriminator"] != "ADQ":
            raise Refusal(404, f"there is no report {bn}")
        return {"rows": 1000, "columns": 7}

    def _report_type(self, asset: Object | None) -> str:
        if self.switches.report_content_type == "text/plain" or asset is None:
            return "text/plain"
        return next(kind for kind, name in FORMATS.items() if name == asset["fileFormat"])

    def _not_ready(self) -> Answer:
        match self.switches.report_not_ready:
            case "202":
                return self.answer({"message": "the snapshot is being generated"}, 202)
            case "204":
                return Answer(204)
            case "empty":
                return Answer(200, b"", {"Content-Type": "text/plain;charset=UTF-8"})
            case _:
                raise Refusal(404, "there is no such snapshot yet")

    def _download(self, call: Call, asset: Object) -> Answer:
        made = _body(asset)
        headers = {"Content-Type": f"{self._report_type(asset)};charset=UTF-8"}
        etag = f'"{asset["bn"]}-{made.length:x}"'
        if self.switches.report_etag != "none":
            headers["ETag"] = etag if self.switches.report_etag == "strong" else f"W/{etag}"
        start, stop, status = 0, made.length, 200
        if self.switches.report_ranges:
            headers["Accept-Ranges"] = "bytes"
            condition = call.headers.get("If-Range")
            # RFC 9110, 13.1.5: only a strong validator that is the same lets a range through.
            if condition is None or condition == headers.get("ETag", "").removeprefix("W/"):
                start, stop, status = _range(call.headers.get("Range"), made.length)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{made.length}"
        stream = Stream(
            stop - start,
            lambda low, high: made.blocks(start + low, start + high),
            rate=self.switches.report_rate,
            chunked=self.switches.report_framing == "chunked",
        )
        return Answer(status, stream, headers)


def _body(asset: Object) -> Body:
    return body(asset["bn"], asset["fileFormat"], asset["rows"], asset["columns"])


def _range(header: str | None, length: int) -> tuple[int, int, int]:
    """Start, stop and status of a Range header (RFC 9110, 14.2); several ranges, or nonsense, mean the whole."""
    unit, _, spec = (header or "").partition("=")
    first, hyphen, last = spec.partition("-")
    whole = (0, length, 200)
    if unit.strip() != "bytes" or not hyphen or "," in spec or not (first + last).strip().isdigit():
        return whole
    if not first:
        start, stop = max(0, length - int(last)), length
    else:
        start, stop = int(first), min(length, int(last) + 1) if last else length
        if last and int(last) < start:
            return whole
    if start >= stop:
        raise Refusal(416, "the range is beyond the end", headers={"Content-Range": f"bytes */{length}"})
    return start, stop, 206
