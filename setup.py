# pyproject.toml says everything but one thing: where the packages are. `losslab` is the folder of
# that name, and the four folders beside it are its subpackages; they are found by rule, so that a
# new subpackage cannot be missing from the wheel.
from setuptools import find_packages, setup

ROOMS = ("losses", "datasets", "experiments", "analysis")

packages = find_packages(include=["losslab", "losslab.*"])
for room in ROOMS:
    packages.append(f"losslab.{room}")
    packages.extend(f"losslab.{room}.{package}" for package in find_packages(room))

setup(
    packages=packages,
    package_dir={"losslab": "losslab", **{f"losslab.{room}": room for room in ROOMS}},
    package_data={"losslab": ["py.typed"], "": ["**/*.yaml", "**/*.csv", "**/*.jinja", "**/*.css"]},
)
