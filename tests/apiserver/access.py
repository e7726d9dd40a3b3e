"""Who may do what: a bearer token (401) and RBAC rules (403), both asked before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tests.apiserver.errors import ApiError, Object

USER = "system:serviceaccount:default:tester"


class Action(NamedTuple):
    """What a request wants to do; `resource` has its subresource after a slash."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True)
class Rule:
    """One RBAC rule; `*` matches everything, no names and no namespaces match all of them."""

    verbs: tuple[str, ...] = ("*",)
    groups: tuple[str, ...] = ("*",)
    resources: tuple[str, ...] = ("*",)
    names: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    def matches(self, action: Action) -> bool:
        """Tells whether the rule speaks of an action."""
        pairs = ((self.verbs, "verb"), (self.groups, "group"), (self.resources, "resource"))
        return (
            all("*" in allowed or getattr(action, key) in allowed for allowed, key in pairs)
            and (not self.names or action.name in self.names)
            and (not self.namespaces or action.namespace in self.namespaces)
        )


def role_rules(role: Object) -> tuple[Rule, ...]:
    """Returns the rules of a Role, which hold in its namespace, or of a ClusterRole."""
    namespace = role["metadata"].get("namespace") if role["kind"] == "Role" else None
    return tuple(
        Rule(
            verbs=tuple(rule["verbs"]),
            groups=tuple(rule["apiGroups"]),
            resources=tuple(rule["resources"]),
            names=tuple(rule.get("resourceNames", ())),
            namespaces=(namespace,) if namespace else (),
        )
        for rule in role["rules"]
    )


@dataclass
class Access:
    """The rules in force: what any of `allowed` matches is allowed unless one of `denied` does."""

    token: str | None = None
    """The bearer token every request must carry; None: anybody is let in."""
    allowed: tuple[Rule, ...] = (Rule(),)
    denied: tuple[Rule, ...] = ()

    def authenticate(self, headers: Mapping[str, str]) -> None:
        """Raises ApiError 401 unless the request carries the token."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if self.token is not None and (scheme.lower(), token) != ("bearer", self.token):
            raise ApiError(401, "Unauthorized")

    def allows(self, action: Action) -> bool:
        """Tells whether an action is allowed."""
        return any(rule.matches(action) for rule in self.allowed) and not any(
            rule.matches(action) for rule in self.denied
        )

    def authorise(self, action: Action) -> None:
        """Raises ApiError 403 for an action that is not allowed."""
        if self.allows(action):
            return
        qualified = f"{action.resource}.{action.group}" if action.group else action.resource
        where = f'in the namespace "{action.namespace}"' if action.namespace else "at the cluster"
        scope = where if action.namespace else f"{where} scope"
        named = f' "{action.name}"' if action.name else ""
        raise ApiError(
            403,
            f'{qualified}{named} is forbidden: User "{USER}" cannot {action.verb} resource '
            f'"{action.resource}" in API group "{action.group}" {scope}',
            details={"name": action.name, "group": action.group, "kind": action.resource},
        )

    def review(self, review: Object) -> Object:
        """Answers a SelfSubjectAccessReview."""
        asked = review.get("spec", {}).get("resourceAttributes")
        if asked is None:
            return {**review, "status": {"allowed": True, "reason": "not about a resource"}}
        resource, subresource = asked.get("resource", ""), asked.get("subresource")
        action = Action(
            verb=asked.get("verb", ""),
            group=asked.get("group", ""),
            resource=f"{resource}/{subresource}" if subresource else resource,
            namespace=asked.get("namespace", ""),
            name=asked.get("name", ""),
        )
        return {**review, "status": {"allowed": self.allows(action)}}
