"""What every scenario can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

RUN = Group("The run")
Flag = Parameter(negative=())


@Parameter(name="*", group=RUN)
@dataclass(frozen=True)
class Common:
    """Where it takes place, how long it may take, and what comes out."""

    uri: Annotated[
        str | None, Parameter(help="The server to measure on; default: an embedded one, started for the run.")
    ] = None
    nodes: Annotated[int, Parameter(help="Nodes of the embedded server, all on this machine.")] = 1
    i_own_this_server: Annotated[
        bool, Parameter(negative=(), help="Measure on a server that is not on this machine.")
    ] = False
    duration: Annotated[
        float | None, Parameter(help="Seconds after which the run has ended, whatever is left undone.")
    ] = None
    json: Annotated[bool, Parameter(negative=(), help="One line of JSON on stdout, the rest on stderr.")] = False
    svg: Annotated[Path | None, Parameter(help="Write the plot there.")] = None
    png: Annotated[Path | None, Parameter(help="Write the plot there.")] = None


COMMON = Common()
