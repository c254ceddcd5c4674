import subprocess
import sys

import pytest
from hypothesis import given, strategies as st
from sqlalchemy.engine import URL

from castling.errors import ConfigError
from reports.database import (
    PASSWORD_VARIABLES,
    VARIABLE,
    complete_url,
    parse_url,
    password_hint,
    passwords_hidden,
    public_url,
    scrubbed,
    without_passwords,
)


PUBLIC = "postgresql://nas@host:5432/studies"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///study.db",
        "sqlite:////tmp/pass=word/study.db",
        "sqlite:///file:study.db?mode=ro&uri=true",
        PUBLIC,
        "postgresql+psycopg://host/studies?sslmode=verify-full&passfile=%2Fhome%2Fme%2F.pgpass",
        "postgresql:///studies?host=a:1&host=b:2",
        "mysql+pymysql://nas@[::1]/studies?charset=utf8mb4",
    ],
)
def test_a_url_without_password_stays_as_it_is(url: str) -> None:
    assert public_url(url) == url
    assert complete_url(url) == url
    assert without_passwords(["search", "--storage", url]) == (["search", "--storage", url], None)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql://nas:hunter2@host:5432/studies", PUBLIC),
        ("postgresql://nas:hunter%40%2F2@host:5432/studies", PUBLIC),
        ("postgresql://:hunter2@host/studies", "postgresql://host/studies"),
        ("postgresql://nas@host:5432/studies?password=hunter2", PUBLIC),
        ("postgresql://nas:hunter2@host:5432/studies?password=hunter2", PUBLIC),
        (
            "postgresql://host/studies?sslmode=require&sslpassword=hunter2&PASSWORD=hunter2",
            "postgresql://host/studies?sslmode=require",
        ),
        ("mysql://nas@host/studies?passwd=hunter2", "mysql://nas@host/studies"),
        ("mysql://nas@host/studies?passwd=hunter2&passwd=hunter2", "mysql://nas@host/studies"),
        ("mssql+pyodbc:///?odbc_connect=SERVER%3Da%3BPWD%3Dhunter2", "mssql+pyodbc:///"),
        ("cockroachdb://host/studies?access_token=hunter2", "cockroachdb://host/studies"),
        ("sqlite+pysqlcipher://:hunter2@/study.db", "sqlite+pysqlcipher:///study.db"),
    ],
)
def test_a_password_is_left_out(url: str, public: str) -> None:
    assert public_url(url) == public
    password = "hunter@/2" if "%2F" in url else "hunter2"
    if "odbc" not in url:  # whose whole value is the secret
        assert "hunter" not in scrubbed(f"cannot open {url} with {password}\n{password}", url)
    assert complete_url(public, url) == url
    assert complete_url(url) == url  # as older runs have it
    for before, after in (
        (["x", "--storage", url, "--resume"], ["x", "--storage", public, "--resume"]),
        (["x", f"--storage={url}"], ["x", f"--storage={public}"]),
    ):
        assert without_passwords(before) == (after, url)
        assert without_passwords(after) == (after, None)


@given(
    password=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1),
    in_query=st.booleans(),
)
def test_whatever_a_password_is_it_is_left_out(password: str, in_query: bool) -> None:
    places = {"query": {"password": password}} if in_query else {"password": password}
    url = URL.create("postgresql", "nas", host="host", port=5432, database="studies", **places)
    assert public_url(url.render_as_string(hide_password=False)) == PUBLIC


@pytest.mark.parametrize(
    "text",
    [
        "", "hunter2", "nas:hunter2", "hunter2@host/studies", "postgresql://nas:hunter2",
        "postgresql://host:hunter2/studies", "postgresql://nas:a@hunter2@host/studies",
        "jdbc:postgresql://nas:hunter2@host/studies", "//nas:hunter2@host",
        "postgresql:///dbname=x password=hunter2", "postgresql://host/a?options=password%3Dhunter2",
        "mssql+pyodbc:///?dsn=SERVER%3Da%3BPWD%3Dhunter2", "postgresql://password=hunter2/a",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_repeating_it(text: str) -> None:
    for refusing in (public_url, parse_url, complete_url):
        with pytest.raises(ConfigError, match=r"^storage: must (be|have|hold)") as caught:
            refusing(text)
        assert "hunter2" not in str(caught.value)


def test_the_environment_completes_the_url_of_its_own_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = "postgresql://nas:hunter2@host:5432/studies"
    monkeypatch.setenv(VARIABLE, known)
    assert complete_url(PUBLIC) == known
    assert complete_url(PUBLIC, PUBLIC) == known
    other = "postgresql://nas:other@host:5432/studies"
    assert complete_url(PUBLIC, other) == other  # the command line is nearer
    for url in ("postgresql://nas@elsewhere:5432/studies", "postgresql://nas@host/studies"):
        assert complete_url(url) == url  # no password goes to another database
    monkeypatch.setenv(VARIABLE, "nas:hunter2")
    with pytest.raises(ConfigError, match=f"^{VARIABLE}: must be the URL") as caught:
        complete_url(PUBLIC)
    assert "hunter2" not in str(caught.value)


def test_another_database_than_the_runs_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be the run's own database") as caught:
        complete_url(PUBLIC, "postgresql://nas:hunter2@elsewhere/studies")
    assert "hunter2" not in str(caught.value)


def test_a_hint_names_what_the_database_takes() -> None:
    for name in (VARIABLE, "PGPASSWORD", "PGPASSFILE"):
        assert name in password_hint(PUBLIC)
    assert VARIABLE in password_hint("mysql://host/studies")
    assert "PG" not in password_hint("mysql://host/studies")
    for url in ("sqlite:///study.db", "postgresql://nas:hunter2@host/studies"):
        assert not password_hint(url)


def test_what_is_started_sees_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PASSWORD_VARIABLES:
        monkeypatch.setenv(name, "hunter2")

    def seen() -> int:
        return subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.count(
            "hunter2"
        )

    with passwords_hidden():
        assert seen() == 0
    assert seen() == len(PASSWORD_VARIABLES)


def test_a_command_goes_on_without_the_password_in_its_arguments() -> None:
    url = "postgresql://nas:hunter2@host:5432/studies"
    program = (
        "from pathlib import Path; import os, search.cli as cli\n"
        "cli.app = lambda: print(Path('/proc/self/cmdline').read_text().split(chr(0))[3:], "
        f"os.getpid(), os.environ['{VARIABLE}'])\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", program, "search", "smoke", "--storage", url, "--trials", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        out = process.communicate()[0]
    arguments = ["search", "smoke", "--storage", PUBLIC, "--trials", "1", ""]
    assert out == f"{arguments} {process.pid} {url}\n"
