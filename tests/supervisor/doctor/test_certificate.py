"""Certificates, as a client sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from resonate.supervisor.doctor.certificate import certificate

from resonate.settings import AppOptions, Tls
from tests.supervisor.doctor.cases import NOW, case, levels, machine, only

TODAY = datetime.fromtimestamp(NOW, UTC)
ALWAYS = TODAY - timedelta(days=365)


def issued(folder: Path, *names: str, days: float = 90, begins: datetime = ALWAYS) -> Tls:
    """One that ends so many days from the day that it is in these tests."""
    cert = trustme.CA().issue_cert(*names, not_before=begins, not_after=TODAY + timedelta(days=days))
    cert.private_key_pem.write_to_path(folder / "key.pem")
    for index, blob in enumerate(cert.cert_chain_pems):
        blob.write_to_path(folder / "cert.pem", append=index > 0)
    return Tls(local_cert=str(folder / "cert.pem"), local_pk=str(folder / "key.pem"))


def found(folder: Path, tls: Tls | None, **more: object) -> list[str]:
    """But for its authority, which is unknown to this machine."""
    findings = list(certificate(case(machine(folder), tls=tls, **more)))
    if findings[-1].what.startswith("this machine does not trust"):
        del findings[-1]
    return [f"{level}: {finding.what}" for level, finding in zip(levels(findings), findings, strict=True)]


def test_none(tmp_path: Path) -> None:
    assert levels(certificate(case(machine(tmp_path), tls=None))) == ["note"]


def test_a_good_one(tmp_path: Path) -> None:
    assert found(tmp_path, issued(tmp_path, "ws.example.com")) == [
        "ok: the certificate is good for 90 days, and the key is its own"
    ]


@pytest.mark.parametrize(
    ("days", "said"),
    [(20, "ok: the certificate is good for 20 days"), (10, "warning: the certificate expires in 10 days")],
)
def test_its_end_comes(tmp_path: Path, days: int, said: str) -> None:
    assert found(tmp_path, issued(tmp_path, "ws.example.com", days=days))[0].startswith(said)


def test_it_has_expired(tmp_path: Path) -> None:
    (said,) = found(tmp_path, issued(tmp_path, "ws.example.com", days=-1))
    assert said.startswith("problem: the certificate has expired: Dec 31 ")


def test_it_has_not_begun(tmp_path: Path) -> None:
    (said,) = found(tmp_path, issued(tmp_path, "ws.example.com", begins=TODAY + timedelta(days=1)))
    assert said.startswith("problem: the certificate begins in the future: Jan  2 ")


def test_its_names(tmp_path: Path) -> None:
    tls = issued(tmp_path, "*.example.com")
    assert found(tmp_path, tls, hostname="ws.example.com")[1:] == ["ok: the certificate is for ws.example.com"]
    (said,) = found(tmp_path, tls, hostname="ws.example.org")[1:]
    assert said.startswith("problem: the certificate is not for ws.example.org: ")
    assert "ostname mismatch" in said


def test_the_public_name_is_a_proxys_unless_the_port_is_ours(tmp_path: Path) -> None:
    tls = issued(tmp_path, "inner.example.com")
    for port, count in ((443, 1), (8443, 2)):
        options = AppOptions(host="ws.example.com", port=port)
        findings = list(certificate(case(machine(tmp_path), {"options": options}, tls=tls, port=8443)))
        assert len(findings) == count + 1  # its authority is unknown to this machine


def test_nobody_knows_its_authority(tmp_path: Path) -> None:
    findings = list(certificate(case(machine(tmp_path), tls=issued(tmp_path, "ws.example.com"))))
    assert levels(findings) == ["ok", "warning"]
    assert "local issuer" in findings[1].what


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    tls = issued(tmp_path, "ws.example.com")
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(tmp_path / "key.pem")
    assert only(certificate(case(machine(tmp_path), tls=tls))).level.value == "problem"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    tls = Tls(local_cert=str(tmp_path / "no.pem"), passphrase="hunter2")
    finding = only(certificate(case(machine(tmp_path), tls=tls)))
    assert (finding.level.value, "no such file" in finding.what) == ("problem", True)
