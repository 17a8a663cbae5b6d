"""Generator of protos/gen, protos/ACCESS.md and services/**/enums.py from the protos. `--check` fails when a committed file differs.

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
    # The generated modules contain no comments. The gateway reads them, its descriptions, from this set.
    arguments += [f"--descriptor_set_out={into / DESCRIPTORS}", "--include_source_info"]
    (into / "quanyu").mkdir(parents=True, exist_ok=True)
    # protoc searches PATH for the mypy plugins, which are in the folder of the interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if protoc.main([*arguments, *sources]) != 0:
        sys.exit(1)


def render_access_page(folder: Path) -> str:
    """Returns the text of ACCESS.md for the protos generated into `folder`; exits when an rpc declares an unknown reason."""
    protos = access_page.Protos(folder / "quanyu" / "descriptors.binpb")
    if unknown := protos.find_unknown_reasons():
        sys.exit("\n".join(unknown))
    return access_page.render_page(protos)


def find_differences(left: Path, right: Path) -> list[str]:
    """Returns the relative paths of files that differ or exist in one folder only."""
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
            drift = find_differences(Path(folder), GENERATED) + [str(path) for path in enums.outdated(Path(folder, DESCRIPTORS))]
            if not ACCESS_PAGE.exists() or ACCESS_PAGE.read_text() != render_access_page(Path(folder)):
                drift.append(ACCESS_PAGE.name)
        if drift:
            sys.exit("These files are outdated. Run `python protos/generate.py`:\n  " + "\n  ".join(drift))
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        enums.write(enums.outdated(Path(folder, DESCRIPTORS)))
        ACCESS_PAGE.write_text(render_access_page(Path(folder)))
        for name in find_differences(Path(folder), GENERATED):
            fresh, kept = Path(folder, name), GENERATED / name
            if fresh.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                # The replacement is atomic: a concurrent import reads the old or the new module.
                shutil.move(fresh, kept.with_suffix(".fresh"))
                kept.with_suffix(".fresh").replace(kept)
            else:
                kept.unlink()


if __name__ == "__main__":
    main()
