"""Reading a study file: from YAML and `--set` to a plain dictionary with one spelling."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from losslab.errors import BadInput, UnknownName
from losslab.experiments.schema import ARM_SECTIONS, StudyFile
from losslab.experiments.spaces import set_path
from losslab.registry import nearest

NAMED_SECTIONS = ("dataset", "model", "loss")


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
    try:
        if path.is_file():
            return path
        folder = path.is_dir()
    except OSError as error:
        raise BadInput(f"{source}: cannot be a study file: {error.strerror}") from error
    shipped = shipped_studies()
    if path.suffix in (".yaml", ".yml") or (folder and str(source) not in {"", *shipped}):
        what = "is a folder; give a study file" if folder else "there is no such study file"
        raise BadInput(f"{source}: {what} (shipped studies: {_shipped()})")
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
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadInput(f"{path}{where}: not valid YAML: {problem}") from error
    if content is None:
        raise BadInput(f"{path}: is empty; a study needs at least `dataset` and `arms`")
    if not isinstance(content, dict):
        raise BadInput(f"{path}: must be a mapping of keys, got a {type(content).__name__}")
    return content


def normalise(content: Mapping[str, Any]) -> dict[str, Any]:
    """One spelling for every short form.

    `loss: ce` means `loss: {name: ce}`; `arms: [ce, focal]` means one arm for each loss; an arm
    that is a text names its loss; dotted keys in an arm are paths; a section with nothing in it
    is as if it were not there.

    >>> normalise({"arms": ["ce"], "dataset": "digits"})
    {'arms': {'ce': {'loss': {'name': 'ce'}}}, 'dataset': {'name': 'digits'}}
    """
    result = {
        str(key): value
        for key, value in content.items()
        if value is not None or key not in StudyFile.model_fields
    }
    for section in NAMED_SECTIONS:
        if isinstance(result.get(section), str):
            result[section] = {"name": result[section]}
    arms = result.get("arms")
    names = arms if isinstance(arms, list) else []
    if all(isinstance(arm, str) for arm in names) and len(set(names)) == len(names) > 0:
        arms = dict.fromkeys(names)
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
    # Whole sections first, so that `loss.gamma` adds to `loss` wherever it stands.
    for key, value in sorted(arm.items(), key=lambda item: "." in str(item[0])):
        if key in ARM_SECTIONS and value is None:
            continue
        short = key in NAMED_SECTIONS and isinstance(value, str)
        set_path(result, str(key), {"name": value} if short else value)
    return result


def _shipped() -> str:
    return ", ".join(shipped_studies())


class _Loader(yaml.SafeLoader):
    """YAML as people write it.

    Keys are texts, exactly as written (an arm may be called `on` or `0.10`), and one that stands
    twice is a mistake; 1e-3 is a number; dates are texts.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        node: Any = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent) and node.end_mark is None:
            mark: Any = event.start_mark
            raise yaml.composer.ComposerError(
                None, None, f"*{event.anchor} stands inside what it stands for", mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in entries if not tag.endswith(":timestamp")]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1 reads 1e-3 as text, which surprises everybody who writes a learning rate.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
