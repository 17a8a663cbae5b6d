"""Deployment files: docker-compose.yml and k8s/ name only existing settings, modules, files and secrets, with readable values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from msgspec.structs import replace

from gateway.auth.bearer_tokens import TokenVerifier
from gateway.auth.oidc import load_providers
from gateway.limits.client_address import ClientAddresses
from services.kit import settings as kit_settings
from services.kit.errors import Denied
from services.kit.security.principals import Grant, Principal, Signer, Verifier
from services.local.cli import main
from services.local.keys import SERVICES, new_keys
from services.local.token import bearer

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
PROCESSES = {**{name: f"services.{name}" for name in SERVICES}, "gateway": "gateway"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def env_file(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Returns what `quanyu keys --production` writes, by process."""
    out = tmp_path_factory.mktemp("keys") / "out"
    assert CliRunner().invoke(main, ["keys", str(out), "--production"]).exit_code == 0
    return {name: env_file((out / f"{name}.env").read_text()) for name in PROCESSES}


def test_compose_gives_each_process_readable_settings(keys: dict[str, dict[str, str]]) -> None:
    (compose,) = documents(ROOT / "docker-compose.yml")
    assert compose["services"].keys() == {*PROCESSES, "mongo"}
    for name, module in PROCESSES.items():
        process = compose["services"][name]
        assert process["command"] == ["python", "-m", module]
        assert process["env_file"] == f".quanyu/env/{name}.env"
        settings = kit_settings.load(process["environment"] | keys[name])
        listens = settings.gateway_listen if name == "gateway" else settings.listen
        assert process["healthcheck"]["test"][-1].split(":")[1] == listens.split(":")[1]
        for peer in SERVICES:
            address = getattr(settings, f"{peer}_address")
            assert address == f"{peer}:{compose['services'][peer]['environment']['QUANYU_LISTEN'].split(':')[1]}"


def containers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])


def test_kubernetes_gives_each_process_readable_settings(keys: dict[str, dict[str, str]]) -> None:
    shared = env_file((K8S / "base" / "settings.env").read_text())
    (every_service,) = documents(K8S / "base" / "every-service.yaml")
    listen = {each["name"]: each["value"] for each in next(containers(every_service))["env"]}
    mongo = {"QUANYU_MONGO_URI": "mongodb+srv://quanyu:secret@cluster.example.org/"}
    for name, module in PROCESSES.items():
        deployment = next(each for each in documents(K8S / "base" / f"{name}.yaml") if each["kind"] == "Deployment")
        (container,) = containers(deployment)
        assert container["args"] == ["python", "-m", module]
        sources = [next(iter(source.values()))["name"] for source in container["envFrom"]]
        assert sources == ["settings", *(["mongo"] if name in SERVICES else []), f"keys-{name}"]
        settings = kit_settings.load(shared | keys[name] | ((listen | mongo) if name in SERVICES else {}))
        assert settings.env == "production"
        for peer in SERVICES:
            assert getattr(settings, f"{peer}_address") == f"{peer}:{listen['QUANYU_LISTEN'].split(':')[1]}"


def test_replicas_are_spread_by_existing_pod_labels() -> None:
    """A selector that matches no pod label would spread nothing without an error."""
    (kustomization,) = documents(K8S / "base" / "kustomization.yaml")
    given = {key: value for each in kustomization["labels"] if each.get("includeTemplates") for key, value in each["pairs"].items()}
    (every_process,) = documents(K8S / "base" / "every-process.yaml")
    (spread,) = every_process["spec"]["template"]["spec"]["topologySpreadConstraints"]
    for name in PROCESSES:
        deployment = next(each for each in documents(K8S / "base" / f"{name}.yaml") if each["kind"] == "Deployment")
        labels = given | deployment["spec"]["template"]["metadata"]["labels"]
        assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
        assert {*spread["matchLabelKeys"]} <= labels.keys()


def test_production_overlay_has_readable_operator_settings() -> None:
    (production,) = documents(K8S / "overlays" / "production" / "kustomization.yaml")
    (image,) = production["images"]
    assert image["name"] == "quanyu" and "/" in image["newName"] and image["newTag"] != "latest"
    (settings,) = production["configMapGenerator"]
    given = kit_settings.load(dict(literal.split("=", 1) for literal in settings["literals"]) | {"QUANYU_ENV": "production"})
    assert [provider.audience for provider in load_providers(given)] == ["quanyu"]
    ClientAddresses(given)


@pytest.mark.parametrize("kustomization", sorted(K8S.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_kustomization_names_existing_files(kustomization: Path) -> None:
    (document,) = documents(kustomization)
    named = [*document.get("resources", []), *(patch["path"] for patch in document.get("patches", []) if "path" in patch)]
    assert [name for name in named if not (kustomization.parent / name).exists()] == []
    literals = dict(literal.split("=", 1) for each in document.get("configMapGenerator", []) for literal in each.get("literals", []))
    kit_settings.load(literals)
    secrets = {each["name"]: each for each in document.get("secretGenerator", [])}
    if secrets:
        assert secrets.keys() == {"mongo", *(f"keys-{name}" for name in PROCESSES)}
        kit_settings.load(dict(literal.split("=", 1) for literal in secrets["mongo"]["literals"]))


def test_production_keys_exclude_local_issuer(keys: dict[str, dict[str, str]]) -> None:
    read = {name: kit_settings.load(values) for name, values in keys.items()}
    guide = Principal("stf_1", (Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"),))
    token = Signer("gateway", read["gateway"].signing_key).sign("commerce", guide)
    assert Verifier("commerce", read["commerce"].issuers, development=False).verify(token) == replace(guide, issuer="gateway")
    assert '"local"' not in read["member"].issuers
    assert "QUANYU_TOKEN_KEYS" not in keys["gateway"] and "QUANYU_SECRET_KEYS" not in keys["gateway"]
    assert len({each.secret_keys for name, each in read.items() if name in SERVICES}) == 1


async def test_production_gateway_refuses_local_token(keys: dict[str, dict[str, str]]) -> None:
    tokens = TokenVerifier(kit_settings.load(keys["gateway"] | {"QUANYU_ENV": "production"}))
    with pytest.raises(Denied, match="not valid"):
        await tokens.verify(bearer(new_keys().tokens, "operator"))


def test_keys_command_keeps_existing_files(tmp_path: Path) -> None:
    first = CliRunner().invoke(main, ["keys", str(tmp_path / "out"), "--data", str(tmp_path / "data")])
    written = (tmp_path / "out" / "member.env").read_text()
    again = CliRunner().invoke(main, ["keys", str(tmp_path / "out"), "--data", str(tmp_path / "data")])
    assert first.exit_code == 0 and again.exit_code == 2 and "member.env exists" in again.stderr
    assert (tmp_path / "out" / "member.env").read_text() == written
