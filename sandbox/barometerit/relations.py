"""barometerIT's associations between entities, and the proposals that wait for an editor."""

from sandbox.barometerit.tenant import HELD, Tenant, ends
from sandbox.wire import Answer, Call, Object, Refusal, operation


class Relations(Tenant):
    """The Association Service and the Proposal Service."""

    @operation("POST", "/association", "association.update")
    def association_update(self, call: Call) -> Answer:
        """Adds and removes; an association that is there already is not made again. A held source makes a proposal."""
        said = call.object()
        source = self.entities.get(said.get("sourceBn"))
        if source is None:
            raise Refusal(400, f"sourceBn: there is no entity {said.get('sourceBn')}")
        added, removed = said.get("addedAssocs", []), said.get("removedAssocs", [])
        if not isinstance(added, list) or not isinstance(removed, list):
            raise Refusal(400, "addedAssocs and removedAssocs must be lists")
        for one in [*added, *removed]:
            bn = one.get("targetBn") if isinstance(one, dict) else one
            target = self.entities.get(bn)
            if target is None:
                raise Refusal(400, f"targetBn: there is no entity {bn}")
            kind = one.get("relationshipType") or said.get("relationshipType")
            if target["entityDiscriminator"] == "PER" and not kind:
                raise Refusal(400, "relationshipType is required for relationships to a Person")
        if source["contentStatus"]["id"] in HELD:
            return self._envelope([self._propose(call, source, {"added": added, "removed": removed})], call)
        for one in removed:
            for known in self.associations.having(ends({**one, "sourceBn": source["bn"]})):
                self.associations.remove(known["bn"])
                call.did("deleted", "associations", known["bn"])
        for one in added:
            self._associate(call, {**one, "sourceBn": source["bn"]})
        return self._envelope([(True, one["targetBn"]) for one in [*added, *removed]], call)

    @operation("GET", "/association", "association.list")
    def association_list(self, call: Call) -> Answer:
        """What a source is associated with, of one type."""
        source = call.query.get("sourceBn")
        if source is None or source not in self.entities:
            raise Refusal(400, f"sourceBn: there is no entity {source}")
        kind = self._type(call.query.get("targetEntityType"))
        wanted = call.query.get("relationshipType")
        found = []
        for one in self.associations.page(0, None, source):
            target = self.entities.get(one["targetBn"])
            if target and target["entityDiscriminator"] == kind and wanted in (None, one["relationshipType"]):
                found.append({**one, "entity": {"bn": target["bn"], "name": target["name"]}})
        return self.answer(self._paged(call, found))

    @operation("GET", "/proposals", "proposal.list")
    def proposal_list(self, call: Call) -> Answer:
        """Waiting changes of an entity or of a type; MINE are those the account may resolve."""
        entity, kind = call.query.get("entityBn"), call.query.get("entityType")
        if (entity is None) == (kind is None):
            raise Refusal(400, "entityBn or entityType is required, one of them")
        scope = call.query.get("type", "MINE")
        if scope not in ("MINE", "ALL"):
            raise Refusal(400, "type must be MINE or ALL")
        if kind is not None:
            self._type(kind)
        found = [
            one
            for one in self.proposals.page(0, None, entity)
            if kind in (None, one["entityType"]["code"]) and (scope == "ALL" or self.switches.editor)
        ]
        if call.query.get("conflicts", "false").lower() == "true":
            found = [one for one in found if one["conflicted"]]
        return self.answer(self._paged(call, found))

    def _associate(self, call: Call, said: Object) -> None:
        if self.associations.having(ends(said)):
            return
        made = {
            "bn": self._bn("040R"),
            "sourceBn": said["sourceBn"],
            "targetBn": said["targetBn"],
            "relationshipIdentifier": said.get("relationshipIdentifier"),
            "relationshipType": said.get("relationshipType"),
        }
        self.associations.add(made)
        call.did("created", "associations", made["bn"])
