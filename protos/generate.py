"""Regenerates protos/gen, protos/ACCESS.md and services/**/enums.py from the protos; `--check` fails when a committed file differs.

python protos/generate.py [--check]
"""

import filecmp
import os
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

import access_page
import enums
from grpc_tools import protoc

ROOT = Path(__file__).parent
GENERATED = ROOT / "gen"
DESCRIPTORS = Path("quanyu", "descriptors.binpb")
ACCESS_PAGE = ROOT / "ACCESS.md"


def generate(into: Path) -> None:
    """Writes the Python modules and their types for every proto below `protos/quanyu` into `into`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "quanyu").rglob("*.proto"))
    arguments = ["protoc", f"-I{ROOT}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    arguments += [f"--{plugin}_out={into}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # Source info stays out of the modules; the gateway reads descriptions from this set beside them.
    arguments += [f"--descriptor_set_out={into / DESCRIPTORS}", "--include_source_info"]
    (into / "quanyu").mkdir(parents=True, exist_ok=True)
    # protoc looks for the mypy plugins on PATH; they stand beside the interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if protoc.main([*arguments, *sources]) != 0:
        sys.exit(1)


def access_text(folder: Path) -> str:
    """The text of ACCESS.md for what was generated into `folder`; exits when an rpc refuses with a reason that no enum has."""
    protos = access_page.Protos(folder / "quanyu" / "descriptors.binpb")
    if unknown := protos.unknown_reasons():
        sys.exit("\n".join(unknown))
    return access_page.page(protos)


def differences(left: Path, right: Path) -> list[str]:
    """The relative paths whose content differs or that stand on one side only."""
    names = {path.relative_to(side) for side in (left, right) for path in side.rglob("*") if path.suffix in {".py", ".pyi", ".binpb"}}
    return sorted(
        str(name)
        for name in names
        if not ((left / name).exists() and (right / name).exists() and filecmp.cmp(left / name, right / name, shallow=False))
    )


def main() -> None:
    if "--check" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder))
            drift = differences(Path(folder), GENERATED) + [str(path) for path in enums.outdated(Path(folder, DESCRIPTORS))]
            if not ACCESS_PAGE.exists() or ACCESS_PAGE.read_text() != access_text(Path(folder)):
                drift.append(ACCESS_PAGE.name)
        if drift:
            sys.exit("These files differ from the protos; run python protos/generate.py:\n  " + "\n  ".join(drift))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        enums.write(enums.outdated(Path(folder, DESCRIPTORS)))
        ACCESS_PAGE.write_text(access_text(Path(folder)))
        for name in differences(Path(folder), GENERATED):
            fresh, kept = Path(folder, name), GENERATED / name
            if fresh.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                # Moved into place whole, so that an import meanwhile reads the old module or the new one.
                shutil.move(fresh, kept.with_suffix(".fresh"))
                kept.with_suffix(".fresh").replace(kept)
            else:
                kept.unlink()


if __name__ == "__main__":
    main()
