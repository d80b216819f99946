"""What an operator writes: the policy, its plans and features, and the rules that follow from them for one call.

The field names are the keys of the TOML file; the defaults are the safe ones. ``plans`` and ``features`` may override
any key of ``[input]``, ``[output]``, ``[time]`` and ``[checks]``: the top is merged with the plan, then the feature.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from .errors import ConfigurationError, nearest
from .limits import Calendar, Limit, PlacedLimit
from .pricing import PriceEntry
from .types import nano

Off = Literal["off"]
InputAction = Literal["off", "flag", "deny"]
OutputAction = Literal["off", "flag", "deny", "redact"]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrNone = Annotated[int, Field(strict=True, ge=0)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


def _read_limit(value: object) -> object:
    return Limit.parse(value) if isinstance(value, str) else value


Sentence = Annotated[InstanceOf[Limit], BeforeValidator(_read_limit), PlainSerializer(str)]


def _no_duplicates(kind: str, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    seen: dict[object, Limit] = {}
    for limit in limits:
        other = seen.setdefault(limit.counts_the_same(kind), limit)
        if other is not limit:
            raise ValueError(f'"{limit}" and "{other}" count the same thing: keep one of them')
    return limits


class _Section(BaseModel):
    # Built at first use: importing the package is not to pay for it.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class IdentityRules(_Section):
    """``[identity]``: who may call."""

    required: bool = False
    """Deny a call that names no user."""
    verified: bool = False
    """Accept only an `Identity` that a verifier made."""
    send_safety_identifier: bool = False
    """Send the keyed hash of the user_id as OpenAI's ``safety_identifier``."""
    plan_seconds: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """How long an answer of ``plan_for`` holds; 0 asks at each call."""


class InputRules(_Section):
    """``[input]``: what may be sent."""

    max_message_chars: Count = 4_000
    """Characters of one user message's text. System and developer messages are the application's own."""
    max_turns: Count = 10
    """The most recent turns are kept; a turn starts at a user message."""
    max_context_tokens: Count = 8_000
    """Tokens of the whole request, tools and images included."""
    max_images: CountOrNone = 4
    """Images of the whole request."""
    max_request_bytes: Count = 1_048_576
    """UTF-8 bytes of all text. Looked at first, before anything is parsed or tokenized."""
    max_inline_bytes: Count = 8_388_608
    """Base64 characters of images, audio and files sent inline."""
    overflow: Literal["trim", "deny"] = "trim"
    """What to do with a history that is too long."""


class OutputRules(_Section):
    """``[output]``: how much may come back."""

    default_max_tokens: Count | Off = 1_000
    """Sent when the caller names no cap. "off" sends none."""
    max_tokens: Count = 4_000
    """A larger cap is lowered to this."""
    on_budget: Literal["deny", "shrink", "downgrade"] = "deny"
    """Where a limit in money has no room: "deny" the call, "shrink" its cap, or "downgrade" its model."""
    min_tokens: Count = 64
    """The least cap that "shrink" goes down to; below it the call is denied."""
    downgrade: dict[Name, Name] = {}
    """Model to the cheaper one that "downgrade" tries."""


class TimeRules(_Section):
    """``[time]``: how long a call may take, everything included."""

    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] | Off = 30.0
    """"off" leaves the SDK's own time-outs."""


class BreakerRules(_Section):
    """``[breaker]``: when calls to a host and model that keep failing are refused at once. Per process."""

    failures: Count | Off = 10
    """Failures in a row that open a breaker: no connection, no answer in time, or an answer of 500 and above."""
    seconds: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    """How long it stays open, until one call at a time may try."""


