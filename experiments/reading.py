"""Reading a study file: from YAML and `--set` to a plain dictionary with one spelling."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from losslab.errors import BadInput, UnknownName
from losslab.experiments.schema import ARM_SECTIONS
from losslab.experiments.spaces import set_path
from losslab.registry import nearest


def shipped_studies() -> dict[str, Path]:
    """The studies that come with losslab, by name."""
    folder = Path(str(resources.files("losslab.experiments") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def summary_of(path: Path) -> str:
    """The first paragraph of a study file's comment, which says what question it answers."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or (lines and line.strip() == "#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines).strip()


def find_study(source: str | Path) -> Path:
    """The file that a STUDY argument means: a path, or the name of a shipped study."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.exists():
        if not path.is_file():
            raise BadInput(f"{source}: there is no such study file (shipped: {_shipped()})")
        return path
    shipped = shipped_studies()
    if str(source) not in shipped:
        hint = nearest(str(source), shipped)
        raise UnknownName(
            f"unknown study {str(source)!r}{hint} (shipped: {_shipped()}; or give a path to a "
            f".yaml file)"
        )
    return shipped[str(source)]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `BadInput` says the line of a syntax error."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInput(
            f"{path}{where}: not valid YAML: {getattr(error, 'problem', error)}"
        ) from error
    if content is None:
        raise BadInput(f"{path}: is empty; a study needs at least `dataset` and `arms`")
    if not isinstance(content, dict):
        raise BadInput(f"{path}: must be a mapping of keys, got a {type(content).__name__}")
    return content


def normalise(content: Mapping[str, Any]) -> dict[str, Any]:
    """One spelling for every short form.

    `loss: ce` means `loss: {name: ce}`; `arms: [ce, focal]` means one arm for each loss; an arm
    that is a text names its loss; dotted keys in an arm are paths.

    >>> normalise({"arms": ["ce"], "dataset": "digits"})
    {'arms': {'ce': {'loss': {'name': 'ce'}}}, 'dataset': {'name': 'digits'}}
    """
    result = {str(key): value for key, value in content.items()}
    for section in ("dataset", "model", "loss"):
        if isinstance(result.get(section), str):
            result[section] = {"name": result[section]}
    arms = result.get("arms")
    if isinstance(arms, list) and all(isinstance(arm, str) for arm in arms):
        arms = dict.fromkeys(arms)
        if len(arms) < len(content["arms"]):
            raise BadInput("arms: the same name stands twice in the list")
    if isinstance(arms, dict):
        result["arms"] = {str(name): _arm(str(name), arm) for name, arm in arms.items()}
    return result


def apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `path=value` texts; the value is read as YAML.

    >>> c = {}; apply_overrides(c, ["search.trials=8", "dataset.name=digits"]); c
    {'search': {'trials': 8}, 'dataset': {'name': 'digits'}}
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not path.strip() or not all(path.split(".")):
            raise BadInput(f"--set {text}: write path=value, such as search.trials=8")
        try:
            set_path(content, path.strip(), yaml.load(value, Loader=_Loader))
        except yaml.YAMLError as error:
            raise BadInput(f"--set {text}: the value is not valid YAML") from error


def _arm(name: str, arm: Any) -> Any:
    if arm is None or isinstance(arm, str):
        return {"loss": {"name": arm or name}}
    if not isinstance(arm, Mapping):
        return arm  # the schema says what is wrong with it
    result: dict[str, Any] = {}
    for key, value in arm.items():
        short = key in ARM_SECTIONS and isinstance(value, str)
        set_path(result, str(key), {"name": value} if short else value)
    return result


def _shipped() -> str:
    return ", ".join(shipped_studies())


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number, and a key that stands twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key if isinstance(key, str | int | float) else None)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text, which surprises everybody who writes a learning rate.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
