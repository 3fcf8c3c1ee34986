"""
The stand-in of Planpoint.

Sources: planpoint.txt (what the vendor's page says), generation B (the OpenAPI file of the official SDKs: bearer JWT,
200 or 201, `{records, count}`) and generation A (the documentation site: raw key, 200, bare arrays, `availability` for
`status`). Objects are kept with B's names and shown with the generation's. Names of the other generation in a write are
ignored, as a document store with a schema ignores them; the journal says so.

Nobody documents: enterprises' shape, deleting a project (taken to be DELETE /api/projects/{id}), the status of a paused
account (taken to be 403), whether unknown ids in a batch are an error (taken to be skipped).
"""

from sandbox.planpoint.account import SUMMARY, Account, PlanpointSwitches
from sandbox.wire import Answer, Call, Refusal, Routes, operation

__all__ = ["Planpoint", "PlanpointSwitches"]


class Planpoint(Account):
    """Projects with floors and units, groups, enterprises and leads of one account."""

    @operation("POST", "/users/login", "user.login", public=True, free=True)
    def login(self, call: Call) -> Answer:
        """B: `{message, access_token}`. A: the whole user, secrets and all; its inputs may come in the query."""
        said = self._inputs(call)
        username, password = said.get("username"), said.get("password")
        if not isinstance(username, str) or not username:
            raise Refusal(400, "username is required")
        if (username, password) != (self.switches.username, self.switches.password):
            raise Refusal(401, "the username or the password is wrong")
        until = call.now + self.switches.token_lifetime.total_seconds()
        token = self.tokens.issue({"sub": username, "jti": str(self.serial())}, until, call.now)
        if self._b:
            return self.answer({"message": "Logged in", "access_token": token})
        return self.answer(
            {
                "_id": self._ident("user", 1),
                "username": username,
                "email": username,
                "firstName": "Relay",
                "lastName": "Account",
                "role": "owner",
                "phone": "",
                "companyName": "Sandbox Developments",
                "token": token,
                "resetToken": "sandbox-reset-token",
                "stripeCustomerId": "cus_sandbox",
                "stripeSubscriptionId": "sub_sandbox",
                "subscription": "pro",
                "projects": [project["_id"] for project in self.projects],
                "groups": [group["_id"] for group in self.groups],
                "administrators": [],
                "editors": [],
                "invites": [],
            }
        )

    @operation("POST", "/projects/find", "project.find")
    def project_find(self, call: Call) -> Answer:
        """B: one project, 201. The vendor's page and A: all of the namespace that the host can reach, 200."""
        found = self._find(call, self.projects)
        for project in found:
            self._refuse_paused(project)
        return self._found([self._full(project) for project in found], created=201)

    @operation("GET", "/projects/mine", "project.mine")
    def project_mine(self, _: Call) -> Answer:
        """All projects, in short."""
        return self._say([{name: one[name] for name in SUMMARY if name in one} for one in self.projects], 201)

    @operation("POST", "/projects", "project.create")
    def project_create(self, call: Call) -> Answer:
        """In A's documentation only; `name` is required, namespace and host name are made up if left out."""
        said = self._inputs(call)
        self._required(said, "name")
        project = self._made(self.projects, self._new_project(said))
        call.did("created", "projects", project["_id"])
        return self._say(self._full(project), 201)

    @operation("GET", "/projects/*", "project.read")
    def project_read(self, call: Call) -> Answer:
        """The project with its floors and their units."""
        project = self.existing("projects", call.ident)
        self._refuse_paused(project)
        return self._say(self._full(project), 201)

    @operation("PATCH", "/projects/*", "project.update")
    def project_update(self, call: Call) -> Answer:
        """Free-form."""
        self._refuse_paused(self.existing("projects", call.ident))
        return self._say(self._full(self._patch(call, "projects", call.ident)), 201)

    @operation("DELETE", "/projects/*", "project.delete")
    def project_delete(self, call: Call) -> Answer:
        """With its floors, units and leads. Path and method are taken to be these; nobody documents them."""
        project = self.existing("projects", call.ident)
        self._refuse_paused(project)
        for lead in self.leads.page(0, None, call.ident):
            self.leads.remove(lead["_id"])
        for floor in self.floors.page(0, None, call.ident):
            for unit in self.units.page(0, None, floor["_id"]):
                self.units.remove(unit["_id"])
            self.floors.remove(floor["_id"])
        self.projects.remove(call.ident)
        call.did("deleted", "projects", call.ident)
        return self.answer({"message": "Project deleted"})

    @operation("GET", "/groups", "group.list")
    def group_list(self, _: Call) -> Answer:
        """All groups."""
        return self._records(list(self.groups), 201)

    @operation("POST", "/groups", "group.create")
    def group_create(self, call: Call) -> Answer:
        """`name` of 3 to 120 characters (OpenAPI)."""
        said = self._inputs(call)
        self._required(said, "name")
        if not 3 <= len(said["name"]) <= 120:
            raise Refusal(400, "name must have 3 to 120 characters")
        group = self._made(self.groups, self._new_group(said))
        call.did("created", "groups", group["_id"])
        return self._say(group, 201)

    @operation("POST", "/groups/find", "group.find")
    def group_find(self, call: Call) -> Answer:
        """All groups of the namespace that the host can reach (planpoint.txt, "Fetch Groups")."""
        return self._found(self._find(call, self.groups), created=200)

    @operation("GET", "/groups/*", "group.read")
    def group_read(self, call: Call) -> Answer:
        """One group."""
        return self._say(self.existing("groups", call.ident), 201)

    @operation("PATCH", "/groups/*", "group.update")
    def group_update(self, call: Call) -> Answer:
        """Free-form."""
        self.existing("groups", call.ident)
        return self._say(self._patch(call, "groups", call.ident), 201)

    @operation("POST", "/enterprises/find", "enterprise.find")
    def enterprise_find(self, call: Call) -> Answer:
        """All enterprises of the namespace that the host can reach (planpoint.txt, "Fetch Enterprises")."""
        return self._found(self._find(call, self.enterprises), created=200)

    @operation("GET", "/floors", "floor.list")
    def floor_list(self, call: Call) -> Answer:
        """A project's floors, a bare array in both generations."""
        return self.answer(self.floors.page(0, None, self._pid(call)))

    @operation("POST", "/floors", "floor.create")
    def floor_create(self, call: Call) -> Answer:
        """`project: {_id}` and `name` are required."""
        said = self._inputs(call)
        project = self._reference(said, "project", self.projects)
        self._required(said, "name")
        self._refuse_paused(project)
        floor = self._made(self.floors, {**said, "project": project["_id"]})
        call.did("created", "floors", floor["_id"])
        return self._say(floor, 201)

    @operation("GET", "/floors/*", "floor.read")
    def floor_read(self, call: Call) -> Answer:
        """One floor."""
        return self.answer(self.existing("floors", call.ident))

    @operation("PATCH", "/floors/*", "floor.update")
    def floor_update(self, call: Call) -> Answer:
        """Free-form."""
        floor = self.existing("floors", call.ident)
        self._refuse_paused(self.projects.get(floor["project"]))
        return self.answer(self._patch(call, "floors", call.ident))

    @operation("GET", "/units", "unit.list")
    def unit_list(self, call: Call) -> Answer:
        """A project's units."""
        found = [unit for floor in self.floors.page(0, None, self._pid(call)) for unit in self._units(floor)]
        return self._records([self._shown(unit) for unit in found], 201)

    @operation("POST", "/units", "unit.create")
    def unit_create(self, call: Call) -> Answer:
        """B: `floor: {_id}` is required. A: a name and a project id, shown as query parameters."""
        said = self._inputs(call)
        if self._b or isinstance(said.get("floor"), dict):
            floor = self._reference(said, "floor", self.floors)
        else:
            named = {"project": {"_id": said.get("project", said.get("pid"))}}
            project = self._reference(named, "project", self.projects)
            floor = self._first_floor(project["_id"])
            self._required(said, "name")
        self._refuse_paused(self.projects.get(floor["project"]))
        fields = self._unit_fields(said, call)
        fields.update({"floor": floor["_id"], "status": fields.get("status", "Available")})
        unit = self._made(self.units, fields)
        call.did("created", "units", unit["_id"])
        return self._say(self._shown(unit), 201)

    @operation("PATCH", "/units", "unit.update_many")
    def unit_update_many(self, call: Call) -> Answer:
        """One patch for all ids (OpenAPI); unknown ids are skipped."""
        said = call.object()
        ids, patch = said.get("ids"), said.get("patchData")
        if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
            raise Refusal(400, "ids is required: a list of texts")
        if not isinstance(patch, dict):
            raise Refusal(400, "patchData is required: an object")
        if self.switches.batch_max is not None and len(ids) > self.switches.batch_max:
            raise Refusal(400, f"ids may hold {self.switches.batch_max} at most")
        known = [one for one in dict.fromkeys(ids) if one in self.units]
        for ident in known:
            self._refuse_paused(self._project_of(self.units.get(ident)))
        fields = self._unit_fields(patch, call)
        changed = [self.units.change(ident, fields) for ident in known]
        for ident in known:
            call.did("updated", "units", ident)
        return self._say([self._shown(unit) for unit in changed], 201)

    @operation("GET", "/units/*", "unit.read")
    def unit_read(self, call: Call) -> Answer:
        """One unit."""
        unit = self.existing("units", call.ident)
        self._refuse_paused(self._project_of(unit))
        return self.answer(self._shown(unit))

    @operation("PATCH", "/units/*", "unit.update")
    def unit_update(self, call: Call) -> Answer:
        """Free-form."""
        unit = self.existing("units", call.ident)
        self._refuse_paused(self._project_of(unit))
        changed = self.units.change(call.ident, self._unit_fields(call.object(), call))
        call.did("updated", "units", call.ident)
        return self.answer(self._shown(changed))

    @operation("DELETE", "/units/*", "unit.delete")
    def unit_delete(self, call: Call) -> Answer:
        """Gone at once."""
        self._refuse_paused(self._project_of(self.existing("units", call.ident)))
        self.units.remove(call.ident)
        call.did("deleted", "units", call.ident)
        return self.answer({"message": "Unit deleted"})

    @operation("GET", "/leads", "lead.list")
    def lead_list(self, call: Call) -> Answer:
        """A project's leads; in A `pid` may be left out."""
        pid = None if not self._b and "pid" not in call.query else self._pid(call)
        return self.answer([self._lead(lead) for lead in self.leads.page(0, None, pid)])


Planpoint.routes = Routes(Planpoint)