class CheckRules(_Section):
    """``[checks]``: what each check of input and output does when it finds something."""

    injection: InputAction = "flag"
    """Input: wording that tries to take the model over, scored from 0 to 1; from 0.5 on it is a finding."""
    role_markers: InputAction = "deny"
    """Input: tokens of chat templates in what is not the application's own text."""
    hidden_text: InputAction = "deny"
    """Input: invisible tag characters, bidi overrides, floods of zero-width characters."""
    prompt_leak: OutputAction = "deny"
    """Output: a canary, or about a hundred characters of the system prompt in a row."""
    secrets: OutputAction = "redact"
    """Output: keys and credentials, by the shapes that their issuers give them."""
    links: OutputAction = "flag"
    """Output: links and images, however written, to hosts that are not in `allowed_hosts`."""
    allowed_hosts: tuple[str, ...] = ()
    """For `links`: hosts, or `*.example.com` for all below one."""
    tool_calls: OutputAction = "flag"
    """Output: calls of tools that were not offered, or with arguments that break their schema, and structured outputs
    that break theirs. There is nothing to redact in them: "redact" denies."""
    on_error: Literal["deny", "allow"] = "deny"
    """What becomes of a call where a check fails or overruns its time."""


class _Place(_Section):
    """What a plan and a feature have in common: limits, and overrides of the top's sections."""

    kind: ClassVar[str]

    limits: tuple[Sentence, ...] = ()
    """Of the calls that come under this name."""
    input: InputRules = Field(default_factory=InputRules)
    output: OutputRules = Field(default_factory=OutputRules)
    time: TimeRules = Field(default_factory=TimeRules)
    checks: CheckRules = Field(default_factory=CheckRules)

    @field_validator("limits")
    @classmethod
    def _count_apart(cls, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        return _no_duplicates(cls.kind, limits)

    @field_serializer("input", "output", "time", "checks")
    def _only_what_is_set(self, section: _Section) -> dict[str, Any]:
        # What a section sets itself is what overrides; dumped in full, it would override everything when loaded again.
        return section.model_dump(exclude_unset=True)


class Plan(_Place):
    """``[plans.NAME]``: a subscription plan. Its limits are per user unless they say otherwise."""

    kind = "plan"

    features: tuple[Name, ...] = ("*",)
    """Exact names of the features that it includes; `*` is all of them."""
    models: tuple[Name, ...] = ("*",)
    """Exact names as they are sent, or a prefix that ends in ``*``."""

    def allows_feature(self, feature: str | None) -> bool:
        """Whether the plan includes the feature. A call without a feature is allowed by every plan."""
        return feature is None or "*" in self.features or feature in self.features

    def allows_model(self, model: str) -> bool:
        """Whether the plan includes the model."""
        return any(model == name or (name.endswith("*") and model.startswith(name[:-1])) for name in self.models)


class Feature(_Place):
    """``[features.NAME]``: a feature of the application. Its limits are totals unless they say otherwise."""

    kind = "feature"


class HostedTool(_Section):
    """What a provider's own tool may add to a call: tokens that are reserved, and a fee for each use."""

    reserve_tokens: CountOrNone = 0
    """Input tokens that one call of the tool may add."""
    fee: Annotated[str, Field(pattern=r"^\$[0-9]{1,6}(\.[0-9]{1,9})?$")] = "$0"
    """USD for one call of the tool, quoted."""

    @property
    def fee_nano(self) -> int:
        """The fee in nano-USD."""
        return nano(self.fee[1:]) or 0


class RouteRules(_Section):
    """``[routes]``: which unguarded routes and hosted tools are let through."""

    allow: tuple[Name, ...] = ()
    """For example ``POST /batches``, or ``POST /vector_stores/*/search``; ``*`` alone opens all."""
    hosted_tools: dict[Name, HostedTool] = {}
    """Unlisted ones are denied; ``*`` stands for all."""

    @field_validator("allow")
    @classmethod
    def _readable(cls, routes: tuple[str, ...]) -> tuple[str, ...]:
        for route in routes:
            method, _, path = route.partition(" ")
            if route != "*" and not (method.isupper() and path.startswith("/")):
                raise ValueError(f'{route!r} is not a route: write "POST /batches", or "*" for all')
        return routes


DEFAULT_LIMITS = ("10 requests/minute", "100 requests/day", "50_000 tokens/day", "$0.50/day", "$10/month")
"""Of the plan "default" in a policy that does not write its own."""

SectionT = TypeVar("SectionT", bound=_Section)


def _merged(*sections: SectionT) -> SectionT:
    """The first section with what the later ones set themselves."""
    first, *overrides = sections
    changes = {key: getattr(section, key) for section in overrides for key in section.model_fields_set}
    return first.model_copy(update=changes) if changes else first


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one call: the policy's sections merged for its plan and feature, and all its limits."""

    plan: Plan
    input: InputRules
    output: OutputRules
    time: TimeRules
    checks: CheckRules
    limits: tuple[PlacedLimit, ...]


class Policy(_Section):
    """The whole policy. ``Policy()`` holds the safe defaults.

    Raises:
        ConfigurationError: names each wrong key, and the nearest right one.
    """

    kind: ClassVar[str] = "app"
    mode: Literal["enforce", "shadow"] = "enforce"
    """"shadow" decides and records, but never blocks or changes a request."""
    timezone: str = "UTC"
    """IANA name. Calendar days and months turn over here."""
    default_plan: Name = "default"
    """The plan of users for whom ``plan_for`` names none."""
    limits: tuple[Sentence, ...] = ()
    """Of the whole application, as totals."""
    alert_at_percent: tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...] = (80, 100)
    """Of every limit, once per window."""
    on_store_error: Literal["deny", "allow"] = "deny"
    """"allow" goes on with a process-local store, and says so on the record."""
    identity: IdentityRules = Field(default_factory=IdentityRules)
    input: InputRules = Field(default_factory=InputRules)
    output: OutputRules = Field(default_factory=OutputRules)
    time: TimeRules = Field(default_factory=TimeRules)
    breaker: BreakerRules = Field(default_factory=BreakerRules)
    checks: CheckRules = Field(default_factory=CheckRules)
    plans: dict[Name, Plan] = {}
    features: dict[Name, Feature] = {}
    routes: RouteRules = Field(default_factory=RouteRules)
    prices: dict[Name, PriceEntry] = {}
    """USD per million tokens, quoted: floats are not exact."""

    @field_validator("limits")
    @classmethod
    def _count_apart(cls, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        return _no_duplicates(cls.kind, limits)

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ConfigurationError(_explained(error)) from error

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ValueError, OSError, LookupError) as error:
            raise ValueError(
                f'{name!r} is not a known time zone: write an IANA name such as "Europe/Berlin"'
            ) from error
        return name

    @model_validator(mode="before")
    @classmethod
    def _with_default_plan(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(values.get("plans", {}), Mapping):
            name = "default"
            if values.get("default_plan", name) == name and name not in values.get("plans", {}):
                return {**values, "plans": {**values.get("plans", {}), name: {"limits": DEFAULT_LIMITS}}}
        return values

    @model_validator(mode="after")
    def _has_its_default_plan(self) -> Policy:
        if self.default_plan not in self.plans:
            near = nearest(self.default_plan, self.plans)
            hint = f" (did you mean {near!r}?)" if near else ""
            raise ValueError(f"default_plan {self.default_plan!r} is not among [plans]{hint}")
        return self

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a TOML file.

        Raises:
            ConfigurationError: names the file, and what is wrong with it.
        """
        import tomllib  # here, because most programs read no file

        try:
            text = Path(path).read_text(encoding="utf-8")
            values = tomllib.loads(text)
        except OSError as error:
            raise ConfigurationError(f"The policy {os.fspath(path)!r} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The policy {os.fspath(path)!r} is not valid TOML: {error}.") from error
        try:
            return cls(**values)
        except ConfigurationError as error:
            raise ConfigurationError(f"In {os.fspath(path)!r}: {error}") from error.__cause__

    @classmethod
    def of(cls, source: Policy | Mapping[str, Any] | str | os.PathLike[str] | None) -> Policy:
        """The policy that a client's ``policy=`` stands for: one itself, a mapping, or the path of a TOML file."""
        if source is None:
            return cls()
        if isinstance(source, Policy):
            return source
        if isinstance(source, Mapping):
            return cls(**source)
        if isinstance(source, str | os.PathLike):
            return cls.from_file(source)
        raise ConfigurationError(
            f"policy= takes a Policy, a mapping or the path of a TOML file, not {type(source).__name__}."
        )

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change with any rule; ``policy_version`` on the records."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @cached_property
    def calendar(self) -> Calendar:
        """Days, weeks and months in the policy's time zone."""
        return Calendar(ZoneInfo(self.timezone))

    @cached_property
    def widest_input(self) -> InputRules:
        """The largest sizes that any plan or feature allows: what holds before the caller is known."""
        places = (*self.plans.values(), *self.features.values())
        overrides = [place.input for place in places]
        widest = {
            key: max([getattr(self.input, key), *(getattr(o, key) for o in overrides if key in o.model_fields_set)])
            for key in ("max_request_bytes", "max_inline_bytes")
        }
        return self.input.model_copy(update=widest)

    @cached_property
    def _rules(self) -> dict[tuple[str, str | None], Rules]:
        return {}

    def rules(self, plan: str, feature: str | None) -> Rules:
        """What holds for a call of that plan and feature.

        Raises:
            KeyError: there is no such plan.
        """
        # A feature that has no section of its own has no rules of its own; so callers cannot grow this cache either.
        key = plan, feature if feature in self.features else None
        rules = self._rules.get(key)
        if rules is None:
            rules = self._rules[key] = self._merge(*key)
        return rules

    def _merge(self, name: str, feature: str | None) -> Rules:
        plan = self.plans[name]
        places: list[_Place] = [plan] if feature is None else [plan, self.features[feature]]
        limits = [PlacedLimit.at("app", limit) for limit in self.limits]
        limits += [PlacedLimit.at(f"plan:{name}", limit) for limit in plan.limits]
        if feature is not None:
            limits += [PlacedLimit.at(f"feature:{feature}", limit) for limit in self.features[feature].limits]
        return Rules(
            plan=plan,
            input=_merged(self.input, *(place.input for place in places)),
            output=_merged(self.output, *(place.output for place in places)),
            time=_merged(self.time, *(place.time for place in places)),
            checks=_merged(self.checks, *(place.checks for place in places)),
            limits=tuple(limits),
        )


_UNION_MEMBERS = ("int", "float", "literal['off']", "constrained-int", "constrained-float")


def _explained(error: ValidationError) -> str:
    return "The policy is not valid. " + " ".join(_lines(error))


def _lines(error: ValidationError) -> Iterable[str]:
    for item in error.errors(include_url=False):
        # A union reports each of its members; "off" is the only one that we have, and naming it helps.
        where = tuple(part for part in item["loc"] if part not in _UNION_MEMBERS)
        key = ".".join(str(part) for part in where)
        if item["type"] == "extra_forbidden":
            near = _nearest(where)
            yield f"Unknown key {key!r}" + (f": did you mean {near!r}?" if near else ".")
        elif item["type"] == "value_error":
            cause = item.get("ctx", {}).get("error", item["msg"])
            yield f"{key}: {cause}." if key else f"{cause}."
        else:
            yield f"{key}: {item['msg'].replace('tuple', 'list')}."


def _nearest(where: tuple[int | str, ...]) -> str | None:
    """The right key that is nearest to a wrong one, found by walking the models down to it."""
    model: Any = Policy
    for step in where[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel) and step in model.model_fields:
            model = model.model_fields[str(step)].annotation
        else:  # the name of a plan, a feature, a price or a tool
            model = getattr(model, "__args__", (None, None))[-1]
            model = getattr(model, "__origin__", model) if not isinstance(model, type) else model
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    return nearest(str(where[-1]), model.model_fields)
