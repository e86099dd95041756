import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

# On PyPI, the README's links and pictures need full addresses: those of the repository, which setup.cfg names.
config = ConfigParser()
config.read("setup.cfg", encoding="utf-8")
url = config["metadata"]["url"]
readme = Path("README.md").read_text("utf-8")
readme = re.sub(r"\]\((?=[\w./-]+[)#])", f"]({url}/blob/main/", readme)
readme = re.sub(r'(?<=src=")(?=docs/)|(?<=srcset=")(?=docs/)', f"{url}/raw/main/", readme)

setup(long_description=readme)
