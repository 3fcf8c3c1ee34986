"""barometerIT's custom fields, and the fieldsets that gather them for an entity type."""

from sandbox.barometerit.snapshots import base36
from sandbox.barometerit.tenant import DATA_TYPES, Tenant
from sandbox.wire import Answer, Call, Object, Refusal, operation


class Fields(Tenant):
    """The Field Service and the Fieldset Service."""

    @operation("GET", "/fields", "field.list")
    def field_list(self, _: Call) -> Answer:
        """All custom fields, in short."""
        short = ("bn", "dataType", "displayType", "controlLevel", "name")
        return self.answer([{name: field[name] for name in short} for field in self.fields])

    @operation("POST", "/fields", "field.create")
    def field_create(self, call: Call) -> Answer:
        """`name` is needed; dataType is one of seven."""
        field = self._new_field(self._field_said(call, required=True))
        self.fields.add(field)
        call.did("created", "fields", field["bn"])
        return self.answer(field)

    @operation("GET", "/fields/*", "field.read")
    def field_read(self, call: Call) -> Answer:
        """One custom field."""
        return self.answer(self.existing("fields", call.ident))

    @operation("PUT", "/fields/*", "field.update")
    def field_update(self, call: Call) -> Answer:
        """Sets what is given."""
        self.existing("fields", call.ident)
        changed = self.fields.change(call.ident, self._field_said(call, required=False))
        call.did("updated", "fields", call.ident)
        return self.answer(changed)

    @operation("DELETE", "/fields/*", "field.delete")
    def field_delete(self, call: Call) -> Answer:
        """Gone, with its values."""
        return self._deleted(call, "fields")

    @operation("GET", "/fieldsets", "fieldset.list")
    def fieldset_list(self, call: Call) -> Answer:
        """All fieldsets of an entity type, from `type` or `entityType`."""
        kind = self._type(call.query.get("type", call.query.get("entityType")))
        return self.answer([self._expanded(one) for one in self.fieldsets.page(0, None, kind)])

    @operation("POST", "/fieldsets", "fieldset.create")
    def fieldset_create(self, call: Call) -> Answer:
        """`name`, and `fields` as BNs."""
        fieldset = self._new_fieldset(self._fieldset_said(call, required=True))
        self.fieldsets.add(fieldset)
        call.did("created", "fieldsets", fieldset["bn"])
        return self.answer({name: fieldset[name] for name in ("bn", "expanded", "fields", "name")})

    @operation("GET", "/fieldsets/*", "fieldset.read")
    def fieldset_read(self, call: Call) -> Answer:
        """The fieldset with its fields in full, in order."""
        return self.answer(self._expanded(self.existing("fieldsets", call.ident)))

    @operation("PUT", "/fieldsets/*", "fieldset.update")
    def fieldset_update(self, call: Call) -> Answer:
        """Sets what is given."""
        self.existing("fieldsets", call.ident)
        changed = self.fieldsets.change(call.ident, self._fieldset_said(call, required=False))
        call.did("updated", "fieldsets", call.ident)
        return self.answer({name: changed[name] for name in ("bn", "expanded", "fields", "name")})

    @operation("DELETE", "/fieldsets/*", "fieldset.delete")
    def fieldset_delete(self, call: Call) -> Answer:
        """Gone; its fields stay."""
        return self._deleted(call, "fieldsets")

    def _expanded(self, fieldset: Object) -> Object:
        fields = [field for field in map(self.fields.get, fieldset["fields"]) if field]
        shown = {name: fieldset[name] for name in ("bn", "expanded", "helpText", "name", "notes")}
        return {**shown, "fields": [{**field, "sortVal": place} for place, field in enumerate(fields)]}

    def _field_said(self, call: Call, *, required: bool) -> Object:
        said = {name: value for name, value in call.object().items() if name != "bn"}
        if (required or "name" in said) and (not isinstance(said.get("name"), str) or not said["name"].strip()):
            raise Refusal(400, "name is required: a text")
        if said.get("dataType", "TEXT") not in DATA_TYPES:
            raise Refusal(400, f"dataType must be one of {', '.join(DATA_TYPES)}")
        return said

    def _fieldset_said(self, call: Call, *, required: bool) -> Object:
        said = {name: value for name, value in call.object().items() if name != "bn"}
        if (required or "name" in said) and (not isinstance(said.get("name"), str) or not said["name"].strip()):
            raise Refusal(400, "name is required: a text")
        fields = said.get("fields", [])
        if not isinstance(fields, list) or any(one not in self.fields for one in fields):
            raise Refusal(400, "fields must be a list of BNs of fields that exist")
        return said

    def _new_field(self, said: Object) -> Object:
        number = self.serial()
        return {
            "bn": "040L" + base36(number, 8),
            "choices": [],
            "dataType": "TEXT",
            "decimalPlaces": 0,
            "displayType": "TEXT_BOX",
            "fieldId": f"field{number}",
            "fieldLength": 1000,
            "helpText": "",
            "controlLevel": "EDITABLE",
            "name": f"Field {number}",
            "notes": "",
            **said,
        }

    def _new_fieldset(self, said: Object) -> Object:
        number = self.serial()
        return {
            "bn": "040I" + base36(number, 8),
            "expanded": False,
            "fields": [],
            "fieldsetId": f"fieldset{number}",
            "helpText": "",
            "name": f"Fieldset {number}",
            "notes": "",
            "entityType": "SYS",
            **said,
        }
