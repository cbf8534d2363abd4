"""A member's own configuration: found wherever the server would read it, and put back as it was."""

from pathlib import Path

import pytest

from orchestrator.services.postgresql import ownfiles
from orchestrator.services.postgresql.files import DataDirectory
from orchestrator.services.postgresql.settings import ControlKind, PostgresqlSettings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = tmp_path / "main"
    made.mkdir(mode=0o700)
    return made


def settings(data: Path, **changes: object) -> PostgresqlSettings:
    return PostgresqlSettings(name="db1", host="10.0.0.1", port=5432, data_directory=data, **changes)  # type: ignore[arg-type]


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_included_and_named_files_in_the_data_directory_are_its_own(data: Path, tmp_path: Path):
    write(
        data / "postgresql.conf", "include_dir 'conf.d'\ninclude_if_exists = none.conf\nhba_file='who.conf'\ninclude '/nowhere'\n"
    )
    write(data / "conf.d" / "ssl.conf", "SSL_Key_File = 'server.key'  # secret\ninclude 'deep/more.inc'\n")
    write(data / "conf.d" / "notes.txt")
    write(data / "conf.d" / "deep" / "more.inc", "include 'more.inc'\n")
    for name in ("who.conf", "server.key", "PG_VERSION", "unused.conf", "old.crt", "notes"):
        write(data / name)
    found = {str(path.relative_to(data)) for path in ownfiles.find(data, data / "postgresql.conf")}
    named = {"postgresql.conf", "conf.d/ssl.conf", "conf.d/deep/more.inc", "who.conf", "server.key"}
    assert found == named | {"unused.conf", "old.crt"}, "what looks like a member's own stays, though nobody names it now"


def test_what_lies_elsewhere_is_nobodys_to_overwrite(data: Path, tmp_path: Path):
    place = tmp_path / "etc"
    conf = write(
        place / "postgresql.conf", f"include_dir 'conf.d'\nhba_file = '{place}/pg_hba.conf'\nssl_cert_file = 'server.crt'\n"
    )
    write(place / "pg_hba.conf")
    write(place / "conf.d" / "a.conf")
    write(data / "postgresql.auto.conf")
    write(data / "server.crt")
    assert ownfiles.find(data, conf) == {data / "postgresql.auto.conf", data / "server.crt"}


def test_own_files_are_put_back_as_they_were_links_too(data: Path, tmp_path: Path):
    elsewhere = write(tmp_path / "etc" / "postgresql.conf", "include_dir 'conf.d'\nident_file = 'map'\n")
    (data / "postgresql.conf").symlink_to(elsewhere)
    write(data / "map").write_bytes(b"latin \xe4\n")
    write(data / "pg_hba.conf", "own\n")
    files = DataDirectory(settings(data))
    own = files.own_files()
    (data / "postgresql.conf").unlink()
    write(data / "postgresql.conf", "the source's\n")
    write(data / "pg_hba.conf", "the source's\n")
    (data / "map").unlink()
    files.put_back(own)
    assert (data / "postgresql.conf").readlink() == elsewhere
    assert (data / "map").read_bytes() == b"latin \xe4\n"
    assert (data / "pg_hba.conf").read_text() == "own\n"
    assert elsewhere.read_text().startswith("include_dir")


def test_a_directory_that_a_copy_did_not_bring_is_made_for_an_own_file(data: Path):
    write(data / "postgresql.conf", "include 'conf.d/x.conf'\n")
    write(data / "conf.d" / "x.conf", "work_mem = 4MB\n")
    files = DataDirectory(settings(data))
    own = files.own_files()
    (data / "conf.d" / "x.conf").unlink()
    (data / "conf.d").rmdir()
    files.put_back(own)
    assert (data / "conf.d" / "x.conf").read_text() == "work_mem = 4MB\n"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, None),
        ({"control": ControlKind.CLUSTER, "cluster": "15/main"}, "/etc/postgresql/15/main"),
        ({"control": ControlKind.SYSTEMD, "unit": "postgresql@16-shop.service"}, "/etc/postgresql/16/shop"),
        ({"control": ControlKind.SYSTEMD, "unit": "postgresql-15.service"}, None),
        ({"config_file": Path("/srv/own.conf")}, "/srv"),
    ],
)
def test_where_the_configuration_lies_follows_from_who_starts_it(data: Path, changes: dict[str, object], place: str | None):
    made = settings(data, **changes)
    assert made.configuration.parent == (Path(place) if place else data)
    assert ("-c" in made.options) == (place is not None)
