"""What there is: the commands, and the configurations and the notebook that come with the package.

python -m xkd_keras
"""

import ast
from pathlib import Path

from xkd_keras.flags import flagfiles

COMMANDS = ("train", "evaluate", "study", "export", "compress")


def main() -> None:
    """Print every command and every configuration with a line about each, and the notebook."""
    print("commands; --help explains the flags of each:")
    for name in COMMANDS:
        print(f"  python -m xkd_keras.{name:<10}{_about(name)}")
    print("\nconfigurations, for --flagfile=NAME; those under study/ are for xkd_keras.study:")
    known = flagfiles.packaged()
    width = max(map(len, known), default=0)
    for name, path in known.items():
        print(f"  {name:<{width}}  {flagfiles.about(path)}")
    notebook = Path(__file__).with_name("photos.ipynb")
    print(f"\na notebook to copy, from a folder of images to a classified photo:\n{notebook}")


def _about(command: str) -> str:
    """Return the first line about a command, without importing what it needs."""
    place = Path(__file__).with_name(command)
    source = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))).partition("\n")[0]


if __name__ == "__main__":
    main()
