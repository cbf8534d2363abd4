"""The tokens file: who may ask over the network, and for what. It holds fingerprints, never a token itself."""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BeforeValidator, StringConstraints, ValidationError

from orchestrator.config.load import BadConfig
from orchestrator.config.models import Section
from orchestrator.config.yaml_lines import BadYaml, read
from orchestrator.domain.spans import WallTime

EVERY_GROUP: Final = "*"
TOKEN_STARTS: Final = "tanist_"
"""So that whoever looks for secrets in texts finds it."""

HEADER: Final = """\
# Who may ask this cluster's API over the network, and for what: read, confirm (answer proposals) or operate (every act).
# `sha256` is the fingerprint of a token that only its owner has. `tanist token add` and `tanist token revoke` write this
# file; a change counts at once, without a restart. Copy it to every node.
"""


class Right(IntEnum):
    """Each includes those before it."""

    NONE = 0
    READ = 1
    CONFIRM = 2
    OPERATE = 3


RIGHTS: Final = {"read": Right.READ, "confirm": Right.CONFIRM, "operate": Right.OPERATE}


def _right(value: Any) -> Right:
    if value not in RIGHTS:
        raise ValueError(f"expected one of {', '.join(RIGHTS)}")
    return RIGHTS[value]


def _in_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


class TokenSection(Section):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\s\x00-\x1f][^\x00-\x1f]*$")]
    """In whose name acts are recorded."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    rights: dict[str, Annotated[Right, BeforeValidator(_right)]]
    """By group; `*` is every group that is not named."""
    expires: Annotated[datetime, AfterValidator(_in_utc)] | None = None
    """UTC, where no other zone is given."""


class TokensFile(Section):
    tokens: tuple[TokenSection, ...] = ()


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever shows the token of this fingerprint."""

    name: str
    fingerprint: str
    rights: MappingProxyType[str, Right]
    expires_wall: WallTime | None

    def right(self, group: str) -> Right:
        """What is said of a group itself counts, and not what is said of every group."""
        return self.rights.get(group, self.rights.get(EVERY_GROUP, Right.NONE))


def fingerprint(token: str) -> str:
    """A token has 256 random bits, so one plain hash keeps it secret."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> str:
    return TOKEN_STARTS + secrets.token_urlsafe(32)


def load_tokens(path: Path) -> dict[str, Bearer]:
    """By fingerprint. Raises BadConfig: also when others can change the file, for then anybody could be anyone."""
    try:
        mode = path.stat().st_mode
        document = read(path)
    except BadYaml as error:
        raise BadConfig(path, [f"{path}:{error.line}: {error}"]) from None
    except OSError as error:
        raise BadConfig(path, [f"{path}: {error.strerror}; `tanist token add NAME` makes it"]) from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_IROTH):
        raise BadConfig(path, [f"{path} has mode {stat.S_IMODE(mode):04o}, so others may change or read it; chmod 0640 {path}"])
    try:
        found = TokensFile.model_validate(document.data if document.data is not None else {})
    except ValidationError as error:
        mistakes = []
        for each in error.errors():
            place = tuple(each["loc"])
            line = document.line_of(place)
            message = each["msg"].removeprefix("Value error, ")
            mistakes.append(f"{path}:{line}: {'.'.join(map(str, place))}: read {_short(each['input'])}: {message}")
        raise BadConfig(path, mistakes) from None
    twice = _twice(each.name for each in found.tokens) or _twice(each.sha256 for each in found.tokens)
    if twice:
        raise BadConfig(path, [f"{path}: tokens: {twice!r} stands there twice"])
    return {
        each.sha256: Bearer(
            each.name, each.sha256, MappingProxyType(each.rights), each.expires.timestamp() if each.expires else None
        )
        for each in found.tokens
    }


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "..."


def _twice(values: Iterable[str]) -> str:
    seen: set[str] = set()
    for each in values:
        if each in seen:
            return each
        seen.add(each)
    return ""


def save_tokens(path: Path, bearers: Iterable[Bearer]) -> None:
    """All or nothing: a crash leaves the old file. The owner, group and mode of an older file are kept."""
    names = {right: name for name, right in RIGHTS.items()}
    plain = [
        {
            "name": each.name,
            "sha256": each.fingerprint,
            "rights": {group: names[right] for group, right in each.rights.items()},
            **({"expires": f"{datetime.fromtimestamp(each.expires_wall, UTC):%Y-%m-%dT%H:%M:%SZ}"} if each.expires_wall else {}),
        }
        for each in bearers
    ]
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(HEADER + yaml.safe_dump({"tokens": plain}, sort_keys=False, allow_unicode=True))
        if path.exists():
            old = path.stat()
            os.fchmod(stream.fileno(), stat.S_IMODE(old.st_mode))
            os.fchown(stream.fileno(), old.st_uid, old.st_gid)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)
